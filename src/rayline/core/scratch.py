"""Temporary folders. Those left by killed processes are removed when another Rayline process creates one."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: folders have no locks there, and those of killed processes stay
    fcntl = None  # type: ignore[assignment]

PREFIX = "rayline-"

LOCK = ".rayline-lock"
"""The file in each folder on which its process holds a lock: the lock is released when the process ends, also by a kill."""


SWEEP_EVERY_S = 60.0
"""The minimum number of seconds between two searches for folders of killed processes."""

_swept: dict[str, float] = {}


class Scratch:
    """A folder inside the system's temporary directory that lives until `close` or the end of this process.

    Parameters
    ----------
    what
        The purpose of the folder; becomes part of its name.
    """

    def __init__(self, what: str) -> None:
        place = tempfile.gettempdir()
        if fcntl is not None and time.monotonic() - _swept.get(place, -SWEEP_EVERY_S) >= SWEEP_EVERY_S:
            _swept[place] = time.monotonic()
            _sweep(place)
        self._root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{what}-"))
        self.path = self._root / "files"
        self.path.mkdir()
        self._lock = os.open(self._root / f"{LOCK}.new", os.O_RDWR | os.O_CREAT, 0o600)
        if fcntl is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self._root / f"{LOCK}.new").rename(self._root / LOCK)  # it becomes visible only with its lock held

    def close(self) -> None:
        """Remove the folder."""
        with contextlib.suppress(OSError):
            os.close(self._lock)  # before its file is removed: Windows removes no open file
        shutil.rmtree(self._root, ignore_errors=True)


@contextlib.contextmanager
def folder(what: str) -> Iterator[Path]:
    """Create a temporary folder for the duration of a `with` block."""
    scratch = Scratch(what)
    try:
        yield scratch.path
    finally:
        scratch.close()


def _sweep(place: str) -> None:
    """Remove the folders of killed processes: those of Rayline whose lock is not held."""
    for lock in Path(place).glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError):
            handle = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while its process is alive
                shutil.rmtree(lock.parent, ignore_errors=True)
            finally:
                os.close(handle)
