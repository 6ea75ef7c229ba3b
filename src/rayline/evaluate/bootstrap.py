"""Poisson bootstrap from row hashes: how often each bucket of rows counts in each replicate, and intervals of the replicates.

A row belongs to the bucket that its hash names, and in a replicate all rows of a bucket count a random number of times, drawn
from a Poisson distribution of mean 1 that the seed and the bucket decide (Chamandy and others, "Estimating uncertainty for massive
data streams", 2012, draw for rows or for hashed units). The same rows thus have the same replicates in one process, on Ray, in any
blocks and any order.

Rows that are equal in every column share a hash, but are observations of their own. A sketch of the row hashes says how often
rows repeat, and multiplicities vary less by that much: with λ copies of each row they are Poisson(λ) / λ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.evaluation import Estimate
from rayline.core.statistics.base import Statistic
from rayline.data.split.row_hash import value_words

Array = npt.NDArray[Any]

N_BUCKETS = 512
"""Buckets of rows. The standard error of an interval's width due to their number is 3 %."""

REPLICATES = 500
"""Replicates by default."""

SKETCHED = 1024
"""Different rows whose copies are counted: all rows up to so many, beyond those with the smallest hashes."""

HASHED_COLUMNS = 32
"""Columns that a row is hashed by: evenly chosen ones of more."""

_FEW_COPIES = 1.02
_ODD, _SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


def row_hashes(table: pl.DataFrame, columns: Sequence[str]) -> Array:
    """Return a hash of each row (uint64), which depends on the values and the names of the columns.

    It is the sum of the values' words, each multiplied and shifted with a key of its column: as steady across processes and
    versions as `rayline.data.split.row_hash`, and quicker, because a bucket need not be as evenly spread as a split.
    """
    total = np.full(table.height, _ODD, dtype=np.uint64)
    for name in columns:
        key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") | 1
        words = _words(table[name])
        words *= np.uint64(key)
        words ^= words >> np.uint64(32)
        words *= _SPREAD
        total += words
    total ^= total >> np.uint64(31)
    total *= _SPREAD
    total ^= total >> np.uint64(29)
    return total


def _words(values: pl.Series) -> Array:
    if values.dtype in (pl.Float64, pl.Float32) and not values.null_count():
        floats = values.cast(pl.Float64).to_numpy() + 0.0
        return floats.view(np.uint64)  # a NaN hashes by its bits, which all usual ones share
    if values.dtype in _NARROW and not values.null_count():
        return (values.cast(pl.Float64).to_numpy() + 0.0).view(np.uint64)
    return value_words(values)


_NARROW = (pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32)


def hashed_columns(names: Iterable[str]) -> tuple[str, ...]:
    """Return the columns that rows are hashed by."""
    ordered = sorted(set(names))
    if len(ordered) <= HASHED_COLUMNS:
        return tuple(ordered)
    places = np.linspace(0, len(ordered) - 1, HASHED_COLUMNS).round().astype(int)
    return tuple(ordered[i] for i in places)


def buckets(hashes: Array) -> Array:
    """Return the bucket of each row."""
    return (hashes & np.uint64(N_BUCKETS - 1)).astype(np.int64)


@dataclass(frozen=True, eq=False)
class RowCopies(Statistic):
    """The number of occurrences of the distinct rows with the smallest hashes."""

    hashes: Array = field(default_factory=lambda: np.empty(0, np.uint64))  # ascending
    counts: Array = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (hashes,) = values
        few = hashes
        if len(hashes) > 8 * SKETCHED:
            few = hashes[hashes <= np.uint64(4 * SKETCHED * 2**64 // len(hashes))]  # hashes are spread evenly
        distinct, counts = np.unique(few, return_counts=True)
        if len(distinct) < SKETCHED and len(few) < len(hashes):
            distinct, counts = np.unique(hashes, return_counts=True)
        return cls(distinct[:SKETCHED], counts[:SKETCHED].astype(np.int64))

    def merge(self, other: Self) -> Self:
        distinct, places = np.unique(np.concatenate([self.hashes, other.hashes]), return_inverse=True)
        counts = np.bincount(places, np.concatenate([self.counts, other.counts])).astype(np.int64)
        return type(self)(distinct[:SKETCHED], counts[:SKETCHED])

    def mean_copies(self) -> Array:
        """Return the mean number of copies of a row, over the rows, for each bucket; 1 where rows do not repeat."""
        if not len(self.hashes):
            return np.ones(N_BUCKETS)
        overall = float((self.counts**2).sum() / self.counts.sum())
        if len(self.hashes) >= SKETCHED:
            return np.full(N_BUCKETS, overall if overall > _FEW_COPIES else 1.0)
        places = buckets(self.hashes)
        rows = np.bincount(places, self.counts, minlength=N_BUCKETS)
        pairs = np.bincount(places, self.counts**2, minlength=N_BUCKETS)
        return np.where(rows > 0, pairs / np.maximum(rows, 1), 1.0)


def multiplicities(replicates: int, copies: Array, seed: int) -> Array:
    """Return how often each bucket counts in each replicate, shape (1 + replicates, buckets); the first row are ones."""
    random = np.random.Generator(np.random.Philox(key=seed))
    drawn = random.poisson(copies, (replicates, len(copies))) / copies
    return np.concatenate([np.ones((1, len(copies))), drawn])


def estimate(values: Array, confidence: float) -> Estimate:
    """Return the first value with the interval of the others: percentiles, NaN where fewer than half are defined."""
    drawn = values[1:][np.isfinite(values[1:])]
    value = float(values[0])
    if not np.isfinite(value) or not len(drawn) or 2 * len(drawn) < min(len(values) - 1, 30):
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(value, float(low), float(high))
