"""The cells of rows by their number, for rows that every read gives in one order: those that were hashed once are not hashed again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError
from rayline.core.statistics.base import Statistic
from rayline.data.split.order_statistics import Keys

MAX_KEPT_ROWS = 1 << 23
"""Rows whose keys are kept (64 MiB)."""

RowCells = npt.NDArray[np.uint8]
"""The cell of each row, in the order of the rows."""

ROW = "\x00row"


@dataclass(frozen=True, eq=False)
class KeptKeys(Statistic):
    """The keys of all rows in the order of the rows, for as long as there are at most `MAX_KEPT_ROWS`.

    Unlike other statistics it depends on the order of the parts: only for rows in this process, whose chunks come in order.
    """

    parts: tuple[Keys, ...] | None = ()

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(columns[0])

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls._limited((values[0].to_series().to_numpy(),))

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        if any(state.parts is None for state in states):
            return cls(None)
        return cls._limited(tuple(part for state in states for part in state.parts or ()))

    @classmethod
    def _limited(cls, parts: tuple[Keys, ...]) -> Self:
        return cls(parts if sum(map(len, parts)) <= MAX_KEPT_ROWS else None)

    @property
    def keys(self) -> Keys | None:
        """The keys; None of too many rows."""
        return None if self.parts is None else np.concatenate([np.empty(0, np.uint64), *self.parts])


class NumberRows:
    """Adds the number of each row. It runs where a query sees all rows, in their order."""

    columns: ClassVar[tuple[str, ...]] = ()
    is_local: ClassVar[bool] = True

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table.with_row_index(ROW)


@dataclass(frozen=True)
class CellsByRow:
    """The cell of each row of a table that `NumberRows` has numbered."""

    cells: RowCells
    is_local: ClassVar[bool] = True

    def __call__(self, names: Sequence[str]) -> pl.Expr:
        return pl.col(ROW).map_batches(self._of_rows, return_dtype=pl.Int64, is_elementwise=True)

    def _of_rows(self, rows: pl.Series) -> pl.Series:
        numbers = rows.to_numpy()
        if len(numbers) and int(numbers[-1]) >= len(self.cells):
            raise DataError.here(
                "the data changed between two reads.",
                f"Expected {len(self.cells):,} rows each time; got more.",
                "collect a LazyFrame first if its rows change from read to read.",
            )
        return pl.Series(self.cells[numbers].astype(np.int64))
