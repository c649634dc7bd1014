"""A folder into which somebody puts files: which are new, which are still growing, which are finished, which failed.

What was read is remembered in a small file in the folder, but only after `taken`: call it when the records are in the
store. Without it everything is read again, which is slower and changes nothing. A row that does not say when it became
known became known when its file came (`arrival`): what lies there at the cut-off of a cycle is read seconds after it
and counts. Nothing is ever deleted: an unusable
file goes to `failed/` with a `.why` beside it, one with a `<file>.done` marker goes to `done/` once it was taken.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from hydroda.sources.intake import Refused
from hydroda.storage import files, records
from hydroda.storage.records import Gauge
from hydroda.units import iso, utc_now

log = logging.getLogger(__name__)
SETTLED_SECONDS = 60.0  # a file that did not change for so long is complete
TRIES = 3  # reads of an unusable file, unchanged between them, before it is moved to failed/
MAX_BYTES = 256 << 20
LOOKED = ".looked"  # in the memory, the time of the last look at the folder; no file that is read begins with a dot


@dataclass(frozen=True)
class Seen:
    """What is remembered of a file."""

    size: int
    changed: int  # ns
    finished: bool = False  # all of it was taken
    tries: int = 0
    stations: tuple[str, ...] = ()
    came: str = ""  # when it came as it is, once that is settled

    def same(self, other: "Seen") -> bool:
        """Whether the file is as it was."""
        return (self.size, self.changed) == (other.size, other.changed)


Reader = Callable[[Path, bytes, np.datetime64], xr.Dataset]  # of a file, what is in it, and when it came


def read_new(
    folder: Path,
    suffixes: tuple[str, ...],
    content: str,
    gauges: Sequence[Gauge],
    reader: Reader,
    moment: np.datetime64,
    whole_lines: bool,
) -> xr.Dataset:
    """The records of `content` ("observations", "forecasts") in all files that changed since they were taken, at the
    time `moment` of this reading.

    `reader` makes records of a file and raises Refused. With `whole_lines` the unfinished last line
    of a file that is still growing waits for the next time. Raises FileNotFoundError where there is no folder.
    """
    if content not in records.KINDS:
        raise ValueError(f"content is {content!r}, expected {' or '.join(map(repr, records.KINDS))}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; create it, or correct `folder` in the settings")
    memory, looked = _recall(folder, content)
    stations = tuple(sorted(gauge.id for gauge in gauges))
    parts, notes, taken = [], [], {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.endswith(suffixes) or not path.is_file():
            continue
        now, before = _now(path), memory.get(path.name)
        if before is not None and not now.same(before):
            before = None
        came = arrival(now.changed, looked, moment)
        if before is not None and before.came:  # it may be read again, as for a station that is new
            came = np.datetime64(before.came, "ns")
        now = replace(now, stations=stations, came=np.datetime_as_string(came, unit="s"))
        if before is not None and before.stations != stations:
            before = None
        marked = _marker(path).exists()
        if before is not None and before.finished and not marked:
            continue
        settled = marked or abs(time.time() - 1e-9 * now.changed) > SETTLED_SECONDS
        try:
            data, whole = _read(path, now.size, settled or not whole_lines)
            part = reader(path, data, came)
        except (Refused, OSError) as error:
            tries = (before.tries if before else 0) + settled
            notes.append(_failed(path, str(error), tries, settled))
            log.warning(notes[-1])
            memory[path.name] = replace(now, tries=tries)
            continue
        if part.attrs["kind"] != content:
            memory[path.name] = replace(now, finished=settled)
            continue
        parts.append(part.assign_attrs(arrived=came))
        finished = settled and whole and not part.attrs.get("rejected", 0)
        taken[path.name] = replace(now, finished=finished)
    _remember(folder, content, memory, looked)
    joined = records.join(parts, content)
    notes = [*joined.attrs.get("notes", ()), *notes]
    return joined.assign_attrs(notes=tuple(notes), folder=folder, taken=taken, read_at=moment)


def refused(folder: Path) -> list[Path]:
    """Files that could not be read the last time, and those that were moved away for it."""
    waiting = {name for content in records.KINDS for name, seen in _recall(folder, content)[0].items() if seen.tries}
    away = [path for path in (folder / "failed").glob("*") if path.suffix != ".why"]
    return sorted(path for path in (*(folder / name for name in waiting), *away) if path.exists())


def taken(stored: xr.Dataset) -> None:
    """To be called with the records of a drop folder when the store has them: their files need not be read again.

    Records of other sources are none of its business. A folder that cannot be written costs reading again, no more.
    """
    if "taken" not in stored.attrs:
        return
    folder, content, seen = stored.attrs["folder"], stored.attrs["kind"], stored.attrs["taken"]
    _remember(folder, content, _recall(folder, content)[0] | seen, stored.attrs["read_at"])
    for name, file in seen.items():
        path = folder / name
        if file.finished and _marker(path).exists() and path.exists() and file.same(_now(path)):
            _move(path, folder / "done")
            _move(_marker(path), folder / "done")


def arrival(changed: int, looked: np.datetime64 | None, now: np.datetime64) -> np.datetime64:
    """When a file came, to the minute: when it was changed last ([ns] since 1970), but not after `now` and not before
    the last look at the folder, which did not find it so; a copy may keep the time of its original."""
    came = min(np.datetime64(changed, "ns"), now).astype("datetime64[m]")
    if looked is not None:
        seconds = np.timedelta64(59, "s")  # a minute that had begun counts as over
        came = max(came, (looked + seconds).astype("datetime64[m]"))
    return came.astype("datetime64[ns]")


def _now(path: Path) -> Seen:
    """A file as it is."""
    status = path.stat()
    return Seen(status.st_size, status.st_mtime_ns)


def station_of(name: str, gauges: Sequence[Gauge]) -> str | None:
    """The id a file name says: `<id>.csv` or `<id>_….csv`; of several the longest."""
    stem = name.split(".")[0]
    fitting = [gauge.id for gauge in gauges if stem == gauge.id or stem.startswith(f"{gauge.id}_")]
    return max(fitting, key=len) if fitting else None


def _read(path: Path, size: int, complete: bool) -> tuple[bytes, bool]:
    """What is in a file, to the end of its last whole line where it is not `complete`, and whether that was all."""
    if size > MAX_BYTES:
        raise Refused(f"{path.name}: is larger than {MAX_BYTES >> 20} MB; split it")
    data = path.read_bytes()
    whole = len(data) == size
    if not complete and not path.name.endswith(".gz"):
        end = data.rfind(b"\n") + 1
        whole &= end == len(data)
        data = data[:end]
    return data, whole


def _marker(path: Path) -> Path:
    return path.with_name(f"{path.name}.done")


def _failed(path: Path, why: str, tries: int, settled: bool) -> str:
    """Moves a file that failed often enough; the sentence for the log."""
    if not settled:
        return f"{why} (still changing; read again next time)"
    if tries < TRIES:
        return f"{why} (try {tries} of {TRIES})"
    target = _move(path, path.parent / "failed")
    if target is None:
        return f"{why} (cannot be moved to failed/)"
    target.with_name(f"{target.name}.why").write_text(
        f"{why}\nMoved here by hydroda at {iso(utc_now())} after {tries} tries. Correct the file and put it back one "
        "folder up.\n",
        encoding="utf-8",
    )
    return f"{why} (moved to failed/{target.name})"


def _move(path: Path, folder: Path) -> Path | None:
    """Moves a file into a folder under a name that is free there; None if that is not allowed."""
    try:
        folder.mkdir(exist_ok=True)
        target, copy = folder / path.name, 1
        while target.exists():
            target, copy = folder / f"{path.name}.{copy}", copy + 1
        return path.rename(target)
    except OSError as error:
        log.warning("%s cannot be moved to %s: %s", path, folder, error.strerror)
        return None


def _memory_path(folder: Path, content: str) -> Path:
    return folder / f".hydroda_{content}.json"


def _recall(folder: Path, content: str) -> tuple[dict[str, Seen], np.datetime64 | None]:
    """What is remembered, and when the folder was looked at last; nothing, if that cannot be read."""
    try:
        entries = json.loads(_memory_path(folder, content).read_bytes())
        looked = entries.pop(LOOKED, None)
        seen = {name: Seen(**{**entry, "stations": tuple(entry["stations"])}) for name, entry in entries.items()}
        return seen, None if looked is None else np.datetime64(looked, "ns")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}, None


def _remember(folder: Path, content: str, memory: dict[str, Seen], looked: np.datetime64 | None) -> None:
    """Keeps what is known of the files that are still there."""
    present: dict[str, Any] = {name: asdict(seen) for name, seen in memory.items() if (folder / name).exists()}
    if looked is not None:
        present[LOOKED] = np.datetime_as_string(looked, unit="s")
    text = json.dumps(present, indent=1, sort_keys=True).encode()
    path = _memory_path(folder, content)
    try:
        if present if not path.exists() else path.read_bytes() != text:
            files.replace(path, text)
    except OSError as error:
        log.warning("%s cannot be written (%s): its files will be read again", path, error.strerror)


def reading_time(now: np.datetime64 | None) -> np.datetime64:
    """The time of this reading: given (a test, a replay), or the clock."""
    return utc_now() if now is None else now
