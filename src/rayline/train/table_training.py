"""Fits on rows: fit the preprocessor, then train in this process or on Ray workers."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.errors import at, counted, shorten
from rayline.core.scan import Scan, TableFunction
from rayline.core.schema import col, refuse_empty
from rayline.core.score_gathering import MAX_GATHERED
from rayline.core.stage import FitContext
from rayline.core.target import Target
from rayline.evaluate import metrics as named_metrics
from rayline.evaluate.metric import Metric
from rayline.inference.pipeline import Preprocessor
from rayline.preprocessing import fit_planner
from rayline.preprocessing.fit_planner import FitOutcome
from rayline.preprocessing.stage_list import idle
from rayline.train import fit_inputs, progress
from rayline.train.fit_driver import FitDriver
from rayline.train.fit_inputs import WHERE, DataArguments
from rayline.train.fit_request import FitRequest, RowPreparation, resolve
from rayline.train.memory_check import refuse_too_large
from rayline.train.progress import ProgressLine
from rayline.train.target_inference import TargetProfiler
from rayline.train.training_run import TrainingRun, n_threads
from rayline.train.worker import LocalWorker, WorkerOutcome, starting_workers, train_on, train_on_ray

EXAMPLES = 5
"""The number of raw rows that a model keeps as examples."""


class TableFit(FitDriver):
    """A fit on tables or Datasets."""

    _transformed: pl.DataFrame | None = (
        None  # the training rows after the stages, where they are in this process anyway
    )

    @property
    def uses_this_gpu(self) -> bool:
        return self.trainer.num_workers is None

    def read(self, arguments: DataArguments) -> None:
        self.inputs = fit_inputs.normalise(arguments, None if self._fits else self._given.input_schema)

    def starting_workers(self) -> AbstractContextManager[None]:
        return starting_workers(self.trainer)

    @property
    def _given(self) -> Preprocessor:
        return Preprocessor() if self.preprocessor is None else self.preprocessor

    @property
    def _fits(self) -> bool:
        """Whether the preprocessor is fitted here."""
        return self.refit or not self._given.is_fitted

    def resolve(self, line: ProgressLine) -> FitRequest:
        begun = time.perf_counter()
        roles, preprocessor = self.inputs.roles, self._given
        if self._fits:
            line.now("preprocessor")
            fitted, fit = preprocessor.clone(), self._fit
        else:
            fitted, fit = (
                preprocessor.without_targets(roles.targets, excluded_columns=roles.excluded_columns),
                self._ask,
            )
        spec, outcome = resolve(
            self.trainer, roles, fitted.leaves, preprocessor.target_stages, lambda profiler: fit(fitted, profiler)
        )
        if not self._fits:
            line.part(f"preprocessor as fitted before{self._new_columns()} (refit=True fits it again)")
        elif len(fitted):
            spent = progress.seconds(time.perf_counter() - begun)
            line.part(f"preprocessor {counted(outcome.scans, 'scan')} {spent}")
        for name, words in idle(fitted.leaves):
            line.part(f"{name!r} selects no {words}")
        named_metrics.check(self.trainer.metrics or (), spec.target, self.trainer.custom_metrics)
        if self.preprocessor is not None and self.preprocessor is not fitted:
            self.preprocessor.copy_fit(fitted)
            fitted = self.preprocessor
        fitted.remember_target(spec.target)
        self.preprocessor, self.examples = fitted, _examples(self.inputs.train, fitted)
        request = FitRequest.of(
            self.trainer, spec, score=self._tables_to_score(spec.target), metrics=self._metrics(spec.target)
        )
        in_process = self.trainer.num_workers is None
        refuse_too_large(
            request,
            outcome.n_rows,
            collected=in_process and registry.is_dataset(self.inputs.train) and self._transformed is None,
        )
        if not in_process and self.inputs.roles.test_weight is not None:
            # On the driver, because warnings of workers are not shown.
            for metric in self.trainer.custom_metrics.values():
                metric.warn_unweighted()
        return request

    def _fit(self, fitted: Preprocessor, profiler: TargetProfiler) -> FitOutcome:
        """Fit the preprocessor, and answer the profiler's questions in the same scan."""
        if self.fit_stages is not None:
            return self.fit_stages(fitted, profiler)
        roles = self.inputs.roles
        return fitted.fit_with_requests(
            self.inputs.train, target_columns=roles.targets, extra_requests=profiler, excluded_columns=roles.excluded_columns, schema=roles.schema
        )  # fmt: skip

    def _ask(self, fitted: Preprocessor, profiler: TargetProfiler) -> FitOutcome:
        """Answer the profiler's questions on the rows as a fitted preprocessor transforms them."""
        inputs, roles = self.inputs, self.inputs.roles
        engine, output = registry.engine_for(inputs.train), fitted.output_schema
        context = FitContext((), output, roles.targets, untouched=_untouched(fitted))
        columns = [*profiler.features(output), *roles.targets, *roles.excluded_columns]
        rows = engine.map(inputs.train, _SelectedColumns(fitted.table_function(training=True), columns))
        if self.trainer.num_workers is None:
            rows = self._transformed = engine.collect(rows)
        results = registry.engine_for(rows).scan(rows, Scan([fit_planner.ROWS, *profiler(context)]))[0]
        n_rows = getattr(results[fit_planner.ROWS], "count", 0)
        refuse_empty(n_rows)
        leaves, targets = ([stage for _, stage in named] for named in (fitted.leaves, fitted.target_stages))
        return FitOutcome(leaves, results, n_rows, 0, output, {}, targets)

    def _new_columns(self) -> str:
        preprocessor, roles = self._given, self.inputs.roles
        known = {*preprocessor.input_schema, *preprocessor.target_columns, *roles.targets, *roles.excluded_columns}
        new = [name for name in roles.schema if name not in known]
        noun = "column" if len(new) == 1 else "columns"
        return f", without the new {noun} {shorten(new, 3).strip('[]')}" if new else ""

    def _tables_to_score(self, target: Target) -> tuple[str, ...]:
        # A framework measures the transformed target: with target stages none of its metrics is on the labels' scale.
        wanted = self.trainer.metrics
        needed = bool(target.stages) if wanted is None else any(name.startswith("train-") for name in wanted)
        train = ("train",) if needed else ()
        return (*train, *(("test",) if self.inputs.test is not None else ()))

    def _metrics(self, target: Target) -> dict[str, Metric] | None:
        """Return the metrics that are computed from scores; None where scores decide which."""
        wanted = self.trainer.metrics
        if wanted is None and not target.task.is_paired:
            return None
        default = named_metrics.defaults_of(target)
        names = (*default, *(f"train-{name}" for name in default)) if wanted is None else wanted
        limit = sys.maxsize if self.trainer.num_workers is None else MAX_GATHERED
        return named_metrics.chosen(names, self.trainer.custom_metrics, limit=limit)

    # -- training --------------------------------------------------------------------------------------------------

    def run(self, request: FitRequest, training: TrainingRun) -> WorkerOutcome:
        in_process = request.scaling.num_workers is None
        return self._in_process(request, training) if in_process else self._on_workers(request, training)

    def _prepare(self, request: FitRequest, *, test: bool) -> RowPreparation:
        """Return the function from raw rows to training rows, or to test rows."""
        assert self.preprocessor is not None
        return request.spec.prepare(self.preprocessor.table_function(training=not test), test=test)

    def _in_process(self, request: FitRequest, training: TrainingRun) -> WorkerOutcome:
        """Train in this process. All rows are collected here, wherever they come from."""
        if self._transformed is None:
            train = _rows(self.inputs.train, self._prepare(request, test=False))
        else:
            train = request.spec.prepare(None)(self._transformed.lazy()).collect()
        test = None if self.inputs.test is None else _rows(self.inputs.test, self._prepare(request, test=True))
        if test is not None:
            with at(f"{WHERE} (test data)"):
                refuse_empty(test.height)
        tests = None if test is None else [lambda: test]
        return train_on(request, LocalWorker([lambda: train], tests, training.report, training.keep, n_threads()))

    def _on_workers(self, request: FitRequest, training: TrainingRun) -> WorkerOutcome:
        """Train on Ray workers. The rows and their scores stay there; the model returns as the framework's files."""
        return train_on_ray(
            request,
            train=self.inputs.train,
            test=self.inputs.test,
            prepare=self._prepare(request, test=False),
            prepare_test=self._prepare(request, test=True),
            on_report=training.report,
            on_checkpoint=training.kept if training.callbacks else None,
            checkpoint_every=training.checkpoint_every,
        )


@dataclass(frozen=True)
class _SelectedColumns:
    """Transform a table and select some of its columns."""

    transform: TableFunction
    columns: Sequence[str]

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return self.transform(table).select(map(col, self.columns))


def _rows(data: Any, prepare: RowPreparation) -> pl.DataFrame:
    engine = registry.engine_for(data)
    frame = engine.collect(engine.map(data, prepare))
    assert isinstance(frame, pl.DataFrame)
    return frame


def _untouched(preprocessor: Preprocessor) -> tuple[str, ...]:
    """Return the columns that no stage uses."""
    used = {column for _, leaf in preprocessor.leaves for column in (leaf.learned or {}).get("columns", ())}
    return tuple(name for name in preprocessor.output_schema if name in preprocessor.input_schema and name not in used)


def _examples(data: Any, preprocessor: Preprocessor) -> pl.DataFrame:
    """Return a few raw rows."""
    frame = registry.engine_for(data).head(data, EXAMPLES, list(preprocessor.input_schema))
    assert isinstance(frame, pl.DataFrame)
    return frame
