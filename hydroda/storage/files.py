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
    with clean(path) as (temp,):
        put(temp, data)
        temp.replace(path)
        flush(path.parent)


@contextlib.contextmanager
def clean(*paths: Path) -> Iterator[list[Path]]:
    """A temporary name for each of `paths`, removed whatever happens; a full disk becomes an error that says so."""
    temps = [temporary(path) for path in paths]
    try:
        yield temps
    except OSError as error:
        if error.errno in FULL:
            raise OSError(
                error.errno,
                f"disk full: {paths[0]} was not written, an older file of that name is intact; free some space or "
                "move the store, then repeat the run",
            ) from error
        raise
    finally:
        for temp in temps:
            temp.unlink(missing_ok=True)


def link(source: Path, place: Path) -> None:
    """A relative link to a folder, if that is there and the link is not, so that both may be moved together."""
    if source.exists() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(os.path.relpath(source.resolve(), place.parent.resolve()), target_is_directory=True)
