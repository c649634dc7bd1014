"""A person at a terminal: what every command takes, progress on stderr, an error as what, where and what to do."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    import numpy as np

    from hydroda.settings import Settings
    from hydroda.storage.record_files import Counts

PROBLEM, USAGE, CONFIGURATION, BUSY, INTERRUPTED = 1, 2, 3, 4, 130  # exit codes besides 0
SAID = (OSError, ValueError, LookupError, RuntimeError)  # what our own code raises, with a message for people


class UsageError(ValueError):
    """An argument that cannot be meant."""


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """What every command takes."""

    config: Annotated[Path | None, Parameter(help="Settings file. [default: hydroda.toml, here or above]")] = None
    debug: Annotated[bool, Parameter(help="Show where an error happened, and log more.")] = False

    @property
    def file(self) -> Path:
        """The settings file: the one given, else the nearest hydroda.toml in this folder or above."""
        if self.config:
            return self.config
        files = [folder / "hydroda.toml" for folder in (Path.cwd(), *Path.cwd().parents)]
        return next((file for file in files if file.is_file()), files[0])

    @property
    def settings(self) -> "Settings":
        """The settings. Raises SettingsError."""
        from hydroda.settings_file import load

        return load(self.file)


COMMON = Common()


def utc(text: str) -> "np.datetime64":
    """A time on the command line. Raises UsageError."""
    from hydroda.units import parse_utc

    try:
        return parse_utc(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def period(start: str, end: str) -> "tuple[np.datetime64, np.datetime64]":
    """First and last hour of a period on the command line. Raises UsageError."""
    from hydroda.units import check_period

    first, last = utc(start), utc(end)
    try:
        check_period(first, last, (start, end))
    except ValueError as error:
        raise UsageError(str(error)) from None
    return first, last


def full_hour(text: str) -> "np.datetime64":
    """A full hour on the command line. Raises UsageError."""
    return period(text, text)[0]


def counted(counts: "Counts") -> str:
    """What became of records, in words: `70128 received, 70120 new, 8 duplicate`, then a line for each problem."""
    numbers = [f"{n} {name}" for name, n in asdict(counts).items() if name != "problems" and n]
    return "\n  ".join((", ".join(numbers) or "nothing new", *counts.problems))


@contextmanager
def progress(title: str) -> Iterator[Callable[[float, str], None]]:
    """A callback (fraction done 0…1, text): a bar on a terminal, elsewhere a line for every tenth."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=1.0)
            yield lambda fraction, text: bar.update(task, completed=fraction, description=f"{title}: {text}")
        return
    tenths = 0

    def line(fraction: float, text: str) -> None:
        nonlocal tenths
        if int(10 * fraction) > tenths:
            tenths = int(10 * fraction)
            print(f"{title}: {tenths}0 % {text}", file=sys.stderr, flush=True)

    yield line


def explain(error: Exception) -> tuple[int, str]:
    """(exit code, text) for an error that ends a command."""
    from hydroda.settings_file import SettingsError
    from hydroda.storage.lock import Busy

    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, UsageError):
        return USAGE, f"{text}\nHow it is used: hydroda COMMAND --help"
    if isinstance(error, Busy):
        return BUSY, f"{text}\nAnother run is writing; this one did nothing. Try again when it is done."
    if isinstance(error, SettingsError):
        return CONFIGURATION, f"{text}\nNothing was touched. Correct the file, then: hydroda check"
    if isinstance(error, SAID):
        return PROBLEM, text or type(error).__name__
    return PROBLEM, f"unexpected {type(error).__name__}: {text}\nThis is a defect: --debug shows where it happened."
