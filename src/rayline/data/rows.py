"""Rows of a table by their cells, in the table's own type: nothing is converted that does not have to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rayline.core.engine import Engine
from rayline.data.cells import Cells
from rayline.data.folds import Slice

Places = npt.NDArray[np.int64]


def parts(engine: Engine, data: Any, cells: Cells, wanted: Sequence[Sequence[int]]) -> list[Any]:
    """For each list of cells the rows in them, in their order; a cell that is named m times gives each row m times.

    A Ray Dataset and a LazyFrame give lazy parts, each of which reads the data when it is used.
    """
    if is_lazy(data):
        return [engine.map(data, Slice(cells, tuple(chosen))) for chosen in wanted]
    table = engine.collect(data, cells.columns)
    numbers = table.select(cells(table.columns).alias("cell")).to_series().to_numpy()
    return [take(data, _places(numbers, chosen)) for chosen in wanted]


def is_lazy(data: Any) -> bool:
    """Whether the rows are somewhere else until they are used."""
    return isinstance(data, pl.LazyFrame) or type(data).__module__.partition(".")[0] == "ray"


def _places(cells: npt.NDArray[np.int64], chosen: Sequence[int]) -> Places:
    times = np.zeros(int(max(cells.max(initial=0), *chosen, 0)) + 1, dtype=np.int64)
    np.add.at(times, np.asarray(chosen, dtype=np.int64), 1)
    return np.repeat(np.arange(len(cells)), times[cells])


def take(data: Any, places: Places) -> Any:
    """The rows at these places of a table in this process."""
    if isinstance(data, pl.DataFrame):
        return data[places]
    if isinstance(data, (pa.Table, pa.RecordBatch)):
        return data.take(pa.array(places))
    if isinstance(data, Mapping):
        return {name: _items(values, places) for name, values in data.items()}
    if isinstance(data, list):
        return [data[place] for place in places.tolist()]
    return data.iloc[places]


def _items(values: Any, places: Places) -> Any:
    if isinstance(values, (list, tuple)):
        return type(values)(values[place] for place in places.tolist())
    rows: Callable[[Places], Any] = getattr(values, "iloc", values).__getitem__
    return rows(places)
