"""One writer at a time, between threads, processes and (on a file system with locks) hosts.

The lock belongs to the open file, so the operating system gives it back when its owner dies, however that happens: a
stale lock does not exist. What is written in the file only says who the owner is.
"""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

PAUSE = 0.05  # s between two tries


class Busy(RuntimeError):
    """Somebody else holds the lock; `owner` says who."""

    def __init__(self, path: Path, owner: str):
        super().__init__(f"{path.name}: held by {owner}; wait for it to finish, or end it if it should not be there")
        self.owner = owner


@contextlib.contextmanager
def hold(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Holds the lock of `path` for the duration of the block; tries for `wait` seconds, then raises Busy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait
    with path.open("a+", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise Busy(path, file.read().strip() or "another process") from None
            time.sleep(PAUSE)
        file.truncate(0)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        file.write(f"host {socket.gethostname()} pid {os.getpid()} since {started}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
