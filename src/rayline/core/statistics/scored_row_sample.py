"""The different scored rows of a table in bounded memory: what the stages after a model are learned from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from rayline.core.schema import is_category
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.multi_column import row_hash

MAX_SAMPLE_ROWS = 1 << 18
"""The number of different rows that are kept. With fewer of them the statistic is exact."""

_SEED = 0x5C0_4E5


@dataclass(frozen=True, eq=False)
class ScoredRowSample(Statistic):
    """The `size` different rows with the smallest hashes, and how often each occurs.

    Which rows those are depends on their values alone, not on batches or order. The numeric columns decide the hash; with
    the option `grouped` the last column is the text of a group, which distinguishes rows but does not count in the hash.
    """

    size: int = MAX_SAMPLE_ROWS
    n_rows: int = 0
    table: pl.DataFrame | None = None  # columns "hash", "0", "1", …, "n"

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        names = [str(i) for i in range(len(columns))]
        numbers = names[:-1] if options.get("grouped") else names
        selected = table.select(**dict(zip(names, columns, strict=True)), rows=pl.len().cast(pl.Int64))
        hashed = selected.with_columns(hash=row_hash([pl.col(name) for name in numbers], _SEED))
        last = pl.col("hash").unique().bottom_k(options["size"]).max()
        kept = hashed.filter(pl.col("hash") <= last)
        return kept.group_by("hash", *names).agg(n=pl.len().cast(pl.Int64), rows=pl.col("rows").first())

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        table: pl.DataFrame = values[0]
        n_rows = int(table["rows"][0]) if table.height else 0
        return cls._limited([table.drop("rows")], options["size"], n_rows)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls(options["size"])

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        tables = [state.table for state in states if state.table is not None]
        n_rows = sum(state.n_rows for state in states)
        return cls._limited(tables, options["size"], n_rows) if tables else cls(options["size"], n_rows)

    @classmethod
    def _limited(cls, tables: list[pl.DataFrame], size: int, n_rows: int) -> Self:
        table = pl.concat(tables, how="vertical_relaxed")
        texts = [name for name, dtype in table.schema.items() if is_category(dtype)]
        table = table.with_columns(pl.col(texts).cast(pl.String)) if texts else table
        keys = [name for name in table.columns if name != "n"]
        return cls(size, n_rows, table.group_by(keys).agg(pl.col("n").sum()).sort(keys).head(size))

    def merge(self, other: Self) -> Self:
        return self.merge_all([self, other], size=max(self.size, other.size))

    @property
    def rows(self) -> pl.DataFrame:
        """The rows in the order of their hashes: columns "0", "1", …, "n"."""
        return pl.DataFrame(schema={"n": pl.Int64}) if self.table is None else self.table.drop("hash")
