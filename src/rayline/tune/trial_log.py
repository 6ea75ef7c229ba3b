"""The record of all trials on the driver: store their scores, and show the progress."""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayline.core.waiting import MESSAGE_DELAY_S
from rayline.train import progress
from rayline.train.callback_errors import named_errors
from rayline.train.callbacks import Run
from rayline.tune import progress_table
from rayline.tune.interruption import Interruption
from rayline.tune.options import SearchOptions
from rayline.tune.result_store import ResultStore
from rayline.tune.search_driver import PreparedSearch
from rayline.tune.trial_record import FoldScore, Trial


class StopSearch(Exception):  # noqa: N818  # not an error: requested by the user
    """Ends the trials of a search that was interrupted."""


@dataclass
class TrialEntry:
    """The state of a trial."""

    trial: Trial
    started: float
    folds: dict[int, FoldScore] = field(default_factory=dict)
    over: bool = False


class TrialLog:
    """Records the reports of trials, stores their scores, and shows the progress."""

    def __init__(
        self,
        store: ResultStore,
        line: progress.ProgressLine,
        prepared: PreparedSearch,
        total: int | None,
        options: SearchOptions,
        training_run: Run,
    ) -> None:
        self._options, self._training_run, self._total = options, training_run, total
        self.interruption = Interruption()
        self.line = line
        self._store, self._n_folds = store, len(prepared.problem.folds)
        self._metrics, self._mode = prepared.problem.metrics, prepared.mode
        self._entries: dict[int, TrialEntry] = {}
        self._started = time.monotonic()

    @property
    def is_waiting(self) -> bool:
        """Whether no trial has started for so long that a message is due."""
        return not self._entries and time.monotonic() - self._started > MESSAGE_DELAY_S

    @property
    def waited_s(self) -> float:
        """The seconds without a started trial; 0 once a trial has started."""
        return 0.0 if self._entries else time.monotonic() - self._started

    @property
    def timeout_s(self) -> float | None:
        """The time that the user allows for the first trial to start."""
        return self._options.timeout_s

    def trials(self) -> list[Trial]:
        """Return the trials in the order of their suggestion."""
        for entry in self._entries.values():
            entry.trial.folds = [entry.folds[fold] for fold in sorted(entry.folds)]
        return [self._entries[number].trial for number in sorted(self._entries)]

    def begin(self, number: int, config: Mapping[str, Any]) -> None:
        """Record the start or restart of a trial."""
        if not self._entries:
            self._started = time.monotonic()  # the start time of a cluster does not count for the estimate
        if number not in self._entries:
            self._entries[number] = TrialEntry(
                Trial(number, dict(config), self._n_folds, metrics=self._metrics), time.monotonic()
            )
        self._show()

    def hear(self, number: int, boxes: Sequence[Mapping[str, Any]]) -> None:
        """Record the reports of some folds."""
        entry = self._entries[number]
        for box in boxes:
            if "error" in box:
                entry.trial.error = entry.trial.error or box["error"]
                continue
            score = FoldScore.from_json(box["fold"])
            entry.folds[score.fold] = score
            if "scores" in box:
                self._store.write(score, box["scores"])
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
                for callback in self._options.callbacks:
                    with named_errors(callback):
                        callback.on_trial(self._training_run, entry.trial)
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
            self._options.time_budget_s,
        )
        self.line.now(moment.line, lambda: progress_table.live_table(moment))
