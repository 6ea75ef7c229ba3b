"""What is known of a trial: its configuration, the score of every fold that it ran, and how it ended."""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import polars as pl

from rayline.tune import space


@dataclass(frozen=True)
class FoldScore:
    """One training of a trial.

    Attributes
    ----------
    fold
        Which fold, counted from 0.
    score
        The metric on the held-out rows.
    n_rows
        How many rows were held out.
    fit_s, predict_s
        Seconds for preprocessing and training, and for predicting the held-out rows.
    reused
        Whether it comes from an earlier run (`resume=True`), or an earlier trial with the same parameters, and nothing was
        trained.
    iterations
        The iterations that the model has, where training counts them; the best one with early stopping.
    key
        What it was computed from, as a digest; empty when nothing is kept.
    others
        The other metrics, where several were asked for.
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
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FoldScore:
        return cls(**{**data, "others": tuple(data.get("others", ()))})


class Status(enum.StrEnum):
    """How a trial ended."""

    FINISHED = "finished"
    STOPPED = "stopped early"
    FAILED = "failed"


@dataclass(frozen=True)
class ScheduledPart:
    """A part of the training of a trial whose parameters change on the way.

    Attributes
    ----------
    until
        The number of iterations after it, in all.
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
    """One configuration and what came of it.

    Attributes
    ----------
    number
        The place in the order of suggestions, counted from 0.
    config
        The parameters, as nested as the search space.
    n_folds
        How many folds there are.
    folds
        Those that ran, in order.
    error
        Why it failed; empty when it did not.
    seconds
        From its first fold to its last, waiting included.
    parts
        Where parameters change during the training (see `rayline.tune.pbt.population`): which they were until when; `config`
        is that of the last part. Empty where they stay the same.
    metrics
        The names of the metrics, that of the score first.
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
        """The mean over the folds that ran; NaN of none."""
        return mean(self.scores)

    @property
    def means(self) -> tuple[float, ...]:
        """The mean of each metric, the score first."""
        return means(self.folds)

    @property
    def standard_error(self) -> float:
        """Of the mean over the folds; NaN of fewer than two."""
        return standard_error(self.scores)

    @property
    def standard_errors(self) -> tuple[float, ...]:
        """That of the mean of each metric, the score first; NaN of fewer than two folds."""
        others = zip(*(fold.others for fold in self.folds), strict=True)
        return self.standard_error, *(standard_error(each) for each in others)

    @property
    def is_eligible(self) -> bool:
        """Whether it can be the best: it ran all its folds, and each has a score."""
        return self.status is Status.FINISHED and math.isfinite(self.score)

    def __repr__(self) -> str:
        score = f"{self.score:.6g} ± {self.standard_error:.2g}" if len(self.folds) > 1 else f"{self.score:.6g}"
        return f"Trial({self.number}, {score}, {self.status}, {self.config})"


def mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores) if scores else math.nan


def means(folds: Sequence[FoldScore]) -> tuple[float, ...]:
    """The mean of each metric over these folds, the score first."""
    return mean([f.score for f in folds]), *(mean(each) for each in zip(*(f.others for f in folds), strict=True))


def standard_error(scores: Sequence[float]) -> float:
    return statistics.stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else math.nan


def best(trials: Sequence[Trial], mode: str) -> Trial | None:
    """The trial with the best mean, the earliest of several; None when none is eligible."""
    able = [trial for trial in trials if trial.is_eligible]
    sign = -1.0 if mode == "max" else 1.0
    return min(able, key=lambda trial: (sign * trial.score, trial.number), default=None)


def pareto(trials: Sequence[Trial], modes: Sequence[str]) -> list[Trial]:
    """The trials that no other one beats: none is as good in every metric and better in one. Best score first."""
    signs = [-1.0 if mode == "max" else 1.0 for mode in modes]
    losses = {t.number: [s * m for s, m in zip(signs, t.means, strict=True)] for t in trials if t.is_eligible}

    def beats(one: list[float], other: list[float]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    front = [t for t in trials if t.number in losses and not any(beats(o, losses[t.number]) for o in losses.values())]
    return sorted(front, key=lambda t: (losses[t.number], t.number))


def trial_table(trials: Sequence[Trial], others: Sequence[str] = ()) -> pl.DataFrame:
    """One row a trial: `trial`, `status`, `score`, `standard_error`, one `score/<metric>` and one
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
    """One row a part of the training: `until`, `trial`, and one `config/<parameter>` each."""
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
