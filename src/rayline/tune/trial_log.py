"""Record the reports of the trials on the driver, as a Ray Tune callback."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import tune

from rayline.core.waiting import PATIENCE_S
from rayline.train import progress
from rayline.train.callbacks import Callback, Run
from rayline.tune import progress_table
from rayline.tune.prepare import PreparedSearch
from rayline.tune.quiet import Interruption
from rayline.tune.result_store import ResultStore
from rayline.tune.trial import BOX, own_config, told
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


class TrialLog(tune.Callback):
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
        waiting: Callable[[], str] = lambda: "",
    ) -> None:
        self._callbacks, self._watched, self._waiting = callbacks, log_train_metrics, waiting
        self.interruption = Interruption()
        self._journal, self._line, self._n_folds = journal, line, len(prepared.problem.folds)
        self._metric, self._mode, self._total, self._budget_s = prepared.problem.metric, prepared.mode, total, budget_s
        self._entries: dict[str, TrialEntry] = {}
        self._order: dict[str, int] = {}
        self._started = time.monotonic()

    def __reduce__(self) -> Any:
        """Ray pickles callbacks to go on after a crash of the driver; for that we have the journal, and a line in a
        terminal cannot be pickled."""
        return tune.Callback, ()

    def trials(self) -> list[Trial]:
        """The trials in the order of their suggestion."""
        for entry in self._entries.values():
            entry.trial.folds = [entry.folds[fold] for fold in sorted(entry.folds)]
        return sorted((entry.trial for entry in self._entries.values()), key=lambda trial: trial.number)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.interruption.signal is not None:
            raise StopSearch  # Ray Tune then ends the actors of all trials
        self._number(trials)
        if not self._entries and trials and time.monotonic() - self._started > PATIENCE_S:
            self._line.wait(self._waiting())

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._number(trials)

    def _number(self, trials: Sequence[Any]) -> None:
        """Ray appends new trials to its list, but moves one that it starts again to the end."""
        for trial in trials:
            self._order.setdefault(trial.trial_id, len(self._order))

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        if not self._entries:
            self._started = time.monotonic()  # what Ray took to start is no measure of what is to come
        self._entry(trials, trial)
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        entry = self._entry(trials, trial)
        for box in result.get(BOX, []):
            if "error" in box:
                entry.trial.error = box["error"]
            else:
                score = FoldScore.from_json(box["fold"])
                entry.folds[score.fold] = score
                if "scores" in box:
                    self._journal.write(score, box["scores"])
                entry.trial.histories[score.fold] = box.get("history", [])
        result.get(BOX, []).clear()  # Ray keeps the result, and writes it down again and again
        entry.trial.seconds = time.monotonic() - entry.started
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._end(self._entry(trials, trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        entry = self._entry(trials, trial)
        entry.trial.error = entry.trial.error or f"the process of the trial died {DEATHS + 1} times: {_why(trial)}"
        self._end(entry)

    def _end(self, entry: TrialEntry) -> None:
        if not entry.over:
            entry.over = True
            self.trials()  # puts its folds in their order
            try:
                for callback in self._callbacks:
                    callback.on_trial(self._watched, entry.trial)
            except KeyboardInterrupt:
                self.interruption.signal = signal.SIGINT
                raise StopSearch from None
        self._show()

    def _entry(self, trials: Sequence[Any], trial: Any) -> TrialEntry:
        if trial.trial_id not in self._entries:
            self._number(trials)
            made = Trial(self._order[trial.trial_id], own_config(trial.config), self._n_folds)
            self._entries[trial.trial_id] = TrialEntry(made, time.monotonic())
        return self._entries[trial.trial_id]

    def _show(self) -> None:
        if not self._line.is_due:
            return
        moment = progress_table.SearchProgress(
            self.trials(),
            frozenset(entry.trial.number for entry in self._entries.values() if not entry.over),
            self._total,
            self._mode,
            self._metric,
            time.monotonic() - self._started,
            self._budget_s,
        )
        self._line.now(moment.line, lambda: progress_table.table(moment))


def _why(trial: Any) -> str:
    """What Ray knows of the death of a trial's process: an error, or a text of which the last line says it."""
    error = trial.get_pickled_error()
    lines = str(trial.get_error() or "").strip().splitlines()
    return told(error) if error is not None else lines[-1] if lines else "unknown reason"
