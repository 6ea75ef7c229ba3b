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
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import polars as pl


class StatisticRequest(NamedTuple):
    """A request for a statistic of some columns. Stages with equal requests share the result."""

    statistic: type[Statistic]
    columns: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    prefix: str = ""
    """Empty for columns of the raw table, otherwise the digest of the fitted stages to apply first."""


class Statistic:
    """A mergeable summary of a batch of rows. Subclasses are frozen and implement either `expressions` or `query`."""

    __slots__ = ()

    streams: ClassVar[bool] = False
    """Whether the state is small and bit-identical for any order of the rows: then one query scans all rows."""

    treats_nan: ClassVar[bool] = False
    """Whether NaN in its columns may be left to the statistic, which takes it for missing."""

    in_pieces: ClassVar[bool] = False
    """Whether the columns may consist of several memory chunks: sums, and what needs arrays, want one."""

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        """Return aggregates of one value each; the engine evaluates those of all statistics in one pass."""
        return []

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        """Return a query, for statistics that are tables; it is evaluated in the same pass.

        The query of a statistic that `streams` groups the rows. With the option `by`, a list of columns, it receives all
        rows at once: it also groups by these columns, and limits what it keeps in memory (see `is_beyond`). `of` receives it too.
        """
        return None

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        """Return the state from the values of `expressions`, in order, or from the table of `query`; by default they are its fields."""
        return cls(*values)

    @classmethod
    def of_cells(cls, table: pl.DataFrame, cell: str, **options: Any) -> Mapping[int, Self]:
        """Return the state of each cell from the table of a query `by` this column."""
        parts = table.partition_by(cell, as_dict=True, include_key=False)
        return {int(key[0]): cls.of(part, **options) for key, part in parts.items()}

    @classmethod
    def of_columns(cls, rows: pl.DataFrame, names: Sequence[str]) -> list[Self | None]:
        """Return the state of each of these columns of rows in memory, to the bit that of `expressions`, where that is quicker; otherwise None."""
        return [None] * len(names)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        """Return the state of no rows, the identity of `merge`; by default the one of the default values of its fields."""
        return cls()

    def merge(self, other: Self) -> Self:
        """Return the state of the rows of both. A subclass defines this method or `merge_all`."""
        return self.merge_all([self, other])

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        """Return the state of the rows of all states; a subclass may be faster than merging one by one."""
        if cls.merge is Statistic.merge:
            raise NotImplementedError(f"{cls.__name__} defines neither merge nor merge_all")
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


UNOPTIMIZED = pl.QueryOptFlags.none()
"""For queries of many simple expressions, which take longer to optimize than to compute."""


def missing_as_null(column: pl.Expr) -> pl.Expr:
    """Return a numeric column as float64 with NaN as null."""
    return column.cast(pl.Float64).fill_nan(None)
