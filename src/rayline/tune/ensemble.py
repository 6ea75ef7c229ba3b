"""Greedy ensemble selection on held-out predictions.

Caruana, Niculescu-Mizil, Crew and Ksikes, "Ensemble selection from libraries of models" (2004): start with nothing, add the
model that helps most, again and again and with replacement; how often a model was added is its weight.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rayline.core.errors import ParameterError
from rayline.core.target import Target
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import Custom
from rayline.inference.ensemble import averageable
from rayline.tune.trial_record import mean

ROUNDS = 25
"""Models that are added, with replacement."""

Array = npt.NDArray[Any]


class HeldOutRows(NamedTuple):
    """The held-out rows of a fold: labels and weights."""

    truth: Array
    weight: Array | None


class EnsembleSelection(NamedTuple):
    """How often each candidate was added, and the score of the mean over the folds."""

    counts: dict[int, int]
    score: float


def select(
    candidates: Sequence[Sequence[Array]],
    folds: Sequence[HeldOutRows],
    target: Target,
    metric: str,
    mode: str,
    custom: Custom | None = None,
) -> EnsembleSelection:
    """The best ensemble that greedy selection meets on its way.

    Parameters
    ----------
    candidates
        For each candidate the scores of the held-out rows of each fold.
    folds
        The held-out rows.
    """
    parts = [[averageable(scores, target) for scores in candidate] for candidate in candidates]
    sign = -1.0 if mode == "max" else 1.0

    def loss(sums: Sequence[Array], n: int) -> float:
        found = [
            metrics.evaluate([metric], target, total / n, held.truth, held.weight, custom)[metric]
            for total, held in zip(sums, folds, strict=True)
        ]
        return sign * mean(found)

    sums: list[Array] = [np.zeros_like(part) for part in parts[0]]
    added: list[int] = []
    losses: list[float] = []
    for _ in range(ROUNDS):
        tried = [loss([s + p for s, p in zip(sums, part, strict=True)], len(added) + 1) for part in parts]
        best = int(np.argmin(tried))
        added.append(best)
        losses.append(tried[best])
        sums = [s + p for s, p in zip(sums, parts[best], strict=True)]
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
