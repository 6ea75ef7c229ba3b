"""`InferencePipeline.evaluate`: check the arguments, scan the rows once, and return the report."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.arguments import integer
from rayline.core.errors import DataError, ParameterError, SchemaError, at
from rayline.core.evaluation import Confidence, PipelineMethod
from rayline.core.row_weights import check_weight_column
from rayline.core.scan import Scan
from rayline.core.schema import refuse_types
from rayline.core.statistics.base import StatisticRequest
from rayline.core.target import Task
from rayline.evaluate import drawn
from rayline.evaluate import metrics as named
from rayline.evaluate.bootstrap import REPLICATES, hashed_columns
from rayline.evaluate.evaluation_statistics import EvaluationPlan, EvaluationStatistics
from rayline.evaluate.metric import Metric
from rayline.evaluate.report import EvaluationReport
from rayline.evaluate.results import EvaluationResults
from rayline.evaluate.scan import EvaluatedRows
from rayline.evaluate.scored_columns import WHERE
from rayline.inference.pipeline import InferencePipeline

MAX_REPLICATES = 10_000


@dataclass(frozen=True)
class EvaluationOptions:
    """The arguments of an evaluation, checked."""

    metrics: Mapping[str, Metric]
    by: tuple[tuple[str, ...], ...]
    weight: str | None
    confidence: float
    replicates: int
    seed: int
    target_columns: tuple[str, ...]


class Evaluate(PipelineMethod):
    """Measure a pipeline on rows with labels; see `InferencePipeline.evaluate`."""

    @at(WHERE)
    def __call__(self, pipeline: Any, *args: Any, **options: Any) -> EvaluationReport:
        (data,) = args
        assert isinstance(pipeline, InferencePipeline)
        statistics, plan, checked = measured({"": pipeline}, data, **options)
        results = EvaluationResults.of(statistics, plan, checked.replicates, checked.seed, checked.confidence)
        return EvaluationReport(results, pipeline)


@at(WHERE)
def evaluate_parts(parts: Sequence[tuple[InferencePipeline, Any]], **options: Any) -> EvaluationReport:
    """Return one report of several pipelines, each on rows of its own: those that a fold holds out.

    Raises ParameterError when their targets differ; and as `InferencePipeline.evaluate`.
    """
    part_results = []
    first = parts[0][0]
    for pipeline, data in parts:
        if pipeline.target.plain != first.target.plain:
            raise ParameterError.here(
                "the pipelines predict different targets.",
                f"Expected {first.target.plain}; got {pipeline.target.plain}.",
                "choose folds in which every class occurs (stratify=True).",
            )
        statistics, plan, checked = measured({"": pipeline}, data, **options)
        part_results.append(statistics)
    merged = EvaluationStatistics.merge_all(part_results)
    return EvaluationReport(
        EvaluationResults.of(merged, plan, checked.replicates, checked.seed, checked.confidence), first
    )


def measured(
    pipelines: Mapping[str, InferencePipeline], data: Any, **options: Any
) -> tuple[EvaluationStatistics, EvaluationPlan, EvaluationOptions]:
    """Check the options, and read the rows once: see `check` and `scan`."""
    with registry.engine_for(data).keeping(data):
        checked = check(pipelines, data, **options)
        return (*scan(pipelines, data, checked), checked)


def check(
    pipelines: Mapping[str, InferencePipeline],
    data: Any,
    *,
    metrics: Any = None,
    by: Any = None,
    sample_weight: str | None = None,
    confidence: Confidence = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
    target_columns: Mapping[str, str] | Sequence[str] | str | None = None,
) -> EvaluationOptions:
    """Return the arguments in one form. Raises ParameterError and SchemaError before any row is read."""
    first = next(iter(pipelines.values()))
    _check_bootstrap(replicates, seed)
    slices = _slices(by)
    labels = _label_columns(target_columns, first.target.columns)
    schema = registry.engine_for(data).schema(data)
    for pipeline in pipelines.values():
        refuse_types(pipeline.input_schema, schema)
    check_weight_column(sample_weight, schema)
    named_columns = [*labels, *(name for names in slices for name in names)]
    absent = [name for name in named_columns if name not in schema]
    if absent:
        raise SchemaError.absent(list(dict.fromkeys(absent)), schema)
    for name in (name for names in slices for name in names):
        if schema[name].is_nested() or schema[name] == pl.Object:
            raise SchemaError.dtype(name, "a column of single values to make slices of", schema[name])
    chosen = _metrics(metrics, first, data)
    return EvaluationOptions(chosen, slices, sample_weight, float(confidence), int(replicates), int(seed), labels)


def _check_bootstrap(replicates: Any, seed: Any) -> None:
    integer("replicates", replicates, minimum=0, maximum=MAX_REPLICATES)
    integer("seed", seed, minimum=0, maximum=2**63)


def _label_columns(columns: Any, targets: Sequence[str]) -> tuple[str, ...]:
    """Return the columns that hold the labels of each target: a name, a list of names, or a dict by target."""
    labels = targets if columns is None else [columns] if isinstance(columns, str) else columns
    if isinstance(labels, Mapping) and not {*labels} - {*targets}:
        labels = [labels.get(name, name) for name in targets]
    is_list = isinstance(labels, Sequence) and all(isinstance(name, str) for name in labels)
    if not is_list or len(labels) != len(targets):
        count = "one name" if len(targets) == 1 else f"{len(targets)} names"
        raise ParameterError.value("target_columns", f"{count}, for {list(targets)}", columns)
    return tuple(labels)


def _slices(by: Any) -> tuple[tuple[str, ...], ...]:
    """Return the columns of the slices: each alone, those of a tuple together."""
    if by is None:
        return ()
    listed = [by] if isinstance(by, (str, tuple)) else by
    if not isinstance(listed, Sequence):
        raise ParameterError.value("by", "names of columns, or tuples of them", by)
    groups = [(entry,) if isinstance(entry, str) else entry for entry in listed]
    if not all(isinstance(names, Sequence) and names and all(isinstance(n, str) for n in names) for names in groups):
        raise ParameterError.value("by", "names of columns, or tuples of them", by)
    return tuple(dict.fromkeys(tuple(dict.fromkeys(names)) for names in groups))


def _metrics(wanted: Any, pipeline: InferencePipeline, data: Any) -> dict[str, Metric]:
    target = pipeline.target
    names, custom = named.given(wanted) if wanted is not None else (_defaults(pipeline, data), {})
    for name in names:
        if name.startswith("train-"):
            raise ParameterError.value("metrics", "metrics of these rows, without a prefix", name)
    plain = [name.removeprefix("test-") for name in names]
    # Whether a target has intervals is for the stages after its model to say.
    supported = [name for name in plain if not (pipeline.has_intervals and named.get(name, custom).needs == "interval")]
    without = [name for name in supported if named.get(name, custom).needs == "interval" and len(target.quantiles) < 2]
    if without:
        raise ParameterError.here(
            f"the metric {without[0]!r} measures intervals, and the pipeline gives none.",
            "Expected the stage Conformal after the model, or a model of several quantiles.",
            "learn them from held-back rows: pipeline.calibrated([Conformal(coverage=0.9)], rows).",
        )
    named.check(supported, target, custom)
    return {name: named.get(name, custom) for name in plain}


def _defaults(pipeline: InferencePipeline, data: Any) -> tuple[str, ...]:
    """Return the default metrics; a few rows show whether a classifier gives probabilities."""
    target = pipeline.target
    if not target.task.is_classification:
        return named.defaults_of(target)
    rows = pipeline.examples
    if not rows.height:
        rows = registry.engine_for(data).head(data, 2, list(pipeline.input_schema))
    return named.defaults_of(target, pipeline.scores(rows.lazy()) if rows.height else None)


def scan(
    pipelines: Mapping[str, InferencePipeline], data: Any, options: EvaluationOptions
) -> tuple[EvaluationStatistics, EvaluationPlan]:
    """Read the rows once, and return their statistics with the plan that they were computed by.

    Raises DataError when there are no rows, labels are missing or were not seen in training, or weights are negative.
    """
    first = next(iter(pipelines.values()))
    inputs = [name for pipeline in pipelines.values() for name in pipeline.input_schema]
    # The rows of a group are ranked together, and so are resampled together.
    units = options.target_columns[1:] if first.target.task is Task.RANKING else [*inputs, *options.target_columns]
    rows = EvaluatedRows(
        pipelines,
        options.target_columns,
        hashed_columns(units),
        options.by,
        options.weight,
        intervals=any(metric.needs == "interval" for metric in options.metrics.values()),
    )
    targets = {name: replace(pipeline.target, classes=first.target.classes) for name, pipeline in pipelines.items()}
    about = [sorted(targets), [str(t) for t in targets.values()], sorted(options.metrics), options.by, options.weight]
    key = hashlib.sha256(repr(about).encode()).hexdigest()
    plan = EvaluationPlan(
        key, targets, options.metrics, options.by, drawn.plot_statistics(first.target), options.weight is not None
    )
    request = StatisticRequest(EvaluationStatistics, rows.names, (("plan", plan),))
    statistics = registry.engine_for(data).scan(data, Scan([request], attach=rows, chunk_rows=rows.chunk_rows))[0][
        request
    ]
    assert isinstance(statistics, EvaluationStatistics)
    if not statistics.slices:
        raise DataError.here(
            "there are no rows.",
            "Expected at least one.",
            "check the filter or the path that they come from.",
        )
    return statistics, plan
