"""Select rows of a table by their cells, in the table's own type, with as few conversions as possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rayline.core import registry
from rayline.core.engine import Engine
from rayline.core.errors import DataError, counted
from rayline.core.scan import CellExpression
from rayline.data.split.fold_assignment import FoldAssignment
from rayline.data.split.fold_cells import CellSlice
from rayline.data.split.row_hash import RowHash

Chosen = npt.NDArray[np.bool_] | npt.NDArray[np.int64]


def parts(engine: Engine, data: Any, cells: FoldAssignment, wanted: Sequence[Sequence[int]]) -> list[Any]:
    """Return the rows of each list of cells, in their order; the rows of a cell listed m times are repeated m times.

    A Ray Dataset and a LazyFrame give lazy parts, each of which reads the data when it is used.
    """
    if is_lazy(data):
        return [engine.map(data, CellSlice(cells, tuple(chosen))) for chosen in wanted]
    table = engine.collect(data, cells.columns)
    numbers = table.select(cells(table.columns).alias("cell")).to_series().to_numpy()
    return [take(data, _chosen(numbers, chosen)) for chosen in wanted]


@dataclass(frozen=True)
class _GroupCells:
    """The cells of each value of a column, without repetitions."""

    cells: CellExpression
    column: str

    @property
    def is_local(self) -> bool:
        return self.cells.is_local

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        cell = self.cells(table.collect_schema().names())
        return table.select(RowHash((self.column,)).expression().alias("group"), cell.alias("cell")).unique()


def refuse_divided(engine: Engine, data: Any, cells: CellExpression, column: str) -> None:
    """Raise DataError when rows of one group, which are ranked as a whole, have different cells."""
    pairs = engine.collect(engine.map(data, _GroupCells(cells, column)))
    divided = pairs.group_by("group").agg(pl.col("cell").n_unique().alias("n")).filter(pl.col("n") > 1).height
    if divided:
        raise DataError.here(
            f"the folds divide {counted(divided, 'group')} of {column!r}, which are ranked as a whole.",
            "Expected all rows of a group in one fold.",
            f"pass cv as a number, or rayline.data.GroupKFold(5, column={column!r}).",
        )


def is_lazy(data: Any) -> bool:
    """Return whether the rows are loaded only when they are used."""
    return isinstance(data, pl.LazyFrame) or registry.is_dataset(data)


def _chosen(cells: npt.NDArray[np.int64], wanted: Sequence[int]) -> Chosen:
    times = np.zeros(int(max(cells.max(initial=0), *wanted, 0)) + 1, dtype=np.int64)
    np.add.at(times, np.asarray(wanted, dtype=np.int64), 1)
    if times.max() <= 1:
        return times.astype(bool)[cells]
    return np.repeat(np.arange(len(cells)), times[cells])


def take(data: Any, chosen: Chosen) -> Any:
    """Select rows of a table in this process by a Boolean mask (faster), or by their indices."""
    is_mask = chosen.dtype == bool
    if isinstance(data, pl.DataFrame):
        return data.filter(chosen) if is_mask else data[chosen]
    if isinstance(data, (pa.Table, pa.RecordBatch)):
        return data.filter(pa.array(chosen)) if is_mask else data.take(pa.array(chosen))
    if isinstance(data, (Mapping, list)):
        places = np.flatnonzero(chosen) if is_mask else chosen.astype(np.int64)
        return _items(data, places) if isinstance(data, list) else {n: _items(v, places) for n, v in data.items()}
    return data[chosen] if is_mask else data.iloc[chosen]


def _items(values: Any, places: npt.NDArray[np.int64]) -> Any:
    if isinstance(values, (list, tuple)):
        return type(values)(values[place] for place in places.tolist())
    rows: Callable[[npt.NDArray[np.int64]], Any] = getattr(values, "iloc", values).__getitem__
    return rows(places)
