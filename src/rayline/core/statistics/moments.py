"""Count, mean and variance of a numeric column, and its smallest and largest value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import polars as pl

from rayline.core.schema import col
from rayline.core.statistics.base import UNOPTIMIZED, Statistic, missing_as_null

SERIAL_VALUES = 1 << 22
"""Values whose moments take less time one column after another than a query of all columns takes to begin."""

SERIAL_ROWS = 1 << 16
"""Rows of a column whose moments take less time than a query takes to plan them, however many columns there are."""


def _aggregates(
    rows: pl.DataFrame, names: Sequence[str], mean: Callable[[Any], Any], *others: Callable[[Any], Any]
) -> list[tuple[Any, ...] | None]:
    """Return for each column how many values it has and lacks, its mean and the other aggregates; None for one that has NaN.

    Without the step that makes NaN missing: the mean shows whether there is any.
    """
    wanted = [(name, aggregate) for name in names for aggregate in (mean, *others)]
    if rows.height > SERIAL_ROWS and rows.height * len(names) > SERIAL_VALUES:
        query = rows.lazy().select(f(col(name).cast(pl.Float64)).alias(str(i)) for i, (name, f) in enumerate(wanted))
        values = iter(query.collect(engine="in-memory", optimizations=UNOPTIMIZED).row(0))
    else:
        series = {name: rows[name].alias("values").cast(pl.Float64) for name in names}
        values = iter([aggregate(series[name]) for name, aggregate in wanted])
    nulls = [rows[name].null_count() for name in names]
    groups = zip(nulls, *[values] * (1 + len(others)), strict=True)
    return [(rows.height - n, n, *group) if group[0] is None or group[0] == group[0] else None for n, *group in groups]


@dataclass(frozen=True, slots=True)
class Moments(Statistic):
    """Count, mean and squared deviations of a numeric column.

    Merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """

    treats_nan: ClassVar[bool] = True

    count: int = 0
    n_null: int = 0
    mean: float = 0.0
    m2: float = 0.0  # sum of squared deviations from the mean

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = missing_as_null(columns[0])
        return [x.count(), x.null_count(), x.mean(), x.var(ddof=0)]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        count, n_null, mean, variance = values
        return cls(count, n_null, mean, variance * count) if count else cls(0, n_null)

    @classmethod
    def of_columns(cls, rows: pl.DataFrame, names: Sequence[str]) -> list[Self | None]:
        aggregates = _aggregates(rows, names, lambda x: x.mean(), lambda x: x.var(ddof=0))
        return [None if values is None else cls.of(*values) for values in aggregates]

    def merge(self, other: Self) -> Self:
        count, n_null = self.count + other.count, self.n_null + other.n_null
        if not self.count or not other.count:
            one = self if self.count else other
            return type(self)(count, n_null, one.mean, one.m2) if count else type(self)(0, n_null)
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta * delta * (self.count * other.count / count)
        return type(self)(count, n_null, mean, m2)

    @property
    def variance(self) -> float:
        """The population variance (ddof=0), as in scikit-learn's StandardScaler; 0.0 without values."""
        return self.m2 / self.count if self.count else 0.0

    def filled(self, value: float) -> Self:
        """Return the moments after missing values are replaced by `value`."""
        present = type(self)(self.count, 0, self.mean, self.m2)
        return present.merge(type(self)(self.n_null, 0, float(value), 0.0)) if self.n_null else present

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """Return the moments after x is replaced by (x - shift) / scale + offset."""
        if not self.count:
            return self
        return type(self)(
            self.count, self.n_null, (self.mean - shift) * (1.0 / scale) + offset, self.m2 / (scale * scale)
        )


@dataclass(frozen=True, slots=True)
class MinMax(Statistic):
    """The smallest and the largest value of a numeric column; None without values."""

    treats_nan: ClassVar[bool] = True

    count: int = 0
    n_null: int = 0
    low: Any = None
    high: Any = None

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = missing_as_null(columns[0])
        return [x.count(), x.null_count(), x.min(), x.max()]

    @classmethod
    def of_columns(cls, rows: pl.DataFrame, names: Sequence[str]) -> list[Self | None]:
        aggregates = _aggregates(rows, names, lambda x: x.mean(), lambda x: x.min(), lambda x: x.max())
        return [None if values is None else cls(*values[:2], *values[3:]) for values in aggregates]

    def merge(self, other: Self) -> Self:
        lows = [v for v in (self.low, other.low) if v is not None]
        highs = [v for v in (self.high, other.high) if v is not None]
        return type(self)(
            self.count + other.count,
            self.n_null + other.n_null,
            min(lows, default=None),
            max(highs, default=None),
        )

    def filled(self, value: Any) -> Self:
        """Return the extremes after missing values are replaced by `value`."""
        present = type(self)(self.count, 0, self.low, self.high)
        return present.merge(type(self)(self.n_null, 0, value, value)) if self.n_null else present

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """Return the extremes after x is replaced by (x - shift) / scale + offset."""
        if self.low is None:
            return self
        ends = [(v - shift) * (1.0 / scale) + offset for v in (self.low, self.high)]
        return type(self)(self.count, self.n_null, min(ends), max(ends))
