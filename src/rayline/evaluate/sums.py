"""Mergeable statistics of scored rows, kept for each bootstrap bucket: sums, moments and the largest value.

A bucket is a set of rows that a hash chooses. A bootstrap replicate counts the rows of a bucket a random number of times,
its multiplicity; so replicates are computed from the statistics of the buckets, after all rows have been seen, and
statistics of parts of the data merge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from rayline.core.statistics.base import Statistic
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.quantities import quantity

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class ArrayStatistic(Statistic):
    """An array that merges element by element, by `combine`; None without rows."""

    combine: ClassVar[np.ufunc] = np.add

    values: Array | None = None

    def merge(self, other: Self) -> Self:
        if self.values is None or other.values is None:
            return other if self.values is None else self
        return type(self)(self.combine(self.values, other.values))

    @classmethod
    def of_slices(cls, grouped: ScoredBatch, slices: Array, n_slices: int, **options: Any) -> list[Self]:
        """Return the statistic of each slice, from a batch whose buckets are those of all slices, one after the other."""
        values = cls.of(grouped, **options).values
        assert values is not None
        return [cls(array) for array in values.reshape(n_slices, -1, *values.shape[1:])]


@dataclass(frozen=True, eq=False)
class BucketSums(ArrayStatistic):
    """Weighted sums of a quantity of the rows (see `rayline.evaluate.quantities`), shape (buckets, width)."""

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        return cls(quantity(options["name"])(batch))

    def total(self, multiplicity: Array) -> Array:
        """Return the sums of each replicate, shape (replicates, width), for multiplicities of shape (replicates, buckets)."""
        if self.values is None:
            return np.full((len(multiplicity), 1), np.nan)
        filled = np.flatnonzero(self.values.any(axis=1))
        if 2 * len(filled) > len(self.values):
            return np.asarray(multiplicity @ self.values)
        return np.asarray(multiplicity[:, filled] @ self.values[filled])

    # Few rows fill few buckets: only those travel.

    def __getstate__(self) -> dict[str, Any]:
        if self.values is None:
            return {}
        rows = np.flatnonzero(self.values.any(axis=1))
        return {"shape": self.values.shape, "rows": rows.astype(np.uint16), "values": self.values[rows]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        values = None
        if state:
            values = np.zeros(state["shape"])
            values[state["rows"]] = state["values"]
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, eq=False)
class BucketMoments(Statistic):
    """Weight, mean and squared deviations of the true values and of the errors in each bucket.

    Merged as in Chan, Golub and LeVeque (1979), so that values far from 0 lose no precision.
    """

    weight: Array | None = None  # (buckets, 1)
    mean: Array | None = None  # (buckets, 2): true values, errors
    m2: Array | None = None  # sums of squared deviations from these means
    n_rows: int = 0

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        assert isinstance(batch, ScoredBatch)
        if not len(batch):
            return cls()
        both = np.stack([batch.truth, batch.errors], axis=1)
        center = both.mean(axis=0)
        moved = both - center
        weight = batch.sums(1.0)
        first = np.concatenate([batch.sums(column) for column in moved.T], axis=1)
        second = np.concatenate([batch.sums(column**2) for column in moved.T], axis=1)
        mean = np.divide(first, weight, out=np.zeros_like(first), where=weight > 0)
        return cls(weight, mean + center, second - first * mean, len(batch))

    def merge(self, other: Self) -> Self:
        if self.weight is None or self.mean is None or self.m2 is None:
            return other
        if other.weight is None or other.mean is None or other.m2 is None:
            return self
        weight = self.weight + other.weight
        share = np.divide(other.weight, weight, out=np.zeros_like(weight), where=weight > 0)
        delta = other.mean - self.mean
        return type(self)(
            weight,
            self.mean + delta * share,
            self.m2 + other.m2 + delta * delta * self.weight * share,
            self.n_rows + other.n_rows,
        )

    def total(self, multiplicity: Array) -> tuple[Array, Array, Array]:
        """Return weights (replicates,), means (replicates, 2) and sums of squared deviations (replicates, 2)."""
        if self.weight is None or self.mean is None or self.m2 is None:
            nothing = np.full((len(multiplicity), 2), np.nan)
            return nothing[:, 0], nothing, nothing
        weight = multiplicity @ self.weight
        center = (self.weight * self.mean).sum(axis=0) / max(self.weight.sum(), np.finfo(float).tiny)
        moved = self.mean - center
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = (multiplicity @ (self.weight * moved)) / weight
        second = multiplicity @ (self.m2 + self.weight * moved**2)
        m2 = second - weight * shift**2
        # Of a replicate that drew equal rows only, nothing but rounding is left.
        return weight[:, 0], center + shift, np.where(m2 <= 1e-13 * second, 0.0, m2)


@dataclass(frozen=True, eq=False)
class BucketMaximum(ArrayStatistic):
    """The largest absolute error in each bucket, shape (buckets,); −inf without rows."""

    combine: ClassVar[np.ufunc] = np.maximum

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        assert isinstance(batch, ScoredBatch)
        maxima = np.full(batch.n_buckets, -np.inf)
        errors = np.abs(batch.errors)
        if batch.weight is not None:
            errors = np.where(batch.weight > 0, errors, -np.inf)
        if batch.bucket is None:
            maxima[0] = errors.max(initial=-np.inf)
        else:
            order = np.argsort(batch.bucket, kind="stable")
            filled, starts = np.unique(batch.bucket[order], return_index=True)
            if len(filled):
                maxima[filled] = np.maximum.reduceat(errors[order], starts)
        return cls(maxima)

    def total(self, multiplicity: Array) -> Array:
        """Return the largest value of each replicate; NaN without rows."""
        if self.values is None:
            return np.full(len(multiplicity), np.nan)
        maxima = np.where(multiplicity > 0, self.values, -np.inf).max(axis=1)
        return np.where(np.isfinite(maxima), maxima, np.nan)
