"""Numbers of rows, values, missing values and words: statistics that are added up."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import polars as pl

from rayline.core.statistics.base import Statistic, missing_as_null


@dataclass(frozen=True, slots=True)
class CountStatistic(Statistic):
    """A statistic whose fields are numbers of rows or values: those of two parts are added up."""

    def merge(self, other: Self) -> Self:
        return type(self)(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class RowCount(CountStatistic):
    """The number of rows."""

    streams: ClassVar[bool] = True

    count: int = 0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        return [pl.len()]


@dataclass(frozen=True, slots=True)
class MissingCount(CountStatistic):
    """The numbers of values and of missing values of a column of any type."""

    streams: ClassVar[bool] = True

    count: int = 0
    n_null: int = 0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        return [columns[0].count(), columns[0].null_count()]


@dataclass(frozen=True, slots=True)
class WordCount(CountStatistic):
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

    @property
    def is_text(self) -> bool:
        """Whether the strings are free text: four or more words on average."""
        return self.count > 0 and self.n_spaces >= 3 * self.count


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
