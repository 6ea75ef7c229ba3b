"""The distribution of a numeric column in bounded memory: counts in buckets of the float64 number line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.statistics.base import Statistic, missing_as_null

MAX_BUCKETS = 1 << 16
"""Buckets of a quantile sketch; while a column has no more distinct values than this its quantiles are exact."""


@dataclass(frozen=True, eq=False)
class Quantiles(Statistic):
    """The distribution of a numeric column, for medians and other quantiles.

    The values are counted in buckets of the float64 number line: those that share all but their `level` lowest bits.
    `level` is the smallest at which no more than `MAX_BUCKETS` buckets are needed, so the state is a function of the
    set of values alone, whatever the batches. At level 0 quantiles are exact; at level L a quantile is off by at most
    one bucket, a relative error of 2^(L-52) of the value. The idea is that of DDSketch (Masson, Rim and Lee, 2019),
    with the float format's own buckets.
    """

    n_null: int = 0
    level: int = 0
    table: pl.DataFrame = field(default_factory=lambda: _NO_BUCKETS)  # columns "key" and "n"

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(value=missing_as_null(columns[0]))

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        column: pl.Series = values[0]["value"]
        keys = _keys(column.drop_nulls().to_numpy())
        # Any part of the rows that overflows at a level proves that the whole does: find the level on a few rows first.
        level = _level(np.sort(keys[: 4 * MAX_BUCKETS]))
        table, more = _limited(_counted(keys >> level))
        return cls(column.null_count(), level + more, table)

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        level = max((state.level for state in states), default=0)
        tables = [_coarser(state.table, level - state.level) for state in states]
        table = pl.concat(tables) if tables else _NO_BUCKETS
        table, more = _limited(table.group_by("key").agg(pl.col("n").sum()))
        return cls(sum(state.n_null for state in states), level + more, table)

    @property
    def count(self) -> int:
        """Values that are not missing."""
        return int(self.table["n"].sum())

    def quantile(self, q: float) -> float | None:
        """Return the q-quantile with linear interpolation between neighbours, as NumPy's default; None of no values."""
        return self.quantiles([q])[0] if self.count else None

    def quantiles(self, qs: Sequence[float]) -> list[float]:
        """Several quantiles; needs values."""
        values, n = self.points()
        ends = np.cumsum(n)
        positions = [q * (int(ends[-1]) - 1) for q in qs]
        lows = values[np.searchsorted(ends, [math.floor(p) for p in positions], side="right")].tolist()
        highs = values[np.searchsorted(ends, [math.ceil(p) for p in positions], side="right")].tolist()
        brackets = zip(lows, highs, positions, strict=True)
        return [_between(low, high, p - math.floor(p)) for low, high, p in brackets]

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Return the values in ascending order (at a level above 0 the middle of each bucket), and how often each occurs."""
        table = self.table.sort("key")
        return self._values(table), table["n"].to_numpy()

    def filled(self, value: float) -> Self:
        """Return the distribution after the missing values became `value`."""
        key = _keys(np.array([value], dtype=np.float64))
        more = pl.DataFrame({"key": key, "n": [self.n_null]}, schema=_NO_BUCKETS.schema)
        known = type(self)(0, self.level, self.table)
        return known.merge(type(self)(0, 0, more)) if self.n_null else known

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """Return the distribution after x became (x - shift) / scale + offset."""
        values = (self._values(self.table) - shift) * (1.0 / scale) + offset
        moved = pl.DataFrame({"key": _keys(values) >> self.level, "n": self.table["n"]})
        return self.merge_all([type(self)(self.n_null, self.level, moved)])

    def _values(self, table: pl.DataFrame) -> npt.NDArray[np.float64]:
        keys = table["key"].to_numpy()
        if not self.level:
            return _unkeys(keys)
        low, high = (np.clip(k, _LOWEST, _HIGHEST) for k in (keys << self.level, ((keys + 1) << self.level) - 1))
        return _unkeys(low) / 2 + _unkeys(high) / 2

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quantiles):
            return NotImplemented
        mine, theirs = self.table.sort("key").rows(), other.table.sort("key").rows()
        return (self.n_null, self.level, mine) == (other.n_null, other.level, theirs)

    __hash__ = None  # type: ignore[assignment]  # a table has no hash


def _between(low: float, high: float, share: float) -> float:
    if low == high or not share:
        return low
    if math.isfinite(high - low):
        return low + (high - low) * share
    return low * (1.0 - share) + high * share  # the span overflows


# The float64 number line as integers: order-preserving, so buckets are runs of neighbouring floats.

_NO_BUCKETS: pl.DataFrame = pl.DataFrame(schema={"key": pl.Int64, "n": pl.Int64})
_MAX_BINS = 1 << 24  # counted in an array when the keys span no more


def _keys(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    bits = (values + 0.0).view(np.int64)  # + 0.0 makes -0.0 one with 0.0
    return bits ^ ((bits >> 63) & 0x7FFF_FFFF_FFFF_FFFF)


def _unkeys(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return (keys ^ ((keys >> 63) & 0x7FFF_FFFF_FFFF_FFFF)).view(np.float64)


_LOWEST, _HIGHEST = _keys(np.array([-math.inf, math.inf])).tolist()


def _level(keys: npt.NDArray[np.int64]) -> int:
    """Return the smallest level at which these sorted keys need no more than MAX_BUCKETS buckets."""
    low, high = 0, 64
    while low < high:
        middle = (low + high) // 2
        fits = np.count_nonzero(np.diff(keys >> middle)) < MAX_BUCKETS
        low, high = (low, middle) if fits else (middle + 1, high)
    return low


def _counted(keys: npt.NDArray[np.int64]) -> pl.DataFrame:
    if len(keys):
        low, high = int(keys.min()), int(keys.max())
        if high - low < _MAX_BINS:
            n = np.bincount(keys - low)
            places = np.flatnonzero(n)
            return pl.DataFrame({"key": places + low, "n": n[places]}, schema=_NO_BUCKETS.schema)
    return pl.DataFrame({"key": keys}).group_by("key").agg(n=pl.len().cast(pl.Int64))


def _limited(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    if table.height <= MAX_BUCKETS:
        return table, 0
    more = _level(np.sort(table["key"].to_numpy()))
    return _coarser(table, more), more


def _coarser(table: pl.DataFrame, levels: int) -> pl.DataFrame:
    if not levels:
        return table.select("key", "n")
    return table.group_by(pl.col("key") // (1 << levels)).agg(pl.col("n").sum())
