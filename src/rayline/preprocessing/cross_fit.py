"""Fold-wise fitting: the preprocessors of all training slices of a cross validation, from one scan.

The scan keeps its answers for each cell of rows by itself (a fold is a set of cells), and the answers for a training
slice are the merged answers of its cells. What was asked once is kept: a later fit with other parameters (a tuning
trial) scans only for questions that were never asked. Questions about a table that earlier stages made cannot be
merged from cells, because those stages differ from fold to fold: they are asked of the fold's own training rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from rayline.core.engine import Engine
from rayline.core.errors import DataError, at, place
from rayline.core.scan import CellExpression, Scan
from rayline.core.scan_results import ScanResults, merge_folds
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.row_counts import RowCount
from rayline.data.split.cells_by_row import AttachedCells, RowCells, changed_rows
from rayline.data.split.fold_cells import CellSlice, FoldCells
from rayline.preprocessing import fit_planner, schema_check

MAX_PREFIXED = 1_000
"""The number of cached scan results per fold for tables after earlier stages; these differ with every tuned parameter."""


@dataclass(frozen=True)
class KnownStatistics:
    """What a `FoldFitter` has computed of the raw table: what was asked, and the answers of each fold."""

    requests: frozenset[StatisticRequest]
    results: Sequence[ScanResults]


class FoldFitter:
    """Fits stages on the training slice of any fold, and computes no statistic of the data twice.

    Parameters
    ----------
    engine, data
        Where the rows are.
    schema
        The columns as `conform.readable` gives them.
    cells
        The cell of each row.
    folds
        The cells of each fold.
    targets, beside
        Columns that no stage may touch, and columns that stages do not see (as in `fitting.fit`).
    known
        What another fitter of the same rows and folds has computed already.
    row_cells
        The cells in the order of the rows, where they are known and the rows keep their order.
    """

    def __init__(
        self,
        engine: Engine,
        data: Any,
        schema: Mapping[str, pl.DataType],
        cells: CellExpression,
        folds: Sequence[FoldCells],
        *,
        targets: Sequence[str] = (),
        excluded_columns: Sequence[str] = (),
        known: KnownStatistics | None = None,
        row_cells: RowCells | None = None,
    ) -> None:
        self._engine, self._data, self._schema = engine, data, pl.Schema(schema)
        self._cells, self.folds, self._row_cells = cells, list(folds), row_cells
        self._targets, self._excluded_columns = list(targets), list(excluded_columns)
        self._requests: set[StatisticRequest] = set() if known is None else {*known.requests}
        self._known: list[ScanResults] = [{} for _ in self.folds] if known is None else [dict(a) for a in known.results]
        self.scans, self.slice_scans = 0, 0  # of all rows, and of one fold's training rows

    @property
    def known(self) -> KnownStatistics:
        """The statistics computed from the raw table."""
        requested = frozenset(self._requests)
        return KnownStatistics(
            requested, [{r: a for r, a in results.items() if not r.prefix} for results in self._known]
        )

    def fit(
        self,
        fold: int,
        leaves: Sequence[fit_planner.Leaf],
        *,
        extra_requests: fit_planner.RequestFunction | None = None,
        target_leaves: Sequence[fit_planner.Leaf] = (),
    ) -> fit_planner.FitOutcome:
        """Fit on the training slice of this fold, with the same result as `fit_planner.fit` on these rows alone.

        Raises DataError when the slice has no rows, or a stage cannot learn from it.
        """
        here = f"{place()}: fold {fold + 1} of {len(self.folds)}"
        known = self._known[fold]
        while True:
            walk = fit_planner.FitPlan(
                leaves, self._schema, self._targets, known, self._excluded_columns, target_leaves
            )
            with at(here):
                walk.run(extra_requests)
            missing = [request for request in walk.missing if not request.prefix]
            if not missing:
                break
            self._scan([*missing, fit_planner.ROWS])
            rows = known.get(fit_planner.ROWS)
            if not isinstance(rows, RowCount) or not rows.count:
                raise DataError(
                    f"{here}: no rows to train on.",
                    "Expected rows in every fold.",
                    "use fewer folds, or check the columns of the split.",
                )
        if walk.complete:
            return dataclasses.replace(fit_planner.finished(walk, known, 0), scans=self.scans)
        # What is still missing is asked of the slice itself.
        rows = self._engine.map(self._data, CellSlice(self._cells, self.folds[fold].train))
        with at(here):
            fit = fit_planner.fit(
                self._engine,
                rows,
                leaves,
                self._schema,
                targets=self._targets,
                excluded_columns=self._excluded_columns,
                extra_requests=extra_requests,
                known=known,
                target_leaves=target_leaves,
            )
        self.slice_scans += fit.scans
        self._remember(known, fit.known)
        return dataclasses.replace(fit, scans=self.scans + fit.scans)

    def _scan(self, requests: Sequence[StatisticRequest]) -> None:
        new = [request for request in dict.fromkeys(requests) if request not in self._requests]
        if not new:
            return
        needed = {column for request in new for column in request.columns}
        if self._row_cells is None:
            scan = Scan(new, cells=self._cells)
        else:
            scan = Scan(new, cells=AttachedCells(), attach=self._row_cells)
        check = schema_check.SchemaCheck(self._schema).only(needed, scan.nan_columns)
        scan = dataclasses.replace(scan, prepare=check)
        # In the order of the cells, and of the training cells alone: the held-out rows leave no trace, not even in the
        # last bit of a sum.
        with changed_rows() if self._row_cells is not None else contextlib.nullcontext():
            by_cell = self._engine.scan(self._data, scan)
        of_folds = merge_folds(by_cell, [fold.train for fold in self.folds])
        for known, results in zip(self._known, of_folds, strict=True):
            known.update(results)
        self._requests.update(new)
        self.scans += 1
        if self._row_cells is not None:
            self._row_cells.release()

    @staticmethod
    def _remember(known: ScanResults, results: Mapping[StatisticRequest, Any]) -> None:
        prefixed = [request for request in known if request.prefix]
        for request in prefixed[: max(0, len(prefixed) + len(results) - len(known) - MAX_PREFIXED)]:
            del known[request]
        known.update({request: state for request, state in results.items() if request not in known})
