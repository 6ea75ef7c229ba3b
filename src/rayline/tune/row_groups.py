"""The rows of a search in groups of equal size: the same groups in this process and in Ray's object store.

Statistics are computed for each group and merged in order, and tables are prepared group by group. So a search gives the
same bits in both places, and a process needs memory for one group in addition to its cache.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar, Self, TypeAlias, TypeVar

import numpy as np
import polars as pl
import polars.selectors as cs

from rayline.core import registry
from rayline.core.engine import Engine, Placement
from rayline.core.errors import place
from rayline.core.parquet_parts import PartFiles
from rayline.core.scan import CHUNK_ROWS, Scan, TableFunction
from rayline.core.scan_results import ScanResults, merge_results
from rayline.core.schema import col
from rayline.data.split.fold_assignment import FoldAssignment
from rayline.data.split.row_hash import RowHash
from rayline.preprocessing.schema_check import SchemaCheck

T = TypeVar("T")

CellResults: TypeAlias = dict[int, ScanResults]
"""The statistics of rows, for each cell."""

GROUP_ROWS = CHUNK_ROWS
"""The number of rows of a group; the last group of the training rows and of the test rows may have fewer."""

MERGED_TOGETHER = 16
"""Groups whose statistics are merged at a time: those of all groups take as much memory as a part of their rows."""

CELL = "rayline:cell "
"""The columns with the cell of each row, one for each set of cells, by number."""


@dataclass(frozen=True)
class ConformedRows:
    """Converts raw rows to the types of a schema, with missing values as null; missing columns of `absent` become null, too."""

    schema: Mapping[str, pl.DataType]
    absent: Mapping[str, pl.DataType] = field(default_factory=dict)
    made_at: str = field(default_factory=place)

    @property
    def output(self) -> pl.Schema:
        """The schema of the result."""
        return pl.Schema({**self.schema, **self.absent})

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        rows = SchemaCheck(self.schema, self.made_at)(table).select(map(col, self.schema))
        return rows.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in self.absent.items())


@dataclass(frozen=True)
class CellColumn:
    """Read the cells from a column of the table."""

    name: str
    is_local: ClassVar[bool] = True

    def __call__(self, names: Sequence[str]) -> pl.Expr:
        return pl.col(self.name)


@dataclass(frozen=True)
class GroupSummary:
    """The driver's summary of a group: the number of rows, in all and in each cell (for each set of cells), and their digest."""

    n_rows: int
    n_cells: tuple[dict[int, int], ...] = ()
    digest: bytes = b""

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Self:
        """Summarize rows with their cells."""
        rows = frame.select(~cs.starts_with(CELL))
        hasher = hashlib.blake2b(RowHash(tuple(rows.columns), purpose="journal").of(rows).tobytes(), digest_size=16)
        counts = []
        for cells in frame.select(cs.starts_with(CELL)).get_columns():
            hasher.update(np.ascontiguousarray(cells.to_numpy(), dtype=np.int64).tobytes())
            counts.append({int(c): int(n) for c, n in cells.alias("c").value_counts(name="n").iter_rows()})
        return cls(frame.height, tuple(counts), hasher.digest())


class RowGroups(ABC):
    """The rows of a search with their cells.

    Attributes
    ----------
    summaries
        The summary of each group.
    """

    summaries: Sequence[GroupSummary]

    @classmethod
    @abstractmethod
    def of(cls, data: Any, conform: ConformedRows) -> Self:
        """Read a table or a Dataset once, and keep the rows in these types. Raises ResourceError when there is no room for them."""

    @property
    @abstractmethod
    def schema(self) -> pl.Schema:
        """The names and types of the columns."""

    @abstractmethod
    def frames(self) -> Iterator[pl.DataFrame]:
        """Yield the groups in this process, one after another."""

    @abstractmethod
    def first(self, n_groups: int) -> Self:
        """Return only the first groups."""

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """Return these groups followed by other ones of the same kind."""

    @abstractmethod
    def summarised(self) -> Self:
        """Return the same groups with the digests of their rows."""

    @abstractmethod
    def with_cells(self, cells: Sequence[FoldAssignment]) -> Self:
        """Return the same rows with one more column for each set of cells. Raises DataError when a row has none."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """The approximate memory of all rows in bytes."""

    @property
    def n_rows(self) -> int:
        return sum(summary.n_rows for summary in self.summaries)

    @property
    def is_here(self) -> bool:
        """Whether the rows are in this process."""
        return True

    @property
    def engine(self) -> GroupEngine:
        """What scans the rows from the driver: in this process, or in Ray's tasks."""
        return GroupEngine()

    @abstractmethod
    def sample(self, n_rows: int) -> pl.DataFrame:
        """Return a few rows of the first group."""

    @abstractmethod
    def after(self, function: TableFunction) -> Any:
        """Return what a function makes of the rows: a table, or a Dataset where they are in the object store."""


def attached(frame: pl.DataFrame, cells: Sequence[FoldAssignment]) -> pl.DataFrame:
    """A group with its cells."""
    return frame.with_columns(c(frame.columns).cast(pl.Int64).alias(f"{CELL}{i}") for i, c in enumerate(cells))


class TableGroups(RowGroups):
    """Rows of a table in this process.

    Parameters
    ----------
    parts
        The training rows, and the test rows if they are held out: no group contains rows of both.
    """

    def __init__(self, parts: Sequence[pl.DataFrame]) -> None:
        self._frames = [group for part in parts for group in (part.iter_slices(GROUP_ROWS) if part.height else [part])]
        self.summaries = [GroupSummary(frame.height) for frame in self._frames]

    @classmethod
    def of(cls, data: Any, conform: ConformedRows) -> Self:
        return cls([conform(registry.engine_for(data).collect(data).lazy()).collect()])

    @property
    def schema(self) -> pl.Schema:
        return self._frames[0].schema

    def frames(self) -> Iterator[pl.DataFrame]:
        yield from self._frames

    def first(self, n_groups: int) -> Self:
        return self._of(self._frames[:n_groups])

    def with_cells(self, cells: Sequence[FoldAssignment]) -> Self:
        starts = accumulate((frame.height for frame in self._frames), initial=0)
        parts = zip(self._frames, starts, strict=False)
        return self._of(
            [attached(frame, [assignment.from_row(start) for assignment in cells]) for frame, start in parts]
        )

    @property
    def size_bytes(self) -> int:
        return sum(int(frame.estimated_size()) for frame in self._frames)

    def _of(self, frames: Sequence[pl.DataFrame]) -> Self:
        groups = type(self)([])
        groups._frames, groups.summaries = list(frames), [GroupSummary(frame.height) for frame in frames]
        return groups

    def sample(self, n_rows: int) -> pl.DataFrame:
        return self._frames[0].sample(min(n_rows, self._frames[0].height), seed=0)

    def after(self, function: TableFunction) -> pl.DataFrame:
        return self.engine.collect(MappedGroups(self, (function,)))

    def joined(self, other: Self) -> Self:
        return self._of([*self._frames, *(frame.select(map(col, self.schema)) for frame in other._frames)])

    def summarised(self) -> Self:
        groups = self._of(self._frames)
        groups.summaries = [GroupSummary.of(frame) for frame in self._frames]
        return groups


@dataclass(frozen=True)
class MappedGroups:
    """Groups after row-wise functions of tables."""

    groups: RowGroups
    functions: tuple[TableFunction, ...]

    def applied(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return a group after the functions."""
        table = frame.lazy()
        for function in self.functions:
            table = function(table)
        return table.collect()


class GroupEngine(Engine):
    """An engine that scans and maps the rows of a search in this process, for both kinds of storage."""

    def schema(self, data: Any) -> pl.Schema:
        groups = _mapped(data)
        return groups.applied(groups.groups.schema.to_frame()).schema

    def scan(self, data: Any, scan: Scan) -> CellResults:
        groups = _mapped(data)
        return merged((scan_group(groups, frame, scan) for frame in groups.groups.frames()), merge_cells)

    def map(self, data: Any, function: TableFunction, placement: Placement | None = None) -> Any:
        groups = _mapped(data)
        return MappedGroups(groups.groups, (*groups.functions, function))

    def collect(self, data: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
        groups = _mapped(data)
        frames = [groups.applied(frame) for frame in groups.groups.frames()]
        table = pl.concat(frames, rechunk=False)
        return table if columns is None else table.select(map(col, columns))

    def write(
        self, data: Any, function: TableFunction, files: PartFiles, done: set[int], placement: Placement | None
    ) -> int:
        raise NotImplementedError("the rows of a search are not written")


def scan_group(groups: MappedGroups, frame: pl.DataFrame, scan: Scan) -> CellResults:
    """Compute the statistics of one group, for each cell."""
    rows = groups.applied(frame)
    return scan.of(rows.lazy().select(map(col, scan.columns(rows.schema))), rows.height)


def merged(parts: Iterable[T], merge: Callable[[list[T]], T]) -> T:
    """Merge the statistics of groups in their order, a few at a time: the same bits wherever `merge` runs."""
    levels: list[list[T]] = [[]]
    for part in parts:
        levels[0].append(part)
        depth = 0
        while len(levels[depth]) == MERGED_TOGETHER:
            if depth + 1 == len(levels):
                levels.append([])
            levels[depth + 1].append(merge(levels[depth]))
            levels[depth] = []
            depth += 1
    left = [part for level in reversed(levels) for part in level]
    return left[0] if len(left) == 1 else merge(left)


def merge_cells(parts: Iterable[CellResults]) -> CellResults:
    """Merge the statistics of some groups, for each cell."""
    by_cell: dict[int, list[ScanResults]] = {}
    for results in parts:
        for cell, cell_results in results.items():
            by_cell.setdefault(cell, []).append(cell_results)
    return {cell: merge_results(cell_results) for cell, cell_results in sorted(by_cell.items())}


def _mapped(data: Any) -> MappedGroups:
    return data if isinstance(data, MappedGroups) else MappedGroups(data, ())
