"""Statistics: mergeable summaries of columns, the only input of a fit.

A statistic is a monoid: `empty`, `merge` (associative and commutative), and `of` a batch. So the result does not depend on
how the rows are split, in which order the parts arrive, or whether they come from this process, from Ray blocks or
from the other folds of a cross validation. States are sufficient statistics, never final results: a variance cannot be
merged, a sum of squared deviations can.

Some statistics can also be transformed when the column is changed in a simple way (`filled`, `affine`). A stage that
reads such a column needs no second scan: its statistic is computed from that of the raw column.

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
    """A request for a statistic of some columns. Stages with equal requests share the result."""

    statistic: type[Statistic]
    columns: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    prefix: str = ""
    """Empty for columns of the raw table, otherwise the digest of the fitted stages to apply first."""


class Statistic(ABC):
    """A mergeable summary of a batch of rows. Subclasses are frozen and implement either `expressions` or `query`."""

    __slots__ = ()

    streams: ClassVar[bool] = False
    """Whether the state is small and bit-identical for any order of the rows: then one query scans all rows."""

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        """Return aggregates of one value each; the engine evaluates those of all statistics in one pass."""
        return []

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        """Return a query, for statistics that are tables; it is evaluated in the same pass.

        The query of a statistic that `streams` groups the rows. With the option `by`, a list of columns, it receives all
        rows at once: it also groups by these columns, and limits what it keeps in memory (see `is_beyond`).
        """
        return None

    @classmethod
    @abstractmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        """Return the state from the values of `expressions`, in order, or from the table of `query`."""

    @classmethod
    @abstractmethod
    def empty(cls, **options: Any) -> Self:
        """Return the state of no rows: the identity of `merge`."""

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """Return the state of the rows of both."""

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        """Return the state of the rows of all states; a subclass may be faster than merging one by one."""
        return functools.reduce(lambda a, b: a.merge(b), states, cls.empty(**options))

    @property
    def is_beyond(self) -> bool:
        """Whether the limit of a query over all rows was exceeded, so that the rows must be scanned in chunks."""
        return False

    @classmethod
    def merge_folds(cls, states: Mapping[int, Self], folds: Sequence[Sequence[int]], **options: Any) -> list[Self]:
        """Return the state of each fold, merged from the cells that it lists, each as often as it is listed.

        Cells without a state have no rows. A subclass may be faster than merging fold by fold.
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
        """Return the extremes after missing values are replaced by `value`."""
        present = type(self)(self.count, 0, self.low, self.high)
        return present.merge(type(self)(self.n_null, 0, value, value)) if self.n_null else present

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """Return the extremes after x is replaced by (x - shift) / scale + offset."""
        if self.low is None:
            return self
        ends = [(v - shift) * (1.0 / scale) + offset for v in (self.low, self.high)]
        return type(self)(self.count, self.n_null, min(ends), max(ends))


@dataclass(frozen=True, slots=True)
class RowCount(Statistic):
    """The number of rows."""

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
    """The number of values of a numeric column that are at most `bound`."""

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
        """Return the count after missing values are replaced by `value`."""
        return type(self)(self.count + self.n_null * (value <= self.bound), 0, self.bound)


@dataclass(frozen=True, slots=True)
class MissingCount(Statistic):
    """The numbers of values and of missing values of a column of any type."""

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
    """The number of spaces in the strings of a column, which distinguishes free text from categories."""

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
        """Whether the strings are free text: four or more words on average."""
        return self.count > 0 and self.n_spaces >= 3 * self.count


def missing_as_null(column: pl.Expr) -> pl.Expr:
    """Return a numeric column as float64 with NaN as null."""
    return column.cast(pl.Float64).fill_nan(None)
