"""Folds as sets of cells: which cells of rows a fold trains on, and which it holds out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from rayline.core.scan import CellExpression


class FoldCells(NamedTuple):
    """The cells to train on (rows of a cell listed m times count m times) and the cells to hold out."""

    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class CellSlice:
    """A function that selects the rows of some cells of a LazyFrame; the rows of a cell listed m times are repeated m times."""

    cells: CellExpression
    chosen: tuple[int, ...]

    @property
    def is_local(self) -> bool:
        """Whether the cell of a row depends on that row alone; if not, the function needs whole blocks."""
        return self.cells.is_local

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        cell = self.cells(table.collect_schema().names())
        times = Counter(self.chosen)
        often = [[c for c in times if times[c] >= m] for m in range(1, max(times.values(), default=1) + 1)]
        tables = [table.filter(cell.is_in(cells)) for cells in often]
        return tables[0] if len(tables) == 1 else pl.concat(tables)
