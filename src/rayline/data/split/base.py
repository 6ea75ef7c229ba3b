"""The contract of a splitter: `prepare` computes the folds of some data, `split` yields their rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.arguments import column_names, integer
from rayline.core.data_types import DataT
from rayline.core.engine import Engine
from rayline.core.errors import ParameterError, SchemaError, at
from rayline.core.representation import representation
from rayline.core.schema import Kind, kind_of, refuse_empty
from rayline.data.split.duplicate_rows import RowOccurrenceKey
from rayline.data.split.fold_assignment import FoldAssignment, TimeKey, content_keys
from rayline.data.split.fold_cells import FoldCells
from rayline.data.split.fold_rows import parts
from rayline.data.split.row_hash import RowHash
from rayline.data.split.thresholds import KeyDivision


@dataclass(frozen=True)
class Folds:
    """The folds of a split of some data; frozen and small, so it can be sent to workers.

    Attributes
    ----------
    cells
        The function from column names to the expression of each row's cell.
    folds
        For each fold the cells to train on and those to hold out. A training cell that is listed m times counts m times.
    sizes
        The number of rows of each cell; empty when they were not counted.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import data
    >>> table = pl.DataFrame({"x": [1.0, 2.0, 3.0, 4.0]})
    >>> [(train.height, held_out.height) for train, held_out in data.KFold(2, seed=0).split(table)]
    [(2, 2), (2, 2)]
    """

    cells: FoldAssignment
    folds: tuple[FoldCells, ...]
    sizes: tuple[int, ...] = ()


class Splitter(ABC):
    """Division of rows into training and held-out parts, one pair for each fold.

    Examples
    --------
    >>> from rayline import data
    >>> isinstance(data.KFold(5), data.Splitter)
    True
    """

    __repr__ = representation

    @abstractmethod
    def prepare(self, engine: Engine, data: Any, *, target_columns: Sequence[str] = ()) -> tuple[Folds, ...]:
        """Return the folds of this data: one element for each assignment of cells, each of which one scan can fit.

        Parameters
        ----------
        engine
            The engine of the data (`core.registry.engine_for`).
        data
            Any table or a ray.data.Dataset. A null counts as a value of its own, except in a column that rows are ordered by.
        target_columns
            The targets, of which a splitter may make its classes.

        Returns
        -------
        tuple of Folds
            One element, but for a splitter that repeats itself.

        Raises
        ------
        DataError
            When the rows cannot be split like this.
        SchemaError
            When a column is missing or of a wrong type.
        """

    def split(self, data: DataT, *, target_columns: Sequence[str] | str = ()) -> Iterator[tuple[DataT, DataT]]:
        """Yield the training and held-out rows of each fold.

        Parameters
        ----------
        data
            Any table or a ray.data.Dataset, nulls as in `prepare`.
        target_columns
            A target or several.

        Yields
        ------
        tuple
            Two tables of the type of the input: the training rows and the held-out rows, each in the order of the data. A Ray
            Dataset stays lazy.

        Raises
        ------
        DataError, SchemaError
            As `prepare`, when the first fold is asked for.
        """
        targets = list(column_names("target_columns", target_columns))
        engine = registry.engine_for(data)
        with engine.keeping(data):
            folds = self.prepare(engine, data, target_columns=targets)
            rows = engine.kept(data)
        for prepared in folds:
            wanted = [cells for fold in prepared.folds for cells in (fold.train, fold.test)]
            tables = parts(engine, rows, prepared.cells, wanted)
            yield from zip(tables[::2], tables[1::2], strict=True)


def unique_row_key(engine: Engine, data: Any, seed: int, purpose: str) -> RowHash | RowOccurrenceKey:
    """Return a key of each row's content that also distinguishes equal rows."""
    return KeyDivision(engine, data, *content_keys(engine.schema(data), seed, purpose)).unique_row_key()


def time_division(engine: Engine, data: Any, column: str) -> KeyDivision:
    """Return the division of rows by the order of a column. Raises SchemaError when it is missing or cannot be ordered."""
    dtype = schema_with(engine, data, [column])[column]
    if kind_of(dtype) not in (Kind.NUMERIC, Kind.DATETIME) and dtype not in (pl.Time, pl.Duration, pl.Null):
        raise SchemaError.dtype(column, "dates, times or numbers", dtype)
    return KeyDivision(engine, data, TimeKey(column), unit=f"moments of {column!r}", is_ordered=True)


def schema_with(engine: Engine, data: Any, columns: Sequence[str]) -> pl.Schema:
    """Return the schema of the data. Raises SchemaError when it lacks one of these columns, ParameterError when one is no name."""
    column_names("the column", list(columns))
    schema = engine.schema(data)
    refuse_empty(len(schema))  # an empty Dataset has no columns either
    missing = [name for name in columns if name not in schema]
    if missing:
        raise SchemaError.absent(missing, schema)
    return schema


def check_count(splitter: Any, name: str, minimum: int) -> None:
    """Raise ParameterError unless this parameter is an integer of at least `minimum`."""
    with at(type(splitter).__name__):
        integer(name, getattr(splitter, name), minimum=minimum)


def check_column(splitter: Any, column: Any) -> None:
    """Raise ParameterError unless a column is named."""
    if not isinstance(column, str) or not column:
        raise ParameterError.value("column", "the name of a column", column, where=type(splitter).__name__)


def check_seed(splitter: Any) -> None:
    """Raise ParameterError unless the seed is an integer."""
    if isinstance(splitter.seed, bool) or not isinstance(splitter.seed, int):
        raise ParameterError.value("seed", "a whole number", splitter.seed, where=type(splitter).__name__)
