"""The cell of a row: a small integer computed from the row's own values and constants that were learned beforehand.

Every split is one of these, with a list of which cells are trained on and which are held out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, SchemaError, at, place
from rayline.core.schema import Kind, col, kind_of, map_values, refuse_empty
from rayline.data.split.cells_by_row import RowCells
from rayline.data.split.order_statistics import ALL
from rayline.data.split.row_hash import RowHash, Words


class RowKey(Protocol):
    """The sort key of rows: an unsigned 64-bit number for each, or null."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""

    @property
    def is_local(self) -> bool:
        """Whether the key of a row depends on that row alone."""

    def expression(self) -> pl.Expr:
        """The keys as UInt64."""


@dataclass(frozen=True)
class TimeKey:
    """The order of the values of a date, time or number column, the same in every unit and type; to the microsecond."""

    column: str
    is_local: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def expression(self) -> pl.Expr:
        return map_values(col(self.column), _ordered, pl.UInt64)


def _ordered(values: pl.Series) -> pl.Series:
    top = np.uint64(1 << 63)
    missing = values.is_null()
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    elif values.dtype in (pl.Datetime, pl.Duration):
        values = values.dt.cast_time_unit("us")
    if values.dtype.is_temporal():
        keys = values.cast(pl.Int64).fill_null(0).to_numpy().view(np.uint64) ^ top
    else:
        values = values.cast(pl.Float64).fill_nan(None)
        missing = values.is_null()
        bits = (values.fill_null(0.0).to_numpy() + 0.0).view(np.uint64)
        keys = np.where(bits >= top, ~bits, bits | top)
    series = pl.Series(keys)
    return series.set(missing, None) if missing.any() else series


class FoldAssignment(ABC):
    """Gives each row its cell: a function from the names of a table's columns to an expression."""

    made_at: str
    row_cells: RowCells | None = None
    """The cells of the rows of the data that the split was prepared on, where they are known; they stay in this process."""

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The columns that the cell of a row depends on."""

    @property
    def is_local(self) -> bool:
        """Whether the cell of a row depends on that row alone; see `RowKey.is_local`."""
        return True

    def from_row(self, start: int) -> Self:
        """Return what gives the same cells to a part of the table that begins at this row."""
        return self

    @abstractmethod
    def expression(self) -> pl.Expr:
        """The cells as Int64."""

    def __call__(self, names: Sequence[str]) -> pl.Expr:
        """The cells of a table with these columns. Raises SchemaError when one of its own is missing."""
        missing = [name for name in self.columns if name not in names]
        if missing:
            raise SchemaError.missing(missing, names, where=self.made_at)
        return self.expression()


@dataclass(frozen=True)
class ThresholdAssignment(FoldAssignment):
    """The number of thresholds of the row's stratum that its key reaches."""

    key: RowKey
    stratum: RowHash | None
    cuts: tuple[tuple[int, tuple[int, ...]], ...]  # (stratum, thresholds in ascending order), sorted
    made_at: str = field(default_factory=place)
    row_cells: RowCells | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "row_cells": None}

    def of_keys(self, keys: Words) -> npt.NDArray[np.uint8]:
        """Return the cells of rows without strata by their keys."""
        return self._reached(keys, np.uint8)

    def _reached(self, keys: Words, dtype: type[np.integer[Any]]) -> npt.NDArray[Any]:
        cells = np.zeros(len(keys), dtype=dtype)
        for threshold in self.cuts[0][1]:
            if threshold < ALL:
                cells += keys >= np.uint64(threshold)
        return cells

    @property
    def is_local(self) -> bool:
        return self.key.is_local

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.key.columns, *(self.stratum.columns if self.stratum is not None else ()))))

    def expression(self) -> pl.Expr:
        key = self.key.expression()
        if self.stratum is None:
            return key.map_batches(self._of_keys, return_dtype=pl.Int64, is_elementwise=True)
        pair = pl.struct(key.alias("key"), self.stratum.expression().alias("stratum"))
        return pair.map_batches(self._of_pairs, return_dtype=pl.Int64, is_elementwise=True)

    def _of_keys(self, keys: pl.Series) -> pl.Series:
        return pl.Series(self._reached(keys.to_numpy(), np.int64))

    def _of_pairs(self, pairs: pl.Series) -> pl.Series:
        words = pairs.struct.field("key").to_numpy()
        cells = np.zeros(len(words), dtype=np.int64)
        places = self._places(pairs.struct.field("stratum").to_numpy())
        for column in zip(*(thresholds for _, thresholds in self.cuts), strict=True):
            chosen = np.array([min(threshold, ALL - 1) for threshold in column], dtype=np.uint64)
            cells += words >= chosen[places]
        return pl.Series(cells)

    def _places(self, strata: Words) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        known = np.array([stratum for stratum, _ in self.cuts], dtype=np.uint64)
        places = np.minimum(np.searchsorted(known, strata), len(known) - 1)
        if (known[places] != strata).any():
            assert self.stratum is not None
            with at(self.made_at):
                raise _other_data(self.stratum.columns)
        return places


@dataclass(frozen=True)
class KeyAssignment(FoldAssignment):
    """The cell of each key by name: where few different rows or groups are to be packed evenly."""

    key: RowKey
    members: tuple[tuple[int, int], ...]  # (key, cell), sorted
    made_at: str = field(default_factory=place)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.key.columns

    def expression(self) -> pl.Expr:
        return self.key.expression().map_batches(self._cells, return_dtype=pl.Int64, is_elementwise=True)

    def _cells(self, keys: pl.Series) -> pl.Series:
        known = np.array([key for key, _ in self.members], dtype=np.uint64)
        cells = np.array([cell for _, cell in self.members], dtype=np.int64)
        wanted = keys.to_numpy()
        places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        if (known[places] != wanted).any():
            with at(self.made_at):
                raise _other_data(self.columns)
        return pl.Series(cells[places])


def _other_data(columns: Sequence[str]) -> DataError:
    return DataError.here(
        f"a row has values that were not there when the split was prepared (columns {list(columns)[:4]}).",
        "Expected the rows that the split was prepared on.",
        "prepare it again on this data; a dataset that changes from read to read must be materialized first.",
    )


def content_keys(schema: pl.Schema, seed: int, purpose: str) -> tuple[RowHash, RowHash]:
    """Two hashes of the rows: of a few columns that usually distinguish rows, which costs little, and of all columns.

    The choice of these columns must not depend on differences between libraries (an integer column with gaps is a float
    column in pandas).
    """
    usable = sorted(name for name, dtype in schema.items() if dtype != pl.Object)
    refuse_empty(len(schema))  # an empty Dataset has no columns either
    if not usable:
        raise SchemaError.here("no column distinguishes the rows.", f"Expected plain values; got {dict(schema)}.")
    numbers = [name for name in usable if kind_of(schema[name]) in (Kind.NUMERIC, Kind.DATETIME)][:FEW]
    few = tuple(numbers if len(numbers) > 1 else usable)
    return RowHash(few, seed, purpose), RowHash(tuple(usable), seed, purpose)


FEW = 6
"""Columns of numbers and dates that usually distinguish rows."""
