"""The cells of rows in their order, for rows that every read gives in one order: those that were hashed once are not hashed again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError
from rayline.core.schema import col
from rayline.core.statistics.base import Statistic
from rayline.data.split.order_statistics import KEY

MAX_KEPT_ROWS = 1 << 23
"""Rows whose keys are kept (64 MiB)."""

MAX_KEPT_BYTES = 1 << 28
"""Memory for the columns that keys were made of, until the next scan has read them from there."""

CELL_OF_ROW = "\x00row"

_KEPT = "\x00kept "


def kept_names(columns: Sequence[str]) -> dict[str, str]:
    """Return the names under which columns stand beside the keys that are made of them."""
    return {name: f"{_KEPT}{name}" for name in columns}


@dataclass(frozen=True, eq=False)
class KeyedRows(Statistic):
    """The keys of all rows in the order of the rows, for as long as there are at most `MAX_KEPT_ROWS`; beside them the columns
    that they were made of, for as long as these take at most `MAX_KEPT_BYTES`.

    Unlike other statistics it depends on the order of the parts: only for rows in this process, whose chunks come in order.
    """

    in_pieces: ClassVar[bool] = True

    parts: tuple[pl.DataFrame, ...] | None = ()

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(columns)

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls._limited((values[0],))

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        if any(state.parts is None for state in states):
            return cls(None)
        return cls._limited(tuple(part for state in states for part in state.parts or ()))

    @classmethod
    def _limited(cls, parts: tuple[pl.DataFrame, ...]) -> Self:
        n_rows = sum(part.height for part in parts)
        if n_rows > MAX_KEPT_ROWS:
            return cls(None)
        widths = {part.width for part in parts}
        n_bytes = sum(part.estimated_size() for part in parts) - n_rows * 8
        if len(widths) < 2 and n_bytes <= MAX_KEPT_BYTES:
            return cls(parts)
        return cls(tuple(part.select(part.columns[0]) for part in parts))

    @property
    def rows(self) -> pl.DataFrame | None:
        """The rows, with the keys in the first column; None of too many."""
        if self.parts is None:
            return None
        return pl.concat(self.parts, rechunk=False) if self.parts else pl.DataFrame(schema={KEY: pl.UInt64})


class RowCells:
    """The cell of each row of a table, and those of its columns that were kept. Attached to the table it puts both in the place of
    what would be read.

    Parameters
    ----------
    cells
        The cells in the order of the rows.
    rows
        What `KeyedRows` has kept.
    """

    columns: ClassVar[tuple[str, ...]] = ()
    is_local: ClassVar[bool] = True

    def __init__(self, cells: npt.NDArray[np.uint8], rows: pl.DataFrame) -> None:
        self.cells = cells
        names = {name: name.removeprefix(_KEPT) for name in rows.columns if name.startswith(_KEPT)}
        self.kept = rows.select(list(names)).rename(names)

    def release(self) -> None:
        """Give the memory of the kept columns back: from now on they are read again."""
        self.kept = self.kept.select()

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        read = [name for name in table.collect_schema().names() if name not in self.kept.columns]
        cells = pl.DataFrame({CELL_OF_ROW: self.cells})
        known = pl.concat([self.kept, cells], how="horizontal") if self.kept.width else cells
        return pl.concat([table.select(map(col, read)), known.lazy()], how="horizontal") if read else known.lazy()


class AttachedCells:
    """The cells of a table that `RowCells` was attached to."""

    is_local: ClassVar[bool] = True

    def __call__(self, names: Sequence[str]) -> pl.Expr:
        return pl.col(CELL_OF_ROW)


@contextlib.contextmanager
def changed_rows() -> Iterator[None]:
    """Raise DataError when the table that `RowCells` is attached to in this block has another number of rows than before."""
    try:
        yield
    except DataError as error:
        if not isinstance(error.__cause__, pl.exceptions.ShapeError):
            raise
        raise DataError.here(
            "the data changed between two reads.",
            "Expected the same rows each time.",
            "collect a LazyFrame first if its rows change from read to read.",
        ) from error
