"""Trials in this process: threads train, and the caller's thread schedules them. Ray is not started.

The frameworks release the GIL while they train, so the trainings run in parallel.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rayline.core.framework import Framework
from rayline.train.trainer import Trainer
from rayline.tune import capacity
from rayline.tune.capacity import Capacity
from rayline.tune.evaluate import FoldEvaluator
from rayline.tune.executor import TrialExecutor, trial_functions
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.trial_log import TrialLog
from rayline.tune.trial_pool import TICK_S, TrialPool

STOP_TIMEOUT_S = 2.0
"""The time that trainings may take to stop before a message says that they are waited for."""


class TrialThreads:
    """A pool of threads; see `TrialPool`.

    Parameters
    ----------
    n
        How many.
    adapter, n_threads
        The adapter, and the number of threads of its library in each thread.
    functions
        What they run.
    stopping
        Set when the running calls should end early.
    """

    is_starting = False

    def __init__(
        self,
        n: int,
        adapter: Framework,
        n_threads: int,
        functions: Mapping[str, Callable[..., tuple[Any, Any]]],
        stopping: threading.Event,
    ) -> None:
        self._functions, self._stopping = functions, stopping
        self._done: queue.SimpleQueue[tuple[int, Any, Any, Any]] = queue.SimpleQueue()
        self._work: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(n)]
        self.idle = list(range(n))
        self._threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(self._run, number, adapter, n_threads),
                name=f"rayline-trial-{number}",
                daemon=True,  # a training that cannot be ended does not keep the process alive
            )
            for number in range(n)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def n_busy(self) -> int:
        return len(self._threads) - len(self.idle)

    def submit(self, number: int, key: Any, name: str, *arguments: Any) -> None:
        self.idle.remove(number)
        self._work[number].put((key, functools.partial(self._functions[name], *arguments)))

    def wait(self, timeout_s: float) -> tuple[int, Any, Any, Any] | None:
        try:
            done = self._done.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self.idle = sorted([*self.idle, done[0]])
        return done

    def fetch(self, state: Any) -> Any:
        return state

    def stop(self, waiting: Callable[[str], None] = lambda text: None) -> None:
        """End the threads after their current tasks, which are asked to stop."""
        self._stopping.set()
        for work in self._work:
            work.put(None)
        until = time.monotonic() + STOP_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            waiting("waiting for the running trainings, which cannot be interrupted")
        for thread in self._threads:
            while thread.is_alive():
                thread.join(TICK_S)  # so that a second Ctrl-C is noticed

    def _run(self, number: int, adapter: Framework, n_threads: int) -> None:
        with adapter.limited_threads(n_threads):
            while (item := self._work[number].get()) is not None:
                key, work = item
                state = None
                try:
                    result, state = work()
                except BaseException as error:  # a framework may raise SystemExit: the caller's thread decides
                    result = error
                self._done.put((number, key, result, state))
                item = work = result = state = None  # an idle thread keeps no rows alive


class ProcessExecutor(TrialExecutor):
    """An executor with threads of this process."""

    def plan(self, trainer: Trainer, max_concurrent: int | None) -> Capacity:
        return capacity.plan(trainer, max_concurrent if trainer.adapter.thread_safe_training else 1, capacity.here())

    @contextlib.contextmanager
    def pool(
        self, prepared: PreparedSearch, n: int, known: Mapping[str, Any], log: TrialLog | None = None
    ) -> Iterator[TrialPool]:
        problem, capacity, stopping = prepared.problem, self.capacity, threading.Event()
        adapter = problem.trainer.adapter
        evaluate = FoldEvaluator(problem, prepared.groups, max_bytes=capacity.max_bytes * n, stopping=stopping.is_set)
        functions = trial_functions(problem, evaluate, known)
        # Limits of the whole process are restored here, after the last thread.
        with adapter.limited_threads(capacity.n_threads):
            threads = TrialThreads(n, adapter, capacity.n_threads, functions, stopping)
            try:
                yield threads
            finally:
                threads.stop((lambda text: None) if log is None else log.line.wait)
