"""Folders for a while. Those of processes that were killed go when another process of ours makes its first one."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "rayline-"

LOCK = ".rayline-lock"
"""The file in each folder that its process holds a lock on: the lock ends with the process, however that ends."""


SWEEP_EVERY_S = 60.0
"""Seconds between two looks for what killed processes have left."""

_swept: dict[str, float] = {}


class Scratch:
    """A folder under the system's own for temporary files, until `close` or the end of this process.

    Parameters
    ----------
    what
        What it is for; it stands in the folder's name.
    """

    def __init__(self, what: str) -> None:
        place = tempfile.gettempdir()
        if time.monotonic() - _swept.get(place, -SWEEP_EVERY_S) >= SWEEP_EVERY_S:
            _swept[place] = time.monotonic()
            _sweep(place)
        self._root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{what}-"))
        self.path = self._root / "files"
        self.path.mkdir()
        self._lock = os.open(self._root / f"{LOCK}.new", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self._root / f"{LOCK}.new").rename(self._root / LOCK)  # nobody sees it without its lock

    def close(self) -> None:
        """Take the folder away."""
        shutil.rmtree(self._root, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.close(self._lock)


@contextlib.contextmanager
def folder(what: str) -> Iterator[Path]:
    """A folder for the time of a `with`."""
    made = Scratch(what)
    try:
        yield made.path
    finally:
        made.close()


def _sweep(place: str) -> None:
    """Take away what killed processes have left: folders of ours with a lock that nobody holds."""
    for lock in Path(place).glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError):
            handle = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises when its process lives
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(handle)
