"""The contract of an engine: where tables are scanned and mapped. Two implement it: `local` (Polars) and `ray`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import polars as pl

from rayline.core.operations import Operation, apply_all
from rayline.core.parts import PartFiles
from rayline.core.schema import col
from rayline.core.statistics import Request, Statistic, evaluate

TableFunction: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]
Answers: TypeAlias = dict[Request, Statistic]

CELL = "\x00cell"


class Attach(Protocol):
    """A function of a whole table that gives its rows what a scan looks at."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""

    @property
    def is_local(self) -> bool:
        """Whether each row hangs on itself alone. If not, it must see the whole table, or at least whole blocks."""

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame: ...


@dataclass(frozen=True)
class Scan:
    """One pass over the data: what is asked, of which tables, and (for folds) of which rows.

    `attach` is applied before the table is cut into batches; `prefixes` gives the operations
    behind the prefix of each request that does not look at the raw table; `cells` gives each row a small integer, and
    the answers then come for each cell by itself.
    """

    requests: Sequence[Request]
    prefixes: Mapping[str, Sequence[Operation]] = field(default_factory=dict)
    prepare: TableFunction | None = None
    cells: Callable[[Sequence[str]], pl.Expr] | None = None
    attach: Attach | None = None

    def columns(self, schema: Mapping[str, pl.DataType]) -> list[str]:
        """The raw columns that are needed: all of them when rows are split or stages must be applied first."""
        return list(schema) if self.cells is not None else self._asked(list(schema), *self._attach_columns)

    @property
    def _attach_columns(self) -> tuple[str, ...]:
        return () if self.attach is None else self.attach.columns

    def attached(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """A table, or a block of one, as the scan looks at it."""
        return table if self.attach is None else self.attach(table)

    def _asked(self, names: Sequence[str], *more: str) -> list[str]:
        if any(request.prefix for request in self.requests):
            return list(names)
        wanted = {*more, *(column for request in self.requests for column in request.columns)}
        return [name for name in names if name in wanted] or list(names[:1])

    def of(self, batch: pl.LazyFrame) -> dict[int, Answers]:
        """The answers of one batch for each cell (0 when there are no cells)."""
        if self.cells is None:
            return {0: self._answers(batch)}
        names = batch.collect_schema().names()
        frame = batch.select(*map(col, self._asked(names)), self.cells(names).alias(CELL)).collect()
        parts = frame.partition_by(CELL, as_dict=True, include_key=False)
        return {int(key[0]): self._answers(part.lazy()) for key, part in parts.items()}

    def _answers(self, batch: pl.LazyFrame) -> Answers:
        if self.prepare is not None:
            batch = self.prepare(batch)
        answers: Answers = {}
        for prefix in {request.prefix for request in self.requests}:
            table = apply_all(self.prefixes[prefix], batch) if prefix else batch
            answers |= evaluate(table, [request for request in self.requests if request.prefix == prefix])
        return answers


@dataclass(frozen=True)
class Placement:
    """How a map is spread over a cluster; None leaves it to the engine.

    Attributes
    ----------
    batch_size
        Rows that are worked on at a time; whole blocks when None.
    num_cpus, num_gpus
        What each worker holds.
    concurrency
        How many workers at most; with `num_gpus` exactly so many actors.
    """

    batch_size: int | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    concurrency: int | None = None


class Scanner(ABC):
    """Scans one family of tables: all that a fit needs."""

    @abstractmethod
    def scan(self, data: Any, scan: Scan) -> dict[int, Answers]:
        """The merged answers for each cell, from one pass over the data."""


class Engine(Scanner):
    """Scans and maps one family of tables."""

    @abstractmethod
    def schema(self, data: Any) -> pl.Schema:
        """Names and types of the columns. Raises SchemaError when the data is no table or has a column twice."""

    @abstractmethod
    def map(self, data: Any, function: TableFunction, placement: Placement | None = None) -> Any:
        """The data after a row-local function, as the type that it came in."""

    @abstractmethod
    def write(
        self, data: Any, function: TableFunction, files: PartFiles, done: set[int], placement: Placement | None
    ) -> int:
        """Write the rows after a row-local function to the files that are not `done`, in the order of the rows.

        Returns the number of rows in all files.
        """

    @abstractmethod
    def collect(self, data: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows as a Polars table in this process."""
