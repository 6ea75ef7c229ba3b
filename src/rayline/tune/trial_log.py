"""Record what the trials report, on the driver, wherever they run: keep their scores, and show how far it is."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayline.core.waiting import MESSAGE_DELAY_S
from rayline.train import progress
from rayline.train.callbacks import Callback, Run
from rayline.tune import progress_table
from rayline.tune.interruption import Interruption
from rayline.tune.prepare import PreparedSearch
from rayline.tune.result_store import ResultStore
from rayline.tune.trial_record import FoldScore, Trial

DEATHS = 3
"""How often a trial starts again after its process has died."""


class StopSearch(Exception):  # noqa: N818  # no error: the user's wish
    """Ends the trials of a search that was interrupted."""


@dataclass
class TrialEntry:
    """A trial so far."""

    trial: Trial
    started: float
    folds: dict[int, FoldScore] = field(default_factory=dict)
    over: bool = False


class TrialLog:
    """Writes down what the trials report, keeps their scores, and shows how far it is."""

    def __init__(
        self,
        journal: ResultStore,
        line: progress.ProgressLine,
        prepared: PreparedSearch,
        total: int | None,
        budget_s: float | None,
        callbacks: Sequence[Callback],
        log_train_metrics: Run,
    ) -> None:
        self._callbacks, self._log_train_metrics = callbacks, log_train_metrics
        self.interruption = Interruption()
        self.line = line
        self._journal, self._n_folds = journal, len(prepared.problem.folds)
        self._metrics, self._mode, self._total, self._budget_s = (
            prepared.problem.metrics,
            prepared.mode,
            total,
            budget_s,
        )
        self._entries: dict[int, TrialEntry] = {}
        self._started = time.monotonic()

    @property
    def is_waiting(self) -> bool:
        """Whether no trial has begun for so long that somebody wants to know why."""
        return not self._entries and time.monotonic() - self._started > MESSAGE_DELAY_S

    @property
    def waited_s(self) -> float:
        """Since when no trial has begun; 0 when one has."""
        return 0.0 if self._entries else time.monotonic() - self._started

    def trials(self) -> list[Trial]:
        """The trials in the order of their suggestion."""
        for entry in self._entries.values():
            entry.trial.folds = [entry.folds[fold] for fold in sorted(entry.folds)]
        return [self._entries[number].trial for number in sorted(self._entries)]

    def begin(self, number: int, config: Mapping[str, Any]) -> None:
        """Record a trial that starts, or starts again."""
        if not self._entries:
            self._started = time.monotonic()  # what a cluster took to start is no measure of what is to come
        if number not in self._entries:
            self._entries[number] = TrialEntry(
                Trial(number, dict(config), self._n_folds, metrics=self._metrics), time.monotonic()
            )
        self._show()

    def hear(self, number: int, boxes: Sequence[Mapping[str, Any]]) -> None:
        """Record what became of some folds."""
        entry = self._entries[number]
        for box in boxes:
            if "error" in box:
                entry.trial.error = entry.trial.error or box["error"]
                continue
            score = FoldScore.from_json(box["fold"])
            entry.folds[score.fold] = score
            if "scores" in box:
                self._journal.write(score, box["scores"])
            entry.trial.histories[score.fold] = box.get("history", [])
        entry.trial.seconds = time.monotonic() - entry.started
        self._show()

    def end(self, number: int, error: str = "") -> None:
        """Record the end of a trial. Raises StopSearch when the user interrupts a callback."""
        entry = self._entries[number]
        if not entry.over:
            entry.over = True
            entry.trial.error = entry.trial.error or error
            self.trials()  # puts its folds in their order
            try:
                for callback in self._callbacks:
                    callback.on_trial(self._log_train_metrics, entry.trial)
            except KeyboardInterrupt:
                self.interruption.signal = signal.SIGINT
                raise StopSearch from None
        self._show()

    def _show(self) -> None:
        if not self.line.is_due:
            return
        moment = progress_table.SearchProgress(
            self.trials(),
            frozenset(number for number, entry in self._entries.items() if not entry.over),
            self._total,
            self._mode,
            self._metrics,
            time.monotonic() - self._started,
            self._budget_s,
        )
        self.line.now(moment.line, lambda: progress_table.live_table(moment))
