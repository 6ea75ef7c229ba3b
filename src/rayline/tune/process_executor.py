"""Trials in this process: threads train, and the caller's thread schedules them. Ray is not started.

The frameworks release the GIL while they train, so the trainings run in parallel. Without early stopping of trials, any
thread may train any fold of the running trials; otherwise a trial trains its folds one after another.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rayline.core.framework import Framework
from rayline.train.trainer import Trainer
from rayline.tune import capacity, space
from rayline.tune.capacity import Capacity
from rayline.tune.evaluate import FoldEvaluator
from rayline.tune.executor import PopulationPool, Search, TrialExecutor
from rayline.tune.fold_racing import ERROR, PAUSE, PAUSED, PENDING, RUNNING, SCORE, STOP, TERMINATED
from rayline.tune.pbt.runner import PopulationWorker
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.search_problem import TrialCandidate
from rayline.tune.trial import FoldRunner, TrialPayload, error_text, trial_report
from rayline.tune.trial_log import StopSearch, TrialLog
from rayline.tune.trial_record import FoldScore

TICK_S = 0.1
"""The interval at which the caller's thread checks for a signal or the end of the time budget."""

STOP_TIMEOUT_S = 2.0
"""The time that trainings may take to stop before a message says that they are waited for."""


class TrialThreads:
    """A pool of threads, each of which runs one task after another.

    Parameters
    ----------
    n
        How many.
    adapter, n_threads
        The adapter, and the number of threads of its library in each thread.
    """

    def __init__(self, n: int, adapter: Framework, n_threads: int) -> None:
        self.stopping = threading.Event()
        self._done: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
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

    def submit(self, thread: int, key: Any, work: Callable[[], Any]) -> None:
        """Give a task to an idle thread."""
        self.idle.remove(thread)
        self._work[thread].put((key, work))

    def wait(self, timeout_s: float) -> tuple[Any, Any] | None:
        """Return a finished task as its key and its result (an exception if it raised one); None after this many seconds
        without one."""
        try:
            thread, key, result = self._done.get(timeout=timeout_s)
        except queue.Empty:
            return None
        self.idle.append(thread)
        self.idle.sort()
        return key, result

    def stop(self, waiting: Callable[[str], None] = lambda text: None) -> None:
        """End the threads after their current tasks, which are asked to stop."""
        self.stopping.set()
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
                try:
                    result = work()
                except BaseException as error:  # a framework may raise SystemExit: the caller's thread decides
                    result = error
                self._done.put((number, key, result))
                item = work = result = None  # an idle thread keeps no rows alive


@dataclass(eq=False)
class ThreadTrial:
    """A trial that runs in threads; schedulers of Ray Tune read its attributes.

    Attributes
    ----------
    todo
        The folds that no thread has started, in order.
    n_busy
        The folds that threads are training.
    """

    number: int
    config: dict[str, Any]
    todo: list[int]
    status: str = PENDING
    scores: list[FoldScore] = field(default_factory=list)
    n_busy: int = 0
    has_failed: bool = False
    last_result: dict[str, Any] = field(default_factory=dict)
    candidates: dict[str, TrialCandidate] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    is_saving: bool = False

    @property
    def trial_id(self) -> str:
        return f"{self.number:05d}"

    @property
    def evaluated_params(self) -> dict[str, Any]:
        return self.config

    def is_finished(self) -> bool:
        return self.status in (TERMINATED, ERROR)

    def __repr__(self) -> str:
        return f"trial_{self.trial_id}"


class ThreadSearch:
    """A search in threads. To a scheduler it acts as Ray Tune's controller."""

    def __init__(self, search: Search, log: TrialLog, threads: TrialThreads, run: FoldRunner, concurrency: int) -> None:
        self._suggester, self._scheduler, self._prepared = search.suggester, search.scheduler, search.prepared
        self._log, self._threads, self._run_fold, self._concurrency = log, threads, run, concurrency
        self._until = time.monotonic() + (search.options.time_budget_s or float("inf"))
        self._n_folds = len(search.prepared.problem.folds)
        self._trials: list[ThreadTrial] = []
        self._live: list[ThreadTrial] = []

    # -- what schedulers ask -----------------------------------------------------------------------------------------

    def get_trials(self) -> list[ThreadTrial]:
        return [*self._trials]

    def get_live_trials(self) -> list[ThreadTrial]:
        return [*self._live]

    def stop_trial(self, trial: ThreadTrial) -> None:
        """Stop a paused trial."""
        self._scheduler.on_trial_remove(self, trial)
        self._end(trial, None)

    # -- the search ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run all trials until they are finished, the time budget is spent, or a signal has arrived."""
        while not self._is_over:
            for thread in [*self._threads.idle]:
                chosen = self._next(thread)
                if chosen is not None:
                    self._begin(thread, *chosen)
            if not self._threads.n_busy:
                return
            done = self._threads.wait(TICK_S)
            if done is not None:
                trial, box = done
                self._hear(trial, box)

    @property
    def _is_over(self) -> bool:
        return self._log.interruption.signal is not None or time.monotonic() > self._until

    def _next(self, thread: int) -> tuple[ThreadTrial, int] | None:
        """Return the next trial and fold for an idle thread."""
        if self._scheduler is not None:
            trial = self._scheduler.choose_trial_to_run(self)
            if trial is None and self._suggest() is not None:
                trial = self._scheduler.choose_trial_to_run(self)
            return None if trial is None else (trial, trial.todo[0])
        waiting = [trial for trial in self._live if trial.todo]
        # Prefer folds that this thread has trained before: it keeps the framework's form of their rows.
        next_fold = next(((t, f) for t in waiting for f in t.todo if self._is_of(thread, f)), None)
        if next_fold is None and (trial := self._suggest()) is not None:
            waiting.append(trial)
            next_fold = next(((trial, f) for f in trial.todo if self._is_of(thread, f)), None)
        return next_fold or next(((t, t.todo[0]) for t in waiting), None)

    def _is_of(self, thread: int, fold: int) -> bool:
        return fold % self._concurrency == thread

    def _suggest(self) -> ThreadTrial | None:
        """Return a new trial, if another one may start now."""
        if len(self._live) >= self._concurrency or self._suggester.is_finished:
            return None
        number = len(self._trials)
        config = self._suggester.suggest(f"{number:05d}")
        if config is None:
            return None
        trial = ThreadTrial(number, dict(space.to_plain(config)), [*range(self._n_folds)])
        self._trials.append(trial)
        self._live.append(trial)
        if self._scheduler is not None:
            self._scheduler.on_trial_add(self, trial)
        return trial

    def _begin(self, thread: int, trial: ThreadTrial, fold: int) -> None:
        if not trial.n_busy and not trial.scores:
            self._log.begin(trial.number, trial.config)
        trial.status = RUNNING
        trial.todo.remove(fold)
        trial.n_busy += 1
        self._threads.submit(thread, trial, lambda: self._run_fold(trial.config, fold, trial.candidates))

    def _hear(self, trial: ThreadTrial, box: Any) -> None:
        trial.n_busy -= 1
        if isinstance(box, BaseException):
            box = TrialPayload(error=error_text(box))
        self._log.hear(trial.number, [box])
        if "error" in box:
            trial.has_failed = True
            trial.todo.clear()
        else:
            trial.scores.append(FoldScore.from_json(box["fold"]))
        if trial.n_busy or (trial.todo and self._scheduler is None):
            return
        self._reported(trial)

    def _reported(self, trial: ThreadTrial) -> None:
        """Ask the scheduler whether a trial without a running fold continues."""
        result = trial.last_result = {
            **trial_report(trial.scores, self._prepared.modes, failed=trial.has_failed),
            "training_iteration": len(trial.scores),
            "time_total_s": time.monotonic() - trial.started,
            "config": trial.config,
            "trial_id": trial.trial_id,
        }
        if not trial.todo:
            if self._scheduler is not None:
                self._scheduler.on_trial_complete(self, trial, result)
            self._end(trial, result)
            return
        decision = self._scheduler.on_trial_result(self, trial, result)
        self._suggester.result(trial.trial_id, result)
        if decision == PAUSE:
            trial.status = PAUSED
        elif decision != STOP:
            # The thread that has just become idle takes the next fold.
            thread = self._threads.idle[0]
            self._begin(thread, trial, trial.todo[0])
        else:
            self._scheduler.on_trial_complete(self, trial, result)
            self._end(trial, result)

    def _end(self, trial: ThreadTrial, result: dict[str, Any] | None) -> None:
        trial.status = TERMINATED
        self._live.remove(trial)
        trial.candidates.clear()
        self._suggester.complete(trial.trial_id, result, error=False)
        self._log.end(trial.number)


class ProcessExecutor(TrialExecutor):
    """An executor with threads of this process."""

    def plan(self, trainer: Trainer, max_concurrent: int | None) -> Capacity:
        return capacity.plan(trainer, max_concurrent if trainer.adapter.thread_safe_training else 1, capacity.here())

    def run(self, search: Search, log: TrialLog) -> None:
        prepared, n = search.prepared, self.capacity.concurrency
        search.suggester.begin(n, prepared.mode)
        if search.scheduler is not None:
            search.scheduler.set_search_properties(SCORE, prepared.mode)
        with self._threads(prepared, log) as (threads, evaluate), log.interruption.heard():
            run = FoldRunner(prepared.problem, evaluate, search.known)
            with contextlib.suppress(StopSearch):  # the interruption says why
                ThreadSearch(search, log, threads, run, n).run()

    @contextlib.contextmanager
    def population(self, prepared: PreparedSearch) -> Iterator[PopulationPool]:
        with self._threads(prepared, None) as (threads, evaluate):
            yield ThreadPopulation(threads, PopulationWorker(prepared.problem, evaluate))

    @contextlib.contextmanager
    def _threads(self, prepared: PreparedSearch, log: TrialLog | None) -> Iterator[tuple[TrialThreads, FoldEvaluator]]:
        problem, capacity = prepared.problem, self.capacity
        adapter = problem.trainer.adapter
        # Limits of the whole process are restored here, after the last thread.
        with adapter.limited_threads(capacity.n_threads):
            threads = TrialThreads(capacity.concurrency, adapter, capacity.n_threads)
            evaluate = FoldEvaluator(
                problem,
                prepared.groups,
                max_bytes=capacity.max_bytes * capacity.concurrency,
                stopping=threads.stopping.is_set,
            )
            try:
                yield threads, evaluate
            finally:
                threads.stop((lambda text: None) if log is None else log.line.wait)


class ThreadPopulation:
    """A pool that trains parts of folds in threads."""

    def __init__(self, threads: TrialThreads, worker: PopulationWorker) -> None:
        self._threads, self._worker = threads, worker

    def __call__(self, work: Mapping[Any, tuple[Any, ...]]) -> Iterator[tuple[Any, Any, Any]]:
        waiting = [*work]
        while waiting or self._threads.n_busy:
            for thread in [*self._threads.idle][: len(waiting)]:
                key = waiting.pop(0)
                self._threads.submit(thread, key, functools.partial(self._worker.train, *work[key]))
            done = self._threads.wait(TICK_S)
            if done is not None:
                key, result = done
                if isinstance(result, BaseException):
                    raise result
                yield key, *result

    def fetch(self, checkpoint: Any) -> dict[str, bytes]:
        return dict(checkpoint)
