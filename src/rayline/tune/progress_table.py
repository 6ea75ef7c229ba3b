"""The progress table in a terminal: the state of the search, the best trials so far, and the running trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayline.core.errors import counted
from rayline.inference.svg_plots import number
from rayline.train import progress
from rayline.tune import space, trial_record
from rayline.tune.trial_record import Status, Trial

if TYPE_CHECKING:
    from rich.table import Table

BEST = 5
"""The number of best trials that are shown."""

RUNNING = 4
"""The number of running trials that are shown."""


@dataclass(frozen=True)
class SearchProgress:
    """The state of a search at one moment.

    Attributes
    ----------
    trials
        All trials that have started, in the order of their suggestion.
    running
        The numbers of the unfinished trials.
    total
        The total number of trials, if it is known.
    elapsed_s
        The time since the first trial started.
    metrics
        The names of all metrics; the first one is the score.
    budget_s
        The time budget of the search.
    """

    trials: Sequence[Trial]
    running: frozenset[int]
    total: int | None
    mode: str
    metrics: Sequence[str]
    elapsed_s: float
    budget_s: float | None = None

    @property
    def over(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.number not in self.running]

    @property
    def left_s(self) -> float | None:
        """The estimated remaining time at the current speed; None if unknown."""
        rest = None if self.budget_s is None else max(0.0, self.budget_s - self.elapsed_s)
        # A trial that stopped early counts as a whole one: later ones will stop early, too.
        done = sum(1.0 if t.number not in self.running else len(t.folds) / t.n_folds for t in self.trials)
        if not self.total or not done:
            return rest
        expected = self.elapsed_s / done * (self.total - done)
        return expected if rest is None else min(expected, rest)

    @property
    def line(self) -> str:
        """A summary in a few words."""
        over, best = self.over, trial_record.best(self.trials, self.mode)
        parts = [f"{len(over)}/{counted(self.total, 'trial')}" if self.total else counted(len(over), "trial")]
        if best is not None:
            scores = [f"{name} {number(mean, 5)}" for name, mean in zip(self.metrics, best.means, strict=True)]
            parts.append(f"best {', '.join(scores)} (trial {best.number})")
        for status, word in ((Status.STOPPED, "stopped early"), (Status.FAILED, "failed")):
            if n := sum(trial.status is status for trial in over):
                parts.append(f"{n} {word}")
        parts.append(progress.seconds(self.elapsed_s))
        left = self.left_s
        if left is not None and over:
            parts.append(f"about {progress.seconds(left)} left")
        return ", ".join(parts)


def live_table(moment: SearchProgress) -> Table:
    """Return the best and the running trials as a table for the terminal."""
    from rich.table import Table  # 30 ms, and only a terminal wants it

    sign = trial_record.loss_sign(moment.mode)
    able = sorted((t for t in moment.over if t.is_eligible), key=lambda t: (sign * t.score, t.number))[:BEST]
    running = [t for t in moment.trials if t.number in moment.running][-RUNNING:]
    shown = [*able, *running]
    names = _varied(moment.trials)
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    measured = [heading for name in moment.metrics for heading in (name, "±")]
    for heading in ("trial", "folds", *measured):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in names:
        table.add_column(name.removeprefix(f"{space.STAGES}/"), no_wrap=True, overflow="ellipsis")
    for trial in shown:
        flat = space.flatten(trial.config)
        means = trial.means if trial.folds else [math.nan] * len(moment.metrics)
        errors = trial.standard_errors if len(trial.folds) > 1 else [math.nan] * len(moment.metrics)
        measures = [
            cell
            for mean, error in zip(means, errors, strict=True)
            for cell in (number(mean, 5) if trial.folds else "…", number(error, 2) if math.isfinite(error) else "")
        ]
        style = "bold" if able and trial is able[0] else "dim" if trial.number in moment.running else ""
        cells = [str(trial.number), f"{len(trial.folds)}/{trial.n_folds}", *measures]
        table.add_row(*cells, *(_short(flat.get(name)) for name in names), style=style)
    return table


def _varied(trials: Sequence[Trial]) -> list[str]:
    """Return the parameters that differ between trials; all parameters if there is only one trial."""
    flat = [space.flatten(trial.config) for trial in trials]
    names = dict.fromkeys(name for config in flat for name in config)
    return [name for name in names if len(flat) < 2 or len({_short(config.get(name)) for config in flat}) > 1]


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(space.cell(value))
