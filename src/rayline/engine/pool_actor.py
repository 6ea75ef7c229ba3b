"""A process of an `ActorPool`: it opens the work of a pool, runs one call after another, and waits for the next pool."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import ray

from rayline.compat.ray import pickle_tables
from rayline.engine.idle_worker import IdleWorker, release_run_memory

pickle_tables()


class PoolWork(Protocol):
    """The work of a pool, which is sent to each of its processes once."""

    def opened(self) -> AbstractContextManager[Mapping[str, Callable[..., tuple[Any, Any]]]]:
        """Yield the functions that are called, by name. Each returns a report, which the driver gets, and a state, which stays in
        the object store."""


@ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)
class PoolActor:
    """One process. It imports nothing of Ray beside its core: its start is most of the time that a small search takes."""

    def __init__(self, n_threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(n_threads)
        self._idle, self._open = IdleWorker(self._leave, release_run_memory), contextlib.ExitStack()
        self._functions: Mapping[str, Callable[..., tuple[Any, Any]]] = {}

    def begin(self, n_woken: int, work: list[Any]) -> bool:
        """Open the work of a pool, a reference in a list. Return False when this process cannot be used again."""
        if not self._idle.wake(n_woken):
            return False
        opened: PoolWork = ray.get(work[0])
        self._functions = self._open.enter_context(opened.opened())
        return True

    @ray.method(num_returns=2)
    def call(self, name: str, *arguments: Any) -> tuple[Any, Any]:
        """Call a function of the work."""
        return self._functions[name](*arguments)

    def rest(self, n_woken: int, seconds: float) -> None:
        """Close the work, and end after this time unless this process is used again (see `IdleWorker`). It holds no resources that
        others could wait for."""
        self._functions = {}
        self._open.close()
        self._idle.rest(n_woken, seconds, looks=False)

    def leave(self) -> None:
        """End this process."""
        ray.actor.exit_actor()

    def _leave(self) -> None:
        ray.get_runtime_context().current_actor.leave.remote()
