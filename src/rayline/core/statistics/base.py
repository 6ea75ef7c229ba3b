"""Statistics: mergeable summaries of columns, the only thing that a fit ever asks of the data.

A statistic is a monoid: `empty`, `merge` (associative and commutative), and `of` a batch. So it does not matter
how the rows are split, in which order the parts arrive, or whether they come from this process, from Ray blocks or
from the other folds of a cross validation. States hold sufficient values, never finished ones: a variance cannot be
merged, a sum of squared deviations can.

Some statistics also know what they become when the column is changed in a simple way (`filled`, `affine`). A stage
that reads such a column needs no second scan: its statistic is computed from that of the raw column.

In float columns NaN is a missing value, exactly like null, everywhere in Rayline.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import polars as pl


class StatisticRequest(NamedTuple):
    """A question to the data: this statistic of these columns. Two stages that ask the same share the answer."""

    statistic: type[Statistic]
    columns: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    prefix: str = ""
    """Empty for columns of the raw table, otherwise the digest of the fitted stages to apply before looking."""


class Statistic(ABC):
    """A mergeable summary of a batch of rows. Subclasses are frozen and say either `expressions` or `query`."""

    __slots__ = ()

    streams: ClassVar[bool] = False
    """Whether the state is small and the same in any order of the rows, to the bit: then one query looks at all rows."""

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        """Aggregates of one value each; the engine evaluates those of all statistics in one pass."""
        return []

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        """A query, for statistics that are a table themselves; evaluated in the same pass.

        A statistic that `streams` groups the rows. With the option `by`, a list of columns, all rows come at once: it
        groups by these columns too, and bounds what it holds (see `is_beyond`).
        """
        return None

    @classmethod
    @abstractmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        """The state from the values of `expressions`, in order, or from the one table of `query`."""

    @classmethod
    @abstractmethod
    def empty(cls, **options: Any) -> Self:
        """The state of no rows: the identity of `merge`."""

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """The state of the rows of both."""

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        """The state of the rows of all; a subclass may do better than one by one."""
        return functools.reduce(lambda a, b: a.merge(b), states, cls.empty(**options))

    @property
    def is_beyond(self) -> bool:
        """Whether there was more than a query of all rows may hold, so that the rows must be looked at part by part."""
        return False

    @classmethod
    def merge_folds(cls, states: Mapping[int, Self], folds: Sequence[Sequence[int]], **options: Any) -> list[Self]:
        """The state of each fold from those of the cells: of the cells that it names, as often as it names them.

        Cells without a state have no rows. A subclass may do better than fold by fold.
        """
        return [cls.merge_all([states[cell] for cell in sorted(fold) if cell in states], **options) for fold in folds]


@dataclass(frozen=True, slots=True)
class Moments(Statistic):
    """Count, mean and squared deviations of a numeric column.

    Merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """

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
    def empty(cls, **options: Any) -> Self:
        return cls()

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
        """Population variance (ddof=0), as scikit-learn's StandardScaler uses it; 0.0 of no values."""
        return self.m2 / self.count if self.count else 0.0

    def filled(self, value: float) -> Self:
        """The moments after the missing values became `value`."""
        known = type(self)(self.count, 0, self.mean, self.m2)
        return known.merge(type(self)(self.n_null, 0, float(value), 0.0)) if self.n_null else known

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """The moments after x became (x - shift) / scale + offset."""
        if not self.count:
            return self
        return type(self)(
            self.count, self.n_null, (self.mean - shift) * (1.0 / scale) + offset, self.m2 / (scale * scale)
        )


@dataclass(frozen=True, slots=True)
class MinMax(Statistic):
    """Smallest and largest value of a numeric column; None of no values."""

    count: int = 0
    n_null: int = 0
    low: Any = None
    high: Any = None

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = missing_as_null(columns[0])
        return [x.count(), x.null_count(), x.min(), x.max()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls(*values)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

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
        """The extremes after the missing values became `value`."""
        known = type(self)(self.count, 0, self.low, self.high)
        return known.merge(type(self)(self.n_null, 0, value, value)) if self.n_null else known

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """The extremes after x became (x - shift) / scale + offset."""
        if self.low is None:
            return self
        ends = [(v - shift) * (1.0 / scale) + offset for v in (self.low, self.high)]
        return type(self)(self.count, self.n_null, min(ends), max(ends))


@dataclass(frozen=True, slots=True)
class RowCount(Statistic):
    """How many rows there are."""

    streams: ClassVar[bool] = True

    count: int = 0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        return [pl.len()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls(*values)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count)


@dataclass(frozen=True, slots=True)
class CountBelow(Statistic):
    """How many values of a numeric column are at most `bound`."""

    count: int = 0
    n_null: int = 0
    bound: float = 0.0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = missing_as_null(columns[0])
        return [(x <= options["bound"]).sum(), x.null_count()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        count, n_null = values
        return cls(count, n_null, options["bound"])

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls(bound=options["bound"])

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.n_null + other.n_null, self.bound)

    def filled(self, value: float) -> Self:
        """The count after the missing values became `value`."""
        return type(self)(self.count + self.n_null * (value <= self.bound), 0, self.bound)


@dataclass(frozen=True, slots=True)
class MissingCount(Statistic):
    """How many values of a column of any type are missing."""

    streams: ClassVar[bool] = True

    count: int = 0
    n_null: int = 0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        return [columns[0].count(), columns[0].null_count()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls(*values)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.n_null + other.n_null)


@dataclass(frozen=True, slots=True)
class WordCount(Statistic):
    """How many words the strings of a column have: what tells free text from categories."""

    streams: ClassVar[bool] = True

    count: int = 0
    n_spaces: int = 0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = columns[0].cast(pl.String)
        return [x.count(), x.str.count_matches(" ", literal=True).sum()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        count, spaces = values
        return cls(count, spaces or 0)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.n_spaces + other.n_spaces)

    @property
    def is_text(self) -> bool:
        """Free text has four words or more in the mean."""
        return self.count > 0 and self.n_spaces >= 3 * self.count


def missing_as_null(column: pl.Expr) -> pl.Expr:
    """A numeric column as float64 with NaN as null."""
    return column.cast(pl.Float64).fill_nan(None)
