"""Count, mean and variance of a numeric column, and its smallest and largest value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import polars as pl

from rayline.core.schema import col
from rayline.core.statistics.base import UNOPTIMIZED, Statistic, missing_as_null

SERIAL_VALUES = 1 << 22
"""Values whose moments take less time one column after another than a query of all columns takes to begin."""


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
        # Without the step that makes NaN missing: the mean shows whether there is any.
        if rows.height * len(names) > SERIAL_VALUES:
            columns = [col(name).cast(pl.Float64) for name in names]
            wanted = [x.mean() for x in columns] + [x.var(ddof=0) for x in columns]
            query = rows.lazy().select(value.alias(str(i)) for i, value in enumerate(wanted))
            values = query.collect(engine="in-memory", optimizations=UNOPTIMIZED).row(0)
            pairs = list(zip(values[: len(names)], values[len(names) :], strict=True))
        else:
            series = [rows[name].alias("values").cast(pl.Float64) for name in names]
            pairs = [(x.mean(), x.var(ddof=0)) for x in series]
        nulls = [rows[name].null_count() for name in names]
        return [
            cls.of(rows.height - n, n, mean, variance) if mean is None or mean == mean else None
            for n, (mean, variance) in zip(nulls, pairs, strict=True)
        ]

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
