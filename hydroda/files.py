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
    with clean(path, size=len(data)) as (temp,):
        put(temp, data)
        temp.replace(path)
        flush(path.parent)


@contextlib.contextmanager
def clean(*paths: Path, size: int) -> Iterator[list[Path]]:
    """A temporary name for each of `paths`, removed whatever happens.

    When writing about `size` bytes failed for lack of space, the error becomes an OSError that says so.
    """
    temps = [temporary(path) for path in paths]
    try:
        yield temps
    except (OSError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) and error.errno in FULL else _refused(temps[0], size)
        if number in FULL:
            raise OSError(
                number,
                f"disk full: {paths[0]} was not written, an older file of that name is intact; free some space or "
                "move the store, then repeat the run",
            ) from error
        raise
    finally:
        for temp in temps:
            temp.unlink(missing_ok=True)


def _refused(temp: Path, size: int) -> int | None:
    """The error number of a plain write of so many bytes, None if it works.

    The netCDF library reports a full disk as "HDF error" or "Permission denied", so the operating system is asked.
    """
    probe = temporary(temp)
    try:
        put(probe, bytes(max(size, PROBE_BYTES)))
    except OSError as error:
        return error.errno
    finally:
        probe.unlink(missing_ok=True)
    return None
