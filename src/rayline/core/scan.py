"""One pass over a table that computes the requested statistics in bounded memory.

Statistics that do not depend on the order of the rows (counts) come from one streaming query over all rows. The others
depend on the order of floating-point additions, or look at every value: these are computed chunk by chunk, in the order of
the rows, while the same query runs. So the same rows give the same bits every time, from files as well as from memory.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import polars as pl

from rayline.core.operations.base import Operation, apply_all
from rayline.core.scan_results import ScanResults, TableQuery, merge_results, statistics_of, statistics_of_rows
from rayline.core.schema import col
from rayline.core.statistics.base import StatisticRequest

TableFunction: TypeAlias = Callable[[pl.LazyFrame], pl.LazyFrame]


def passed_through(function: TableFunction, names: Sequence[str]) -> list[str]:
    """Return the columns of a table that a function leaves unchanged, as its method `passes` reports; none without it.

    An engine returns these exactly as they came, also in types that Polars does not have.
    """
    passes = getattr(function, "passes", None)
    return [] if passes is None else list(passes(names))


CELL = "\x00cell"

CHUNK_ROWS = 1 << 18
"""Rows per chunk when the chunks are processed alongside a streaming query."""

TABLE_ROWS = 1 << 20
"""Rows per chunk without a streaming query: larger, because each chunk costs query planning and a merge of its tables."""

FEW_CELLS = 16
"""Up to this number of cells, the rows of each are filtered out of a chunk one cell after the other."""

MERGED_AT = 16
"""The number of chunks whose statistics are kept before they are merged."""


class RowMapper(Protocol):
    """A function of a whole table that adds the columns which a scan reads."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads."""

    @property
    def is_local(self) -> bool:
        """Whether each row depends on itself alone. If not, it must see the whole table, or at least whole blocks."""

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame: ...


class CellExpression(Protocol):
    """Maps the names of a table's columns to the expression that assigns each row to its cell, a small integer."""

    @property
    def is_local(self) -> bool:
        """Whether each row depends on itself alone, as `RowMapper.is_local`."""

    def __call__(self, names: Sequence[str], /) -> pl.Expr: ...


@dataclass(frozen=True)
class Scan:
    """One pass over the data: the requested statistics, of which tables, and (for folds) of which rows.

    `attach` and `cells` are applied before the table is cut into chunks. `prefixes` maps the prefix of each request that
    does not read the raw table to the operations applied before it. With `cells` the statistics are computed separately
    for each cell.
    """

    requests: Sequence[StatisticRequest]
    prefixes: Mapping[str, Sequence[Operation]] = field(default_factory=dict)
    prepare: TableFunction | None = None
    cells: CellExpression | None = None
    attach: RowMapper | None = None
    chunk_rows: int = field(default_factory=lambda: TABLE_ROWS)

    @property
    def is_local(self) -> bool:
        """Whether the rows can be scanned in parts; if not, whole blocks must be passed at once."""
        return all(part is None or part.is_local for part in (self.attach, self.cells))

    @property
    def _runs_in_slices(self) -> bool:
        return self.is_local and self.prepare is None and self.cells is None

    def columns(self, schema: Mapping[str, pl.DataType]) -> list[str]:
        """Return the raw columns that are needed: all of them when rows are split or stages must be applied first."""
        if self.cells is not None:
            return list(schema)
        return self._required_names(list(schema), () if self.attach is None else self.attach.columns)

    def _required_names(self, names: Sequence[str], more: Iterable[str] = ()) -> list[str]:
        if any(request.prefix for request in self.requests):
            return list(names)
        wanted = {*more, *(column for request in self.requests for column in request.columns)}
        return [name for name in names if name in wanted] or list(names[:1])

    @property
    def nan_columns(self) -> frozenset[str]:
        """The columns whose NaN `prepare` need not make missing, as every statistic of them does."""
        if any(request.prefix for request in self.requests):
            return frozenset()
        by_kind = {True: set[str](), False: set[str]()}
        for request in self.requests:
            by_kind[request.statistic.treats_nan].update(request.columns)
        return frozenset(by_kind[True] - by_kind[False])

    def of(self, table: pl.LazyFrame, n_rows: int | None = None, *, is_reread: bool = False) -> dict[int, ScanResults]:
        """Return the statistics of a table, or of a block of one, for each cell that has rows (cell 0 without cells).

        `n_rows` is the number of rows of a table in memory, None for any other. `is_reread` says that single columns can
        be read again for each query, as from a Parquet file.
        """
        raw, table = table, self._looked_at(table if self.attach is None else self.attach(table))
        if n_rows is not None and n_rows <= CHUNK_ROWS:
            return self._of_chunk(table.collect(engine="in-memory"), self.requests)
        # A function that needs the table as a whole must run only once: no streaming then.
        streamed = [r for r in self.requests if r.statistic.streams and not r.prefix] if self.is_local else []
        if not streamed and n_rows is not None and self._runs_in_slices and self.attach is not None:
            chunks = _Chunks(self, self.requests)
            for start in range(0, n_rows, self.chunk_rows):  # the same chunks as below, without a copy
                rows = self._looked_at(self.attach(raw.slice(start, self.chunk_rows)))
                chunks(rows.collect(engine="in-memory"))
            return chunks.results(table.collect_schema())
        if not streamed:
            return self._in_chunks(table, self.requests)
        share = pl.QueryOptFlags(comm_subplan_elim=self.cells is not None or not (is_reread or n_rows is not None))
        return self._in_one_query(table, streamed, share)

    def _looked_at(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """Return the prepared requested columns, with the cells."""
        names = table.collect_schema().names()
        requested = [col(name) for name in self._required_names(names)]
        if self.cells is not None:
            requested.append(self.cells(names).alias(CELL))
        table = table.select(requested)
        return table if self.prepare is None else self.prepare(table)

    def _in_one_query(
        self, table: pl.LazyFrame, streamed: Sequence[StatisticRequest], optimizations: pl.QueryOptFlags
    ) -> dict[int, ScanResults]:
        by = [] if self.cells is None else [CELL]
        query = TableQuery(table, streamed, by)
        rest = [request for request in self.requests if request not in set(streamed)]
        queries, chunks = [*query.queries], _Chunks(self, rest)
        with ThreadPoolExecutor(1) as thread:
            sink = _InOrder(chunks, thread)
            if rest:
                queries.append(self._needed(table, rest).sink_batches(sink, chunk_size=CHUNK_ROWS, lazy=True))
            tables = pl.collect_all(queries, engine="streaming", optimizations=optimizations)
            sink.wait()
        by_cell, others = query.results(tables[: len(query.queries)]), chunks.results(table.collect_schema())
        beyond = [request for request in streamed if any(results[request].is_beyond for results in by_cell.values())]
        again = self._in_chunks(self._needed(table, beyond), beyond) if beyond else {}
        return {cell: results | others.get(cell, {}) | again.get(cell, {}) for cell, results in by_cell.items()}

    def _needed(self, table: pl.LazyFrame, requests: Sequence[StatisticRequest]) -> pl.LazyFrame:
        """Return the columns of these requests, with the cells."""
        if any(request.prefix for request in requests):
            return table
        names = dict.fromkeys(column for request in requests for column in request.columns)
        return table.select(*map(col, names), *([] if self.cells is None else [CELL]))

    def _in_chunks(self, table: pl.LazyFrame, requests: Sequence[StatisticRequest]) -> dict[int, ScanResults]:
        chunks = _Chunks(self, requests)
        for chunk in table.collect_batches(chunk_size=self.chunk_rows, maintain_order=True, engine="streaming"):
            chunks(chunk)
        return chunks.results(table.collect_schema())

    def _of_chunk(self, chunk: pl.DataFrame, requests: Sequence[StatisticRequest]) -> dict[int, ScanResults]:
        # Sums are computed per memory chunk, and those depend on where the data comes from: make one.
        if self.cells is None:
            loose = {column for request in requests if request.statistic.in_pieces for column in request.columns}
            loose -= {column for request in requests if not request.statistic.in_pieces for column in request.columns}
            whole = chunk.with_columns(chunk[name].rechunk() for name in chunk.columns if name not in loose)
            return {0: self._results(whole, requests)}
        cells = chunk[CELL].unique().to_list()
        if len(cells) <= FEW_CELLS:  # then filtering is cheaper than partitioning
            parts = {cell: _rows_of(chunk, cell) for cell in cells}
        else:
            parts = {key[0]: part.rechunk() for key, part in chunk.partition_by(CELL, as_dict=True).items()}
        return {int(cell): self._results(part.drop(CELL), requests) for cell, part in parts.items()}

    def _results(self, chunk: pl.DataFrame, requests: Sequence[StatisticRequest]) -> ScanResults:
        results: ScanResults = {}
        for prefix in dict.fromkeys(request.prefix for request in requests):
            alike = [request for request in requests if request.prefix == prefix]
            if prefix:
                results |= statistics_of(apply_all(self.prefixes[prefix], chunk.lazy()), alike)
            else:
                results |= statistics_of_rows(chunk, alike)
        return results


def _rows_of(chunk: pl.DataFrame, cell: int) -> pl.DataFrame:
    """Return the rows of a cell, each column in one memory chunk. Column by column in this thread: a query would wait for the threads
    of Polars, which are at work on the rest of the scan."""
    chosen = chunk[CELL] == cell
    return pl.DataFrame({column.name: column.filter(chosen).rechunk() for column in chunk.get_columns()})


class _InOrder:
    """Passes chunks on in their order to a function in a thread, at most two ahead, so that the threads of Polars go on reading."""

    def __init__(self, function: Callable[[pl.DataFrame], None], thread: ThreadPoolExecutor) -> None:
        self._function, self._thread, self._waiting = function, thread, deque[Future[None]]()

    def __call__(self, chunk: pl.DataFrame) -> None:
        self._waiting.append(self._thread.submit(self._function, chunk))
        self.wait(2)

    def wait(self, n_left: int = 0) -> None:
        """Wait until so many chunks are left; raise the error of one."""
        while len(self._waiting) > n_left:
            self._waiting.popleft().result()


class _Chunks:
    """Receives the chunks of a table in order and keeps only their statistics."""

    def __init__(self, scan: Scan, requests: Sequence[StatisticRequest]) -> None:
        self._scan, self._requests = scan, requests
        self._parts: dict[int, list[ScanResults]] = {}

    def __call__(self, chunk: pl.DataFrame) -> None:
        for cell, results in self._scan._of_chunk(chunk, self._requests).items():
            parts = self._parts.setdefault(cell, [])
            parts.append(results)
            if len(parts) > MERGED_AT:
                parts[:] = [merge_results(parts)]

    def results(self, schema: Mapping[str, pl.DataType]) -> dict[int, ScanResults]:
        if (
            not self._parts and self._requests
        ):  # no rows: scan an empty chunk, so that statistics still have their types
            self(pl.DataFrame(schema=schema))
        return {cell: merge_results(parts) for cell, parts in sorted(self._parts.items())}
