"""CV+ intervals: around the answers of the models of all folds, by their errors on the rows that each did not see.

Barber, Candès, Ramdas and Tibshirani, "Predictive inference with the jackknife+" (2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rayline.postprocess.base import Array

MAX_POINTS = 2000
"""The errors that are kept of each fold and target; of more of them, as many evenly spaced order statistics."""

_STEPS = 80  # halvings of an interval of floats


@dataclass(frozen=True)
class FoldResiduals:
    """The absolute errors of each fold model, by target: sorted arrays, and the number of rows of each fold."""

    coverage: float
    errors: Sequence[Sequence[Array]]  # by target, by fold
    n_rows: Sequence[int]

    @classmethod
    def of(cls, errors: Array, folds: Array, coverage: float) -> Self:
        parts = [folds == fold for fold in np.unique(folds)]
        kept = [[_thinned(np.sort(column[part])) for part in parts] for column in errors.T]
        return cls(coverage, kept, [int(part.sum()) for part in parts])

    def intervals(self, members: Array) -> tuple[Array, Array]:
        """Return lower and upper ends, shape (n, targets), from the members' values, shape (n, members, targets).

        The ends are order statistics of μ_k(x) ± R_i over all rows i of all folds k, found by halving.
        """
        n = sum(self.n_rows)
        rank = math.ceil((n + 1) * self.coverage - 1e-9)
        upper = [self._order_statistic(members[:, :, t], errors, rank) for t, errors in enumerate(self.errors)]
        lower = [-self._order_statistic(-members[:, :, t], errors, rank) for t, errors in enumerate(self.errors)]
        return np.stack(lower, axis=1), np.stack(upper, axis=1)

    def _order_statistic(self, centers: Array, errors: Sequence[Array], rank: int) -> Array:
        """Return the rank-th smallest of centers[:, k] + errors[k], for each row."""
        low = centers.min(axis=1)
        high = centers.max(axis=1) + max(fold_errors[-1] for fold_errors in errors)
        low = low - np.abs(low) * 1e-9 - 1e-300
        for _ in range(_STEPS):
            middle = low + (high - low) / 2
            count = np.zeros(len(centers))
            for k, fold_errors in enumerate(errors):
                share = self.n_rows[k] / len(fold_errors)
                count += share * np.searchsorted(fold_errors, middle - centers[:, k], side="right")
            enough = count >= rank - 1e-6
            low, high = np.where(enough, low, middle), np.where(enough, middle, high)
        bounds: Array = high
        return bounds

    def to_json(self) -> dict[str, Any]:
        errors = [[fold_errors.tolist() for fold_errors in target] for target in self.errors]
        return {"coverage": self.coverage, "errors": errors, "n_rows": list(self.n_rows)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        errors = [[np.array(fold_errors, dtype=np.float64) for fold_errors in target] for target in data["errors"]]
        return cls(float(data["coverage"]), errors, [int(n) for n in data["n_rows"]])


def _thinned(errors: Array) -> Array:
    if len(errors) <= MAX_POINTS:
        return errors
    places = np.ceil(np.arange(1, MAX_POINTS + 1) * len(errors) / MAX_POINTS).astype(np.int64) - 1
    return errors[places]
