"""An idle worker: it waits for the next run, and ends its process after a timeout or when other work waits for resources."""

from __future__ import annotations

import gc
import math
import os
import sys
import threading
import time
from collections.abc import Callable

import pyarrow as pa

from rayline.compat.ray import has_unmet_demand
from rayline.core.errors import ParameterError
from rayline.device import release_memory

KEEP_S = 60.0
"""Seconds for which a group is kept, unless the environment variable says otherwise."""

SETTING = "RAYLINE_KEEP_WORKERS_S"
"""The environment variable with the seconds for which a group is kept; 0 keeps none."""

LOOK_S = 0.5
"""Seconds between two looks at what others wait for."""

TIDY_S = 0.2
"""Seconds without work after which a worker collects its garbage."""

UNMET_LOOKS = 6
"""Looks in a row that have to find some demand of the cluster unmet: a moment's queue is no wait."""


class IdleWorker:
    """The time between two runs of a worker.

    The worker ends itself, so that nothing depends on a driver that is busy, suspended, or connected to another Ray by now.

    Parameters
    ----------
    leave
        Ends this process; called in another thread.
    tidy
        Called in another thread when the wait is longer than a moment.
    """

    def __init__(self, leave: Callable[[], None], tidy: Callable[[], None] = lambda: None) -> None:
        self._leave, self._tidy, self._began = leave, tidy, time.time()
        self._lock, self._woken = threading.Lock(), threading.Event()
        self._n_woken, self._is_leaving = 0, False

    def rest(self, n_woken: int, seconds: float, *, looks: bool) -> None:
        """Begin to wait. `n_woken` is how often the driver had woken this worker before: calls may overtake one another.
        `looks` says whether this is the rank that looks at what others wait for."""
        with self._lock:
            if n_woken < self._n_woken:
                return
            self._woken.set()  # ends a wait that has begun before
            self._woken = threading.Event()
        threading.Thread(target=self._wait, args=(self._woken, seconds, looks), daemon=True).start()

    def wake(self, n_woken: int) -> bool:
        """End the wait. Return False when the worker cannot be used again: it is about to end, or a module that it has imported has
        changed on disk since."""
        with self._lock:
            self._n_woken = n_woken
            self._woken.set()
            return not self._is_leaving and not modules_changed(self._began)

    def _wait(self, woken: threading.Event, seconds: float, looks: bool) -> None:
        until, unmet = time.monotonic() + seconds, 0
        if woken.wait(min(TIDY_S, seconds)):
            return
        self._tidy()
        while not woken.wait(min(LOOK_S, max(0.0, until - time.monotonic()))):
            unmet = unmet + 1 if looks and has_unmet_demand() else 0
            if time.monotonic() >= until or unmet >= UNMET_LOOKS:
                with self._lock:
                    self._is_leaving = not woken.is_set()
                if self._is_leaving:
                    self._leave()
                return


def release_run_memory() -> None:
    """Give memory of the last run back to the machine."""
    gc.collect()
    release_memory()
    pa.default_memory_pool().release_unused()


def modules_changed(since: float) -> bool:
    """Return whether the file of an imported module, other than those of installed packages, is newer than this time."""
    installed = (sys.prefix, sys.base_prefix)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if isinstance(path, str) and not path.startswith(installed):
            try:
                if os.stat(path).st_mtime > since:
                    return True
            except OSError:  # inside of an archive, or deleted: as it was imported
                continue
    return False


def keep_s() -> float:
    """Return the seconds for which a group is kept. Raises ParameterError when the environment variable is not a number."""
    text = os.environ.get(SETTING, "")
    try:
        seconds = float(text or KEEP_S)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ParameterError.value(f"the environment variable {SETTING}", "a number of seconds, or 0", text)
    return seconds
