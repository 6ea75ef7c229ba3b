"""The search: it asks for configurations, gives folds to a pool, and asks a scheduler which trials continue.

Without early stopping of trials, any slot of the pool may train any fold of the running trials; otherwise a trial trains its folds one
after another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rayline.tune import space
from rayline.tune.fold_racing import ERROR, PAUSE, PAUSED, PENDING, RUNNING, STOP, TERMINATED
from rayline.tune.options import SearchOptions
from rayline.tune.result_store import ResultStore
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.suggestions import Suggester
from rayline.tune.trial import error_text, trial_report
from rayline.tune.trial_log import TrialLog
from rayline.tune.trial_pool import TICK_S, TrialPool
from rayline.tune.trial_record import FoldScore


@dataclass(frozen=True)
class Search:
    """A checked search, ready to run.

    Attributes
    ----------
    prepared, options
        The problem, the rows and the search space, and all other options.
    suggester, scheduler
        The source of configurations, and the scheduler that stops trials early or changes them (None for no early stopping).
    store
        Where the scores are kept.
    is_on_ray
        Whether the trials run on Ray.
    """

    prepared: PreparedSearch
    options: SearchOptions
    suggester: Suggester
    scheduler: Any
    store: ResultStore
    is_on_ray: bool

    @property
    def known(self) -> Mapping[str, Any]:
        """The scores of an earlier run, by key."""
        return self.store.known() if self.options.resume else {}


@dataclass(eq=False)
class ScheduledTrial:
    """A trial of a search; schedulers of Ray Tune read its attributes.

    Attributes
    ----------
    todo
        The folds that have not started, in order.
    n_busy
        The folds that are being trained.
    """

    number: int
    config: dict[str, Any]
    todo: list[int]
    status: str = PENDING
    scores: list[FoldScore] = field(default_factory=list)
    n_busy: int = 0
    has_failed: bool = False
    last_result: dict[str, Any] = field(default_factory=dict)
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


class TrialSearch:
    """A search over a pool. To a scheduler it acts as Ray Tune's controller."""

    def __init__(self, search: Search, log: TrialLog, pool: TrialPool, n_slots: int) -> None:
        self._suggester, self._scheduler, self._prepared = search.suggester, search.scheduler, search.prepared
        self._log, self._pool, self._n_slots = log, pool, n_slots
        self._until = time.monotonic() + (search.options.time_budget_s or float("inf"))
        self._n_folds = len(search.prepared.problem.folds)
        self._trials: list[ScheduledTrial] = []
        self._live: list[ScheduledTrial] = []

    # -- what schedulers ask -----------------------------------------------------------------------------------------

    def get_trials(self) -> list[ScheduledTrial]:
        return [*self._trials]

    def get_live_trials(self) -> list[ScheduledTrial]:
        return [*self._live]

    def stop_trial(self, trial: ScheduledTrial) -> None:
        """Stop a paused trial."""
        self._scheduler.on_trial_remove(self, trial)
        self._end(trial, None)

    # -- the search ----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run all trials until they are finished, the time budget is spent, or a signal has arrived."""
        while not self._is_over:
            for slot in [*self._pool.idle]:
                chosen = self._next(slot)
                if chosen is not None:
                    self._begin(slot, *chosen)
            if not self._pool.n_busy and (self._pool.idle or not self._pool.is_starting):
                return
            done = self._pool.wait(TICK_S)
            if done is not None:
                slot, trial, box, _ = done
                self._hear(slot, trial, box)

    @property
    def _is_over(self) -> bool:
        return self._log.interruption.signal is not None or time.monotonic() > self._until

    def _next(self, slot: int) -> tuple[ScheduledTrial, int] | None:
        """Return the next trial and fold for an idle slot."""
        if self._scheduler is not None:
            trial = self._scheduler.choose_trial_to_run(self)
            if trial is None and self._suggest() is not None:
                trial = self._scheduler.choose_trial_to_run(self)
            return None if trial is None else (trial, trial.todo[0])
        waiting = [trial for trial in self._live if trial.todo]
        # Prefer folds that this slot has trained before: it keeps the framework's form of their rows.
        next_fold = next(((t, f) for t in waiting for f in t.todo if self._is_of(slot, f)), None)
        if next_fold is None and (trial := self._suggest()) is not None:
            waiting.append(trial)
            next_fold = next(((trial, f) for f in trial.todo if self._is_of(slot, f)), None)
        return next_fold or next(((t, t.todo[0]) for t in waiting), None)

    def _is_of(self, slot: int, fold: int) -> bool:
        return (fold - slot) % min(self._n_slots, self._n_folds) == 0

    def _suggest(self) -> ScheduledTrial | None:
        """Return a new trial, if another one may start now."""
        if len(self._live) >= self._n_slots or self._suggester.is_finished:
            return None
        number = len(self._trials)
        config = self._suggester.suggest(f"{number:05d}")
        if config is None:
            return None
        trial = ScheduledTrial(number, dict(space.to_plain(config)), [*range(self._n_folds)])
        self._trials.append(trial)
        self._live.append(trial)
        if self._scheduler is not None:
            self._scheduler.on_trial_add(self, trial)
        return trial

    def _begin(self, slot: int, trial: ScheduledTrial, fold: int) -> None:
        if not trial.n_busy and not trial.scores:
            self._log.begin(trial.number, trial.config)
        trial.status = RUNNING
        trial.todo.remove(fold)
        trial.n_busy += 1
        self._pool.submit(slot, trial, "fold", trial.number, trial.config, fold)

    def _hear(self, slot: int, trial: ScheduledTrial, box: Any) -> None:
        trial.n_busy -= 1
        if isinstance(box, BaseException):
            box = {"error": error_text(box)}
        self._log.hear(trial.number, [box])
        if "error" in box:
            trial.has_failed = True
            trial.todo.clear()
        else:
            trial.scores.append(FoldScore.from_json(box["fold"]))
        if trial.n_busy or (trial.todo and self._scheduler is None):
            return
        self._reported(slot, trial)

    def _reported(self, slot: int, trial: ScheduledTrial) -> None:
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
            self._begin(slot, trial, trial.todo[0])  # the slot has just become idle
        else:
            self._scheduler.on_trial_complete(self, trial, result)
            self._end(trial, result)

    def _end(self, trial: ScheduledTrial, result: dict[str, Any] | None) -> None:
        trial.status = TERMINATED
        self._live.remove(trial)
        self._suggester.complete(trial.trial_id, result, error=False)
        self._log.end(trial.number)
