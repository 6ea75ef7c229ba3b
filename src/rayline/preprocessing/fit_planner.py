"""Plan and run the fit of a list of stages: collect the statistics that they require, scan once, repeat with the results.

Planning needs no data. It follows each column through the stages; where a stage only shifts, scales or fills a column,
the statistics of the result follow from those of the raw column (see `Operation.push`), so they are computed on the raw
table. Only when a statistic cannot be derived like this does the fit need another scan, of the table after the previous
stages. The number of scans is the number of such levels: one for impute, scale and encode.

Results are cached by request, so a fit with other parameters (a tuning trial, another fold) computes only statistics that
were not requested before.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import polars as pl

from rayline.core.engine import Scanner
from rayline.core.errors import DataError, RaylineError, SchemaError, at, place, shorten
from rayline.core.operations.base import Operation, schema_after
from rayline.core.scan import Scan
from rayline.core.scan_results import ScanResults
from rayline.core.schema import refuse_empty, without_categories
from rayline.core.stage import FitContext, Stage, operations_of, text_request
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.counts import counting
from rayline.core.statistics.row_counts import RowCount
from rayline.preprocessing import schema_check

ROWS = StatisticRequest(RowCount, ())

Leaf = tuple[str, Stage]
RequestFunction = Callable[[FitContext], Sequence[StatisticRequest]]


class StepChain:
    """Operations on a column, one after another, and what was pushed through them: a longer chain goes on from there.

    Parameters
    ----------
    before
        The steps before the last one; None when there are none.
    last
        An operation, or its class while its stage is not fitted.
    """

    __slots__ = ("_pushed", "_pushes", "before", "is_fitted", "last")

    def __init__(self, before: StepChain | None, last: Operation | type[Operation]) -> None:
        self.before, self.last = before, last
        self.is_fitted: bool = isinstance(last, Operation) and (before is None or before.is_fitted)
        self._pushes: dict[type[Statistic], bool] = {}
        self._pushed: dict[StatisticRequest, Statistic] = {}

    def pushes(self, statistic: type[Statistic]) -> bool:
        """Return whether every step can follow a statistic."""
        known, steps = self._since(lambda step: statistic in step._pushes)
        can_follow = known is None or known._pushes[statistic]
        for step in steps:
            kind = type(step.last) if isinstance(step.last, Operation) else step.last
            can_follow = step._pushes[statistic] = can_follow and kind.pushes(statistic)
        return can_follow

    def push(self, request: StatisticRequest, statistic: Statistic) -> Statistic:
        """Return the statistic behind fitted steps of that in front of them, which answers this request."""
        known, steps = self._since(lambda step: request in step._pushed)
        if known is not None:
            statistic = (
                known._pushed[request] if known is self else known._pushed.pop(request)
            )  # large ones are kept once
        for step in steps:
            statistic = step.last.push(statistic)  # type: ignore[call-arg,arg-type]
        self._pushed[request] = statistic
        return statistic

    def _since(self, is_known: Callable[[StepChain], bool]) -> tuple[StepChain | None, list[StepChain]]:
        """Return the last step of which something is known, and those after it in order."""
        after: list[StepChain] = []
        step: StepChain | None = self
        while step is not None and not is_known(step):
            after.append(step)
            step = step.before
        return step, after[::-1]


class ColumnSource(NamedTuple):
    """The computation of a column of the current table: `source` in the table after the first `prefix` stages, followed by
    `steps`. None as prefix: cannot be computed yet."""

    source: str
    prefix: int | None = 0
    steps: StepChain | None = None


@dataclass
class _PlannedTable:
    """The table in front of a stage, as far as it is known.

    Attributes
    ----------
    schema
        Its columns.
    prefix
        The number of stages behind which it is computed; None when one of them is not fitted.
    lineage
        How each column is computed.
    is_certain
        Whether its columns are known.
    is_growing
        Whether more columns will come beside them.
    """

    schema: pl.Schema
    prefix: int | None
    lineage: dict[str, ColumnSource]
    is_certain: bool = True
    is_growing: bool = False


@dataclass
class FitPlan:
    """One pass over the stages with the statistics known so far."""

    leaves: Sequence[Leaf]
    schema: Mapping[str, pl.DataType]
    targets: Sequence[str]
    known: Mapping[StatisticRequest, Statistic]
    excluded_columns: Sequence[str] = ()
    target_leaves: Sequence[Leaf] = ()
    noun: str = "stage"

    fitted: list[Stage] = field(default_factory=list)
    fitted_targets: list[Stage] = field(default_factory=list)
    missing: dict[StatisticRequest, None] = field(default_factory=dict)
    prefixes: dict[str, list[Operation]] = field(default_factory=dict)
    final: ScanResults = field(default_factory=dict)
    complete: bool = False
    output: pl.Schema = field(default_factory=pl.Schema)
    _operations: list[list[Operation]] = field(default_factory=list)  # of each fitted stage
    _digests: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.schema = without_categories(self.schema)  # as `SchemaCheck` leaves the table

    def run(self, extra_requests: RequestFunction | None) -> None:
        """Fit stages as far as the known statistics allow, and record the missing ones; `extra_requests` requests those of the output."""
        self._walk(extra_requests)
        if self.target_leaves:
            self._walk_targets()

    def _walk_targets(self) -> None:
        """Fit the target stages on the raw targets of the rows that remain after the other stages."""
        moving = [i for i, (_, leaf) in enumerate(self.leaves) if leaf.resamples]
        if moving and len(self.fitted) <= moving[-1]:
            return
        walk = FitPlan(
            self.target_leaves,
            {t: self.schema[t] for t in self.targets},
            (),
            self.known,
            noun="target stage",
        )
        if moving:
            walk._operations += self._operations[: moving[-1] + 1]
        walk._walk(None)
        self.missing |= walk.missing
        self.prefixes |= walk.prefixes
        self.fitted_targets, self.complete = walk.fitted, self.complete and walk.complete

    def _refuse_nothing(self, before: pl.Schema, after: pl.Schema) -> None:
        """Raise DataError when a stage has removed every feature: a table without columns has no rows either."""
        features = [name for name in before if name not in self.targets]
        if features and all(name in self.targets for name in after):
            raise DataError.here(
                "the stage removes every feature.",
                f"Expected at least one of {shorten(features)} to stay.",
                "change the stage's parameters, or choose fewer columns for it.",
            )

    def _walk(self, extra_requests: RequestFunction | None) -> None:
        table = _PlannedTable(
            pl.Schema({name: dtype for name, dtype in self.schema.items() if name not in self.excluded_columns}),
            len(self._operations),
            {name: ColumnSource(name, len(self._operations)) for name in self.schema},
        )
        for path, leaf in self.leaves:
            try:
                columns = self._columns(path, leaf, table)
            except SchemaError:
                if table.is_certain and not table.is_growing:
                    raise
                return  # it may name a column that an earlier stage has yet to make
            context = FitContext(tuple(columns), table.schema, tuple(self.targets))
            with self._in_stage(path):
                requests = leaf.required_statistics(context)
                results = self._results(requests, table.lineage, table.prefix)
            if results is None or not table.is_certain or table.prefix is None:
                self._pass_by(leaf, columns, table)
                continue
            with self._in_stage(path):
                learned = leaf.learn(context, results)
            self._apply(path, leaf, leaf.fitted(learned), columns, table)
        self._finish(extra_requests, table)

    @contextlib.contextmanager
    def _in_stage(self, path: str) -> Iterator[None]:
        """Add the stage to what goes wrong in here."""
        try:
            yield
        except RaylineError as error:
            raise error.within(f"{place()}: {self.noun} {path!r}") from error.__cause__

    def _columns(self, path: str, leaf: Stage, table: _PlannedTable) -> Sequence[str]:
        """Return the columns that a stage works on. Raises SchemaError when it names one that is not there."""
        on_targets = self.noun != "stage" and leaf.columns is None  # there is nothing else that could be meant
        wanted = leaf.replace(columns=list(table.schema)) if on_targets else leaf
        with at(f"{place()}: {self.noun} {path!r}"):
            return wanted.select(table.schema, exclude=self.targets, text=lambda c: self._is_text(table.lineage[c]))

    def _pass_by(self, leaf: Stage, columns: Sequence[str], table: _PlannedTable) -> None:
        """Continue after a stage that cannot be fitted yet, as far as its output is known."""
        table.prefix = None
        table.is_certain = table.is_certain and (leaf.column_operation is not None or leaf.keep_input)
        table.is_growing = table.is_growing or leaf.keep_input
        replaced: set[str] = set()
        for column in columns:
            before = table.lineage[column]
            if leaf.column_operation is not None:
                table.lineage[column] = before._replace(steps=StepChain(before.steps, leaf.column_operation))
            elif not leaf.keep_input and text_request(before.source) not in self.missing:  # else it may stay
                replaced.add(column)
        if replaced:
            table.schema = pl.Schema({name: dtype for name, dtype in table.schema.items() if name not in replaced})

    def _apply(self, path: str, leaf: Stage, fitted: Stage, columns: Sequence[str], table: _PlannedTable) -> None:
        """Keep a fitted stage, and go on with the table that it makes."""
        self.fitted.append(fitted)
        new = operations_of(path, fitted)
        after = pl.Schema(schema_after(new, table.schema))
        with at(f"{place()}: {self.noun} {path!r} ({type(fitted).__name__})"):
            self._refuse_nothing(table.schema, after)
        training = (
            new if type(fitted).lower_training is Stage.lower_training else operations_of(path, fitted, training=True)
        )
        self._operations.append(training)
        changed_columns = set(columns)
        changed = {name for name in after if name not in table.schema or name in changed_columns}
        steps = {
            operation.column: operation  # type: ignore[attr-defined]
            for operation in new
            if leaf.column_operation and isinstance(operation, leaf.column_operation)
        }
        prefix, lineage = len(self._operations), table.lineage
        for name in after:
            if leaf.resamples:
                lineage[name] = ColumnSource(name, prefix)
            elif name in steps:
                lineage[name] = lineage[name]._replace(steps=StepChain(lineage[name].steps, steps[name]))
            elif name in changed and not (leaf.keep_input and name in changed_columns):
                lineage[name] = ColumnSource(name, prefix)
        table.schema, table.prefix = after, prefix

    def _finish(self, extra_requests: RequestFunction | None, table: _PlannedTable) -> None:
        """Answer the caller's questions about the output, or note what is missing for them."""
        if len(self.fitted) == len(self.leaves):
            self.output = table.schema
            wanted = extra_requests(self._output_context(table.schema, table.lineage)) if extra_requests else []
            results = self._results(wanted, table.lineage, table.prefix)
            if results is not None and not self.missing:
                self.final, self.complete = results, True
        elif extra_requests:
            self._results(extra_requests(self._output_context(table.schema, table.lineage)), table.lineage, None)

    def _output_context(self, table: pl.Schema, lineage: Mapping[str, ColumnSource]) -> FitContext:
        untouched = tuple(name for name in table if lineage[name] == ColumnSource(name))
        return FitContext(tuple(table), table, tuple(self.targets), untouched=untouched)

    def _is_text(self, lineage: ColumnSource) -> bool:
        # Free text shows only in the data. Suppose categories at first; when the scan says otherwise, walk again.
        if lineage.prefix is None:
            return False
        request = text_request(lineage.source)._replace(prefix=self._digest(lineage.prefix))
        answer = self.known.get(request)
        if answer is None:
            self.missing[request] = None
            return False
        return bool(answer.is_text)  # type: ignore[attr-defined]

    def _results(
        self,
        requests: Sequence[StatisticRequest],
        lineage: Mapping[str, ColumnSource],
        prefix: int | None,
    ) -> ScanResults | None:
        """Return the answers, or None while some are missing (they are noted) or cannot be asked yet."""
        results: ScanResults = {}
        for request in requests:
            base, steps = self._resolve(request, lineage, prefix)
            if base is None:
                continue
            if base not in self.known:
                self.missing[base] = None
            elif steps is None or steps.is_fitted:
                with counting(f"The column {request.columns[0]!r}"):
                    results[request] = self.known[base] if steps is None else steps.push(base, self.known[base])
        return results if len(results) == len(set(requests)) else None

    def _resolve(
        self, request: StatisticRequest, lineage: Mapping[str, ColumnSource], prefix: int | None
    ) -> tuple[StatisticRequest | None, StepChain | None]:
        places = [lineage[column] for column in request.columns]
        if len(places) == 1:
            steps = places[0].steps
            if places[0].prefix is not None and (steps is None or steps.pushes(request.statistic)):
                return request._replace(columns=(places[0].source,), prefix=self._digest(places[0].prefix)), steps
        elif (
            all(place.prefix == places[0].prefix and place.steps is None for place in places)
            and places[0].prefix is not None
        ):
            return request._replace(
                columns=tuple(place.source for place in places), prefix=self._digest(places[0].prefix)
            ), None
        return (None if prefix is None else request._replace(prefix=self._digest(prefix))), None

    def _digest(self, prefix: int) -> str:
        """Return what a request says of the table behind the first stages: the same for the same operations in any walk."""
        if not prefix:
            return ""
        if prefix not in self._digests:
            operations = [operation for group in self._operations[:prefix] for operation in group]
            self._digests[prefix] = hashlib.blake2b(repr(operations).encode(), digest_size=12).hexdigest()
            self.prefixes[self._digests[prefix]] = operations
        return self._digests[prefix]


@dataclass(frozen=True)
class FitOutcome:
    """The result of a fit: the fitted leaves, the statistics that the caller requested, the number of scans, and the types."""

    leaves: list[Stage]
    final: ScanResults
    n_rows: int
    scans: int
    output: pl.Schema
    known: dict[StatisticRequest, Statistic]
    target_leaves: list[Stage] = field(default_factory=list)


def fit(
    engine: Scanner,
    data: Any,
    leaves: Sequence[Leaf],
    schema: Mapping[str, pl.DataType],
    *,
    targets: Sequence[str] = (),
    extra_requests: RequestFunction | None = None,
    known: Mapping[StatisticRequest, Statistic] | None = None,
    excluded_columns: Sequence[str] = (),
    target_leaves: Sequence[Leaf] = (),
) -> FitOutcome:
    """Fit the leaves on the data, with as few scans as there are levels; the target stages in the same scans.

    Columns named in `excluded_columns` (sample weights) are no part of the table for the stages; only `extra_requests` may ask about
    them. Raises DataError when the data has no rows, or a stage cannot learn from it, and SchemaError when a stage names a column that
    does not exist or is of the wrong type.
    """
    results: dict[StatisticRequest, Statistic] = dict(known or {})
    scans = 0
    while True:
        walk = FitPlan(leaves, schema, targets, results, excluded_columns, target_leaves)
        try:
            walk.run(extra_requests)
        except RaylineError:
            if scans or results:
                _refuse_empty(results)
            raise
        if walk.complete:
            return finished(walk, results, scans)
        missing = list(walk.missing)
        if not missing:
            raise RaylineError.here(
                "the stages request no statistics and cannot be fitted.", "", "this is a defect: report it."
            )
        if ROWS not in results:
            missing.append(ROWS)
        scan = Scan(missing, walk.prefixes)
        check = schema_check.SchemaCheck(schema, place()).only(scan.columns(schema), scan.nan_columns)
        results |= engine.scan(data, replace(scan, prepare=check))[0]
        scans += 1
        _refuse_empty(results)


def finished(walk: FitPlan, results: Mapping[StatisticRequest, Statistic], scans: int) -> FitOutcome:
    """Return what a complete walk has found. Raises DataError when there were no rows."""
    _refuse_empty(results)
    n_rows = getattr(results.get(ROWS), "count", -1)
    return FitOutcome(walk.fitted, walk.final, n_rows, scans, walk.output, dict(results), walk.fitted_targets)


def _refuse_empty(results: Mapping[StatisticRequest, Statistic]) -> None:
    rows = results.get(ROWS)
    if isinstance(rows, RowCount):
        refuse_empty(rows.count)
