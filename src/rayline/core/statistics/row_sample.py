"""A bounded sample of rows that is a function of the rows alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from rayline.core.schema import categories_as_text
from rayline.core.statistics.base import Statistic, missing_as_null
from rayline.core.statistics.multi_column import row_hash

_SEED = 0xD0_12


@dataclass(frozen=True, eq=False)
class RowSample(Statistic):
    """The `size` different rows of numeric columns with the smallest hashes, and how often each occurs.

    Which rows those are depends on their values alone: neither on batches nor on order, and a row that occurs often is no
    likelier than another. With the option `grouped` the first column names a group, and each group has a sample of
    its own; rows without a group do not count.
    """

    size: int = 0
    table: pl.DataFrame | None = None  # columns "hash", "group", "0", "1", …, "n"

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        group, numbers = (columns[0], columns[1:]) if options.get("grouped") else (pl.lit(0), columns)
        values = {str(i): missing_as_null(column) + 0.0 for i, column in enumerate(numbers)}  # -0.0 is 0.0
        selected = table.select(group=group, **values)
        hashed = selected.with_columns(hash=row_hash([pl.col(name) for name in values], _SEED))
        last = pl.col("hash").unique().bottom_k(options["size"]).max().over("group")
        kept = hashed.filter(pl.col("group").is_not_null()).filter(pl.col("hash") <= last)
        return kept.group_by("hash", "group", *values).agg(n=pl.len().cast(pl.Int64))

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls._limited([values[0]], options["size"])

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls(options["size"])

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        tables = [state.table for state in states if state.table is not None]
        return cls._limited(tables, options["size"]) if tables else cls(options["size"])

    @classmethod
    def _limited(cls, tables: list[pl.DataFrame], size: int) -> Self:
        table = pl.concat(tables, how="vertical_relaxed")
        table = categories_as_text(table, "group")
        keys = [name for name in table.columns if name != "n"]
        summed = table.group_by(keys).agg(pl.col("n").sum()).sort(keys)
        return cls(size, summed.filter(pl.int_range(pl.len()).over("group") < size))

    def merge(self, other: Self) -> Self:
        return self.merge_all([self, other], size=max(self.size, other.size))

    def rows(self, group: Any = 0) -> pl.DataFrame:
        """Return the rows of a group, in the order of their hashes: columns "0", "1", …, "n"."""
        if self.table is None:
            return pl.DataFrame(schema={"n": pl.Int64})
        return self.table.filter(pl.col("group") == group).drop("hash", "group")
