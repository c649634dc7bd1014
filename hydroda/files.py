"""A file appears under its name complete, or not at all.

The new content goes to a temporary name in the same directory (leading dot, `.tmp` end), reaches the disk, and takes
the name in one step. A reader sees the old file or the new one; a kill leaves at most a stray temporary.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT}
PROBE_BYTES = 1 << 20


def temporary(path: Path) -> Path:
    """A new name beside `path` that no reader takes for a product."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def flush(path: Path) -> None:
    """Waits until a file or a directory (its names) is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put(path: Path, data: bytes) -> None:
    """Writes and flushes a new file that must not exist yet, with the permissions the umask gives."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """The content of `path` becomes `data`, in one step that survives a crash.

    Raises OSError; a full disk is named as such and leaves the old content in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with clean(path) as temp:
        put(temp, data)
        temp.replace(path)
        flush(path.parent)


@contextlib.contextmanager
def clean(path: Path) -> Iterator[Path]:
    """A temporary name for `path`, removed whatever happens; a full disk becomes an OSError that says so."""
    temp = temporary(path)
    try:
        yield temp
    except (OSError, RuntimeError) as error:
        full = _full(temp, error)
        if full:
            raise full_disk(path, full) from error
        raise
    finally:
        temp.unlink(missing_ok=True)


def full_disk(path: Path, number: int) -> OSError:
    """The error of a write that found no space, saying what is intact and what to do."""
    return OSError(
        number,
        f"disk full: nothing was written to {path}, an older file of that name is intact; free some space or move the "
        "store, then repeat the run",
    )


def _full(temp: Path, error: Exception) -> int:
    """The error number of a full disk, 0 when something else went wrong.

    The netCDF library reports a full disk as "NetCDF: HDF error", so the operating system is asked by a plain write.
    """
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return error.errno if error.errno in FULL else 0
    probe = temporary(temp)
    try:
        put(probe, bytes(PROBE_BYTES))
    except OSError as refused:
        return refused.errno if refused.errno in FULL else 0
    finally:
        probe.unlink(missing_ok=True)
    return 0
