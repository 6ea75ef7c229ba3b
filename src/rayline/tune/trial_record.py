"""The record of a trial: its configuration, the score of every completed fold, and its status."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rayline.tune import space


@dataclass(frozen=True)
class FoldScore:
    """The score of a trial on a fold.

    Attributes
    ----------
    fold
        The number of the fold, counted from 0.
    score
        The metric on the held-out rows.
    n_rows
        The number of held-out rows.
    fit_s, predict_s
        Seconds for preprocessing and training, and for predicting the held-out rows.
    reused
        Whether the score was taken from an earlier run (`resume=True`) or an earlier trial with the same parameters, without
        training.
    iterations
        The number of iterations of the model, if the framework counts them; with early stopping, the best iteration.
    key
        A digest of the inputs of the score; empty when results are not stored.
    others
        The other metrics, if several were requested.
    """

    fold: int
    score: float
    n_rows: int
    fit_s: float = 0.0
    predict_s: float = 0.0
    reused: bool = False
    iterations: int | None = None
    key: str = ""
    others: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))  # all its fields are plain

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FoldScore:
        return cls(**{**data, "others": tuple(data.get("others", ()))})


class Status(enum.StrEnum):
    """The status of a trial."""

    FINISHED = "finished"
    STOPPED = "stopped early"
    FAILED = "failed"


@dataclass(frozen=True)
class ScheduledPart:
    """A part of the training of a trial whose parameters change on the way.

    Attributes
    ----------
    until
        The total number of iterations after it.
    config
        The parameters.
    trial
        The number of the trial that trained it.
    """

    until: int
    config: dict[str, Any]
    trial: int


@dataclass
class Trial:
    """A configuration with its results.

    Attributes
    ----------
    number
        The position in the order of suggestions, counted from 0.
    config
        The parameters, as nested as the search space.
    n_folds
        The number of folds.
    folds
        The completed folds, in order.
    error
        The reason of a failure; empty otherwise.
    seconds
        The time from its first to its last fold, including waiting.
    parts
        The parts of a training whose parameters change (see `rayline.tune.pbt.population`); `config` is that of the last part.
        Empty if the parameters stay the same.
    metrics
        The names of the metrics; the first one is the score.
    """

    number: int
    config: dict[str, Any]
    n_folds: int
    folds: list[FoldScore] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    histories: dict[int, list[dict[str, float]]] = field(default_factory=dict, repr=False)
    parts: list[ScheduledPart] = field(default_factory=list, repr=False)
    metrics: tuple[str, ...] = field(default=(), repr=False)

    @property
    def status(self) -> Status:
        if self.error:
            return Status.FAILED
        return Status.FINISHED if len(self.folds) == self.n_folds else Status.STOPPED

    @property
    def scores(self) -> list[float]:
        return [fold.score for fold in self.folds]

    @property
    def score(self) -> float:
        """The mean over the completed folds; NaN without any."""
        return mean(self.scores)

    @property
    def means(self) -> tuple[float, ...]:
        """The mean of each metric; the score comes first."""
        return means(self.folds)

    @property
    def standard_error(self) -> float:
        """The standard error of the mean over the folds; NaN with fewer than two folds."""
        return standard_error(self.scores)

    @property
    def standard_errors(self) -> tuple[float, ...]:
        """The standard error of the mean of each metric; the score comes first. NaN with fewer than two folds."""
        others = zip(*(fold.others for fold in self.folds), strict=True)
        return self.standard_error, *(standard_error(each) for each in others)

    @property
    def is_eligible(self) -> bool:
        """Whether it can be the best trial: all its folds are complete and have a score."""
        return self.status is Status.FINISHED and math.isfinite(self.score)

    def __repr__(self) -> str:
        score = f"{self.score:.6g} ± {self.standard_error:.2g}" if len(self.folds) > 1 else f"{self.score:.6g}"
        return f"Trial({self.number}, {score}, {self.status}, {self.config})"


def mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores) if scores else math.nan


def means(folds: Sequence[FoldScore]) -> tuple[float, ...]:
    """Return the mean of each metric over these folds; the score comes first."""
    return mean([f.score for f in folds]), *(mean(each) for each in zip(*(f.others for f in folds), strict=True))


def standard_error(scores: Sequence[float]) -> float:
    return statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan


def loss_sign(mode: str | None) -> float:
    """Return the factor that makes a score of this direction a loss, which is minimised."""
    return -1.0 if mode == "max" else 1.0


def ranked(trials: Sequence[Trial], mode: str) -> list[Trial]:
    """Return the trials that can be the best, by their means; of equal ones the earliest comes first."""
    able = (trial for trial in trials if trial.is_eligible)
    return sorted(able, key=lambda trial: (loss_sign(mode) * trial.score, trial.number))


def best(trials: Sequence[Trial], mode: str) -> Trial | None:
    """Return the first of the ranked trials; None when there is none."""
    return next(iter(ranked(trials, mode)), None)


def pareto(trials: Sequence[Trial], modes: Sequence[str]) -> list[Trial]:
    """Return the Pareto-optimal trials: no other one is as good in every metric and better in one. The best score comes first."""
    signs = [*map(loss_sign, modes)]
    losses = {t.number: [s * m for s, m in zip(signs, t.means, strict=True)] for t in trials if t.is_eligible}

    def beats(one: list[float], other: list[float]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    front = [t for t in trials if t.number in losses and not any(beats(o, losses[t.number]) for o in losses.values())]
    return sorted(front, key=lambda t: (losses[t.number], t.number))


def trial_table(trials: Sequence[Trial], others: Sequence[str] = ()) -> pl.DataFrame:
    """Return one row for each trial: `trial`, `status`, `score`, `standard_error`, one `score/<metric>` and one
    `standard_error/<metric>` for each other metric, one `fold_<i>` each, `seconds`, `fit_s`, `predict_s`, `error`, and one `config/<parameter>` each."""
    n_folds = max((trial.n_folds for trial in trials), default=0)
    names = list(dict.fromkeys(name for trial in trials for name in space.flatten(trial.config)))
    columns: dict[str, pl.Series] = {
        "trial": pl.Series([t.number for t in trials], dtype=pl.Int64),
        "status": pl.Series([str(t.status) for t in trials], dtype=pl.String),
        "score": _floats([t.score for t in trials]),
        "standard_error": _floats([t.standard_error for t in trials]),
    }
    for i, name in enumerate(others, 1):
        columns[f"score/{name}"] = _floats([t.means[i] if t.folds else math.nan for t in trials])
        columns[f"standard_error/{name}"] = _floats([t.standard_errors[i] if t.folds else math.nan for t in trials])
    for fold in range(n_folds):
        scores = [next((f.score for f in t.folds if f.fold == fold), math.nan) for t in trials]
        columns[f"fold_{fold}"] = _floats(scores)
    columns["seconds"] = _floats([t.seconds for t in trials])
    columns["fit_s"] = _floats([math.fsum(f.fit_s for f in t.folds) for t in trials])
    columns["predict_s"] = _floats([math.fsum(f.predict_s for f in t.folds) for t in trials])
    columns["error"] = pl.Series([t.error or None for t in trials], dtype=pl.String)
    for name in names:
        columns[f"config/{name}"] = _values([space.cell(space.flatten(t.config).get(name)) for t in trials])
    return pl.DataFrame(columns)


def schedule(trial: Trial) -> pl.DataFrame:
    """Return one row for each part of the training: `until`, `trial`, and one `config/<parameter>` each."""
    whole: list[tuple[int | None, dict[str, Any], int]] = [(None, trial.config, trial.number)]
    parts = [(part.until, part.config, part.trial) for part in trial.parts] or whole
    flat = [space.flatten(config) for _, config, _ in parts]
    columns = {
        "until": pl.Series([until for until, _, _ in parts], dtype=pl.Int64),
        "trial": pl.Series([number for _, _, number in parts], dtype=pl.Int64),
    }
    for name in dict.fromkeys(name for config in flat for name in config):
        columns[f"config/{name}"] = _values([space.cell(config.get(name)) for config in flat])
    return pl.DataFrame(columns)


def _floats(values: Sequence[float]) -> pl.Series:
    return pl.Series(values, dtype=pl.Float64).fill_nan(None)


def _values(values: Sequence[Any]) -> pl.Series:
    kinds = {type(v) for v in values if v is not None}
    if len(kinds) > 1 and not kinds <= {int, float}:
        return pl.Series([None if v is None else str(v) for v in values], dtype=pl.String)
    return pl.Series(values, dtype=pl.Float64 if kinds == {int, float} else None)
