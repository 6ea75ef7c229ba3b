"""The results of a scan: the requested statistics of a table, computed in one pass and merged with those of other tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import polars as pl

from rayline.core.schema import col
from rayline.core.statistics.base import Statistic, StatisticRequest

ScanResults: TypeAlias = dict[StatisticRequest, Statistic]


class TableQuery:
    """Statistic requests for one table, as queries that Polars can compute in one pass together with others.

    With `by` only streaming statistics are allowed; if it names a column of small integers, the statistics are computed
    separately for each of its values. A query of rows in memory begins with its own columns: Polars plans each query in a time that
    grows with the columns of the table, so that all queries of a wide table would take its square.
    """

    def __init__(
        self,
        table: pl.LazyFrame | pl.DataFrame,
        requests: Iterable[StatisticRequest],
        by: Sequence[str] | None = None,
    ) -> None:
        self._by, self._places = by, list[tuple[StatisticRequest, slice | int]]()
        self._grouping: dict[str, Any] = {} if by is None else {"by": by}
        self.queries: list[pl.LazyFrame] = []
        scalars: list[pl.Expr] = []
        whole, parts = table.lazy(), dict[tuple[str, ...], pl.LazyFrame]()
        for request in requests:
            if request.columns not in parts and isinstance(table, pl.DataFrame) and request.columns:
                parts[request.columns] = pl.DataFrame({name: table[name] for name in request.columns}).lazy()
            columns, options = [col(name) for name in request.columns], dict(request.options)
            query = request.statistic.query(parts.get(request.columns, whole), *columns, **options, **self._grouping)
            if query is not None:
                self._places.append((request, len(self.queries)))
                self.queries.append(query)
                continue
            wanted = request.statistic.expressions(*columns, **options)
            self._places.append((request, slice(len(scalars), len(scalars) + len(wanted))))
            scalars += wanted
        named = [scalar.alias(str(i)) for i, scalar in enumerate(scalars)]
        self._has_scalars = bool(named)
        if by:
            self.queries.append(whole.group_by(by).agg(named))
        elif named:
            self.queries.append(whole.select(named))

    def results(self, tables: Sequence[pl.DataFrame]) -> dict[int, ScanResults]:
        """Return the statistics from the results of the queries, for each value of `by`, or for 0."""
        if not self._by:
            scalars = tables[-1].row(0) if self._has_scalars else ()
            return {0: {request: self._state(request, place, tables, scalars) for request, place in self._places}}
        rows = {int(row[0]): row[1:] for row in tables[-1].rows()}
        (cell,), results = self._by, dict[int, ScanResults]((number, {}) for number in sorted(rows))
        for request, place in self._places:
            if isinstance(place, int):
                states = request.statistic.of_cells(tables[place], cell, **dict(request.options), **self._grouping)
            else:
                states = {number: self._state(request, place, tables, values) for number, values in rows.items()}
            for number, state in states.items():
                results[number][request] = state
        return results

    def _state(
        self, request: StatisticRequest, place: slice | int, tables: Sequence[pl.DataFrame], scalars: Sequence[Any]
    ) -> Statistic:
        inputs = scalars[place] if isinstance(place, slice) else (tables[place],)
        return request.statistic.of(*inputs, **dict(request.options), **self._grouping)


def statistics_of(table: pl.LazyFrame | pl.DataFrame, requests: Iterable[StatisticRequest]) -> ScanResults:
    """Return the statistics of a table that fits into memory; numbers are added in the order of the rows."""
    query = TableQuery(table, requests)
    return query.results(pl.collect_all(query.queries, engine="in-memory"))[0]


def statistics_of_rows(rows: pl.DataFrame, requests: Sequence[StatisticRequest]) -> ScanResults:
    """Return the statistics of rows in memory, which are in one piece."""
    known: dict[StatisticRequest, Statistic] = {}
    for statistic in dict.fromkeys(request.statistic for request in requests):
        alike = [r for r in requests if r.statistic is statistic and len(r.columns) == 1 and not r.options]
        states = statistic.of_columns(rows, [request.columns[0] for request in alike])
        known |= {request: state for request, state in zip(alike, states, strict=True) if state is not None}
    rest = [request for request in requests if request not in known]
    known |= statistics_of(rows, rest) if rest else {}
    return {request: known[request] for request in requests}


def merge_results(parts: Iterable[Mapping[StatisticRequest, Statistic]]) -> ScanResults:
    """Merge the statistics of parts of a table into those of all rows."""
    parts = list(parts)
    requests = list(parts[0]) if parts else []
    return {r: r.statistic.merge_all([part[r] for part in parts], **dict(r.options)) for r in requests}


def merge_folds(
    cells: Mapping[int, Mapping[StatisticRequest, Statistic]], folds: Sequence[Sequence[int]]
) -> list[ScanResults]:
    """Merge the statistics of the cells, which have the same requests, into those of each fold."""
    by_fold: list[ScanResults] = [{} for _ in folds]
    for request in next(iter(cells.values()), {}):
        states = {cell: results[request] for cell, results in cells.items()}
        merged = request.statistic.merge_folds(states, folds, **dict(request.options))
        for results, state in zip(by_fold, merged, strict=True):
            results[request] = state
    return by_fold
