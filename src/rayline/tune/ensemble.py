"""Greedy ensemble selection on held-out predictions.

Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models" (2004): start with
nothing, and repeatedly add the model that improves the score most, with replacement; its weight is the number of times it was added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import ParameterError
from rayline.core.target import Target
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import Custom
from rayline.inference.members import averageable
from rayline.tune.trial_record import loss_sign, mean

ROUNDS = 25
"""The number of models that are added, with replacement."""

Array = npt.NDArray[Any]


class MixtureRows(NamedTuple):
    """Held-out rows of a fold: labels, weights, and the scores of each candidate."""

    truth: Array
    weight: Array | None
    scores: list[Array]


@dataclass(frozen=True)
class MixtureRowsOf:
    """Creates `MixtureRows` from held-out rows."""

    target: Target
    weight: str | None

    def __call__(self, rows: pl.DataFrame, scores: Sequence[Array], fold: int) -> MixtureRows:
        weight = None if self.weight is None else rows[self.weight].cast(pl.Float64).to_numpy()
        return MixtureRows(
            self.target.encode(rows), weight, [averageable(member_scores, self.target) for member_scores in scores]
        )


class EnsembleSelection(NamedTuple):
    """The number of times each candidate was added, and the mean score over the folds."""

    counts: dict[int, int]
    score: float


class Mixtures(Protocol):
    """Mixtures of candidates, to which candidates are added one by one."""

    n_candidates: int

    def scores(self) -> list[float]:
        """Return for each candidate the score of the mixture with it: the mean over the folds."""

    def add(self, candidate: int) -> None:
        """Add a candidate to the mixture."""


class TableMixtures:
    """Mixtures measured in this process.

    Parameters
    ----------
    folds
        The held-out rows of each fold.
    target, metric, custom
        The target, the name of the metric, and the custom metrics by name.
    """

    def __init__(self, folds: Sequence[MixtureRows], target: Target, metric: str, custom: Custom | None = None) -> None:
        self._folds, self._target, self._metric, self._custom = folds, target, metric, custom
        self._parts = [*zip(*(rows.scores for rows in folds), strict=True)]
        self._sums: list[Array] = [np.zeros_like(part) for part in self._parts[0]]
        self._n_added, self.n_candidates = 0, len(self._parts)

    def scores(self) -> list[float]:
        return [self._score([s + p for s, p in zip(self._sums, part, strict=True)]) for part in self._parts]

    def _score(self, sums: Sequence[Array]) -> float:
        metric, n = self._metric, self._n_added + 1
        fold_scores = [
            metrics.evaluate([metric], self._target, total / n, held.truth, held.weight, self._custom)[metric]
            for total, held in zip(sums, self._folds, strict=True)
        ]
        return mean(fold_scores)

    def add(self, candidate: int) -> None:
        self._sums = [s + p for s, p in zip(self._sums, self._parts[candidate], strict=True)]
        self._n_added += 1


def select(mixtures: Mixtures, mode: str) -> EnsembleSelection:
    """Return the best ensemble among all steps of the greedy selection."""
    sign = loss_sign(mode)
    added: list[int] = []
    losses: list[float] = []
    for _ in range(ROUNDS):
        tried = [sign * score for score in mixtures.scores()]
        best = int(np.argmin(tried))
        added.append(best)
        losses.append(tried[best])
        mixtures.add(best)
    length = int(np.argmin(losses)) + 1
    return EnsembleSelection(dict(Counter(added[:length])), sign * losses[length - 1])


def check(metric: str, custom: Custom | None = None) -> None:
    """Raise ParameterError when a metric can only be computed by a framework."""
    try:
        metrics.get(metric, custom)
    except ParameterError as error:
        raise ParameterError(
            f"Analysis.ensemble: {metric!r} is reported by the framework and cannot be computed for an ensemble.",
            f"Expected one of {metrics.names()}.",
            "tune by one of these.",
        ) from error
