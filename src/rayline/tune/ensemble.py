"""Greedy ensemble selection on held-out predictions.

Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models" (2004): start with
nothing, and repeatedly add the model that improves the score most, with replacement; its weight is the number of times it was added.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from rayline.core.errors import ParameterError
from rayline.core.target import Target
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import Custom
from rayline.inference.members import averageable
from rayline.tune.trial_record import mean

ROUNDS = 25
"""The number of models that are added, with replacement."""

Array = npt.NDArray[Any]


class HeldOutRows(NamedTuple):
    """The held-out rows of a fold: labels and weights."""

    truth: Array
    weight: Array | None


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
    candidates
        The scores of the held-out rows of each fold, for each candidate.
    folds
        The held-out rows.
    """

    def __init__(
        self,
        candidates: Sequence[Sequence[Array]],
        folds: Sequence[HeldOutRows],
        target: Target,
        metric: str,
        custom: Custom | None = None,
    ) -> None:
        self._parts = [[averageable(scores, target) for scores in candidate] for candidate in candidates]
        self._folds, self._target, self._metric, self._custom = folds, target, metric, custom
        self._sums: list[Array] = [np.zeros_like(part) for part in self._parts[0]]
        self._n_added, self.n_candidates = 0, len(candidates)

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
    sign = -1.0 if mode == "max" else 1.0
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
