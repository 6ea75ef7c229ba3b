"""`train.fit`: fit the preprocessor, train the framework, measure, and return the result. `trainer.fit` calls it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.errors import ParameterError, ResourceError, counted, shorten
from rayline.core.scan import Scan, TableFunction
from rayline.core.scan_results import Answers
from rayline.core.schema import col, refuse_empty
from rayline.core.stage import FitContext
from rayline.core.target import Target
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline, Preprocessor
from rayline.inference.svg_plots import number
from rayline.preprocessing import fit_planner, schema_check
from rayline.preprocessing.stage_list import idle
from rayline.train import fit_inputs, progress
from rayline.train import metrics as named_metrics
from rayline.train.base_trainer import BaseTrainer
from rayline.train.callbacks import Callback, Run
from rayline.train.environment_training import inputs_without_data
from rayline.train.fit_inputs import WHERE, FitInputs
from rayline.train.result import Result
from rayline.train.target_inference import TargetProfiler, TrainingSpec
from rayline.train.training_run import TrainingRun
from rayline.train.worker_task import FeaturesFrom, WorkerOutcome

EXAMPLES = 5
"""The number of raw rows that a model keeps as examples."""


@known_arguments
def fit(
    trainer: BaseTrainer,
    preprocessor: Preprocessor | None = None,
    train_dataset: Any = None,
    test_dataset: Any = None,
    target_columns: Sequence[str] | str | None = None,
    *,
    X: Any = None,  # noqa: N803  # the field's name for it
    y: Any = None,
    X_test: Any = None,  # noqa: N803
    y_test: Any = None,
    sample_weight: Any = None,
    callbacks: Sequence[Any] = (),
    metrics: Any = None,
    pos_label: Any = None,
    refit: bool = False,
    verbose: bool | None = None,
) -> Result:
    """Train a model: fit the preprocessor where it is not fitted, prepare the rows, train, measure.

    Parameters
    ----------
    trainer
        The framework and its arguments. It then has `fitted_model`.
    preprocessor
        Its stages transform the features, its target stages the labels. An unfitted preprocessor is fitted here, on the
        training rows, and stays fitted; when the fit is refused it does not change. None for no stages.
    train_dataset, test_dataset
        Any table, or a ray.data.Dataset. Without a test set the metrics are only those that the framework reports. None
        for a framework that generates its own data (RLlib): call `train.fit(trainer)`.
    target_columns
        The columns to predict.
    X, y, X_test, y_test
        In place of datasets: features, and labels as an array, a series, a table, or names of columns of X.
    sample_weight
        The column with the weights of the rows (with X and y also an array). It is not a feature, and the test set need not
        have it.
    callbacks
        `rayline.train.Callback`s, and callback objects of the framework.
    metrics, pos_label
        Replace those of the trainer, for this fit.
    refit
        Whether a fitted preprocessor is fitted again, on these training rows. By default it is used as fitted, and the
        progress line says so.
    verbose
        False for no progress line; None lets the environment variable RAYLINE_QUIET decide.

    Returns
    -------
    Result
        Metrics, history, model, and the inference pipeline.

    Raises
    ------
    SchemaError
        When columns are missing, named twice or of a wrong type.
    DataError
        When there are no rows, labels are missing or of one class only, a feature has no values, or weights are negative.
    ParameterError
        On unknown metrics, callbacks or arguments, and on a `pos_label` that is no class of the target.
    ResourceError
        When the GPU or the workers that are required do not exist.
    TrainingError
        When the framework fails; its own error is the cause.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> from rayline.stages import StandardScaler
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 9, "y": ["no", "no", "yes", "yes"] * 9})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=20)
    >>> result = train.fit(trainer, train.Preprocessor([("scale", StandardScaler())]), train_dataset=table,
    ...                    test_dataset=table, target_columns=["y"], metrics=["roc_auc"], verbose=False)
    >>> result.metrics["test-roc_auc"]
    1.0
    """
    started = time.perf_counter()
    if not isinstance(trainer, BaseTrainer):
        raise ParameterError.value(
            WHERE, "trainer", "a trainer, such as train.XGBoostTrainer({…}, num_boost_round=100)", trainer
        )
    if preprocessor is not None and not isinstance(preprocessor, Preprocessor):
        raise ParameterError.value(WHERE, "preprocessor", "a Preprocessor or None", type(preprocessor))
    ours, native = _callbacks(trainer, callbacks)
    measured = trainer.measured(WHERE, metrics, pos_label)
    wanted, custom = measured.metrics, measured.custom_metrics
    if trainer.adapter.generates_own_data:
        inputs = inputs_without_data(
            trainer, preprocessor=preprocessor, train_dataset=train_dataset, test_dataset=test_dataset,
            target_columns=target_columns, X=X, y=y, X_test=X_test, y_test=y_test, sample_weight=sample_weight, metrics=wanted,
        )  # fmt: skip
    else:
        with progress.hushed(verbose):
            inputs = fit_inputs.normalise(
                train_dataset, test_dataset, target_columns, X, y, X_test, y_test, sample_weight
            )
            fitted_on = (
                preprocessor.input_schema if preprocessor is not None and preprocessor.is_fitted and not refit else None
            )
            fit_inputs.check_test(inputs, fitted_on)
    _check_resources(trainer)
    lacking = trainer.adapter.validation_argument(*trainer.args, **trainer.kwargs) if inputs.test is None else ""
    if lacking:
        raise ParameterError(
            f"{WHERE}: {lacking} needs a test set.", "Expected test_dataset=….", f"pass one, or leave {lacking} out."
        )
    with progress.line("fit", verbose) as line:
        seconds: dict[str, float] = {}
        fitted: Preprocessor | None = None
        transformed: pl.DataFrame | None = None
        if trainer.adapter.generates_own_data:
            spaces = trainer.adapter.environment_spec(*trainer.args, **trainer.kwargs)
            learned, examples = TrainingSpec(spaces.target, spaces.features), spaces.examples
        else:
            fitted, learned, transformed = _prepare(measured, preprocessor, inputs, line, seconds, refit=refit)
            named_metrics.check(wanted or (), learned.target, WHERE, custom)
            if preprocessor is not None and preprocessor is not fitted:
                preprocessor.adopt(fitted)
                fitted = preprocessor
            fitted.remember_target(learned.target)
            examples = _examples(inputs.train, fitted)
        run = Run(trainer, learned.target)
        try:
            for callback in ours:
                callback.on_start(run)
            begun = time.perf_counter()
            training = TrainingRun(
                trainer,
                inputs,
                fitted,
                learned,
                native,
                ours,
                run,
                line,
                _tables_to_score(wanted, inputs, learned.target),
            )
            if trainer.adapter.generates_own_data:
                outcome = training.in_environment()
            elif trainer.num_workers is None:
                outcome = training.in_process(transformed)
            else:
                outcome = training.on_workers()
            seconds["training"] = time.perf_counter() - begun
            run.result = _result(trainer, fitted, examples, learned, run, outcome, measured, seconds, started)
        finally:
            for callback in ours:
                callback.on_end(run)
        trainer.remember(run.result)
        _report(line, run, trainer, wanted)
        return run.result


def _callbacks(trainer: BaseTrainer, callbacks: Sequence[Any]) -> tuple[list[Callback], list[Any]]:
    """Return the callbacks of Rayline and those of the framework."""
    if not isinstance(callbacks, (list, tuple)):
        raise ParameterError.value(WHERE, "callbacks", "a list of callback objects", callbacks)
    ours = [c for c in callbacks if isinstance(c, Callback)]
    native = [c for c in callbacks if not isinstance(c, Callback) and trainer.adapter.owns_callback(c)]
    unknown = [c for c in callbacks if not isinstance(c, Callback) and not any(c is n for n in native)]
    if unknown:
        raise ParameterError.value(
            WHERE,
            "callbacks",
            f"objects of rayline.train.Callback or of {trainer.framework}'s own callback classes",
            unknown[0],
        )
    return ours, native


def _check_resources(trainer: BaseTrainer) -> None:
    if (
        trainer.use_gpu
        and (trainer.num_workers is None or trainer.adapter.generates_own_data)
        and not any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/kfd"))
    ):
        raise ResourceError(
            f"{WHERE}: use_gpu=True, and this machine has no GPU.", "Expected a GPU.", "leave use_gpu out."
        )
    trainer.check_gpu_build(WHERE)


def _prepare(
    trainer: BaseTrainer,
    preprocessor: Preprocessor | None,
    inputs: FitInputs,
    line: progress.ProgressLine,
    seconds: dict[str, float],
    *,
    refit: bool,
) -> tuple[Preprocessor, TrainingSpec, pl.DataFrame | None]:
    """Return the fitted preprocessor (a copy, where the caller's is not fitted), what the training must know of its data, and
    the transformed training rows, where they are in this process anyway."""
    begun = time.perf_counter()
    adapter = trainer.adapter
    task = adapter.task(*trainer.args, **trainer.kwargs)
    stages = () if preprocessor is None else preprocessor.target_stages
    profiler = TargetProfiler(
        inputs.targets, inputs.schema, inputs.weight, task, adapter.string_features, trainer.class_weight, stages,
        pos_label=trainer.pos_label, max_label=adapter.max_label,
    )  # fmt: skip
    engine = registry.engine_for(inputs.train)
    excluded = () if inputs.weight is None else (inputs.weight,)
    answers: Answers
    transformed: pl.DataFrame | None = None
    if preprocessor is None or not preprocessor.is_fitted or refit:
        line.now("preprocessor")
        fitted = (Preprocessor() if preprocessor is None else preprocessor).clone()
        scan = fitted.fit_and_ask(
            inputs.train, target_columns=inputs.targets, ask=profiler, beside=excluded, where=WHERE
        )
        answers = scan.final
        if len(fitted):
            line.part(f"preprocessor {counted(fitted.scans, 'scan')} {progress.seconds(time.perf_counter() - begun)}")
    else:
        fitted = preprocessor.without_targets(inputs.targets, WHERE, beside=excluded)
        schema_check.SchemaCheck(fitted.input_schema, WHERE).refuse_types(engine.schema(inputs.train))
        asked = [
            fit_planner.ROWS,
            *profiler(FitContext((), fitted.output_schema, inputs.targets, untouched=_untouched(fitted))),
        ]
        columns = [*profiler.features(fitted.output_schema), *inputs.targets, *excluded]
        rows = engine.map(inputs.train, _SelectedColumns(fitted.table_function(training=True), columns))
        if trainer.num_workers is None:
            rows = transformed = engine.collect(rows)
        answers = registry.engine_for(rows).scan(rows, Scan(asked))[0]
        refuse_empty(getattr(answers[fit_planner.ROWS], "count", 0), WHERE)
        known = {*preprocessor.input_schema, *preprocessor.target_columns, *inputs.targets, *excluded}
        new = [name for name in inputs.schema if name not in known]
        without = (
            f", without the new {'column' if len(new) == 1 else 'columns'} {shorten(new, 3).strip('[]')}" if new else ""
        )
        line.part(f"preprocessor as fitted before{without} (refit=True fits it again)")
    for name, words in idle(fitted.leaves):
        line.part(f"{name!r} does nothing: no {words}")
    learned = profiler.learn(fitted.output_schema, answers, fitted.target_stages)
    learned = replace(learned, lineage=FeaturesFrom(fitted.operations, fitted.input_schema))
    seconds["preprocessor"] = time.perf_counter() - begun
    return fitted, learned, transformed


@dataclass(frozen=True)
class _SelectedColumns:
    """Transform a table and select some of its columns."""

    transform: TableFunction
    columns: Sequence[str]

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return self.transform(table).select(map(col, self.columns))


def _untouched(preprocessor: Preprocessor) -> tuple[str, ...]:
    """Return the columns that no stage uses."""
    used = {column for _, leaf in preprocessor.leaves for column in (leaf.learned or {}).get("columns", ())}
    return tuple(name for name in preprocessor.output_schema if name in preprocessor.input_schema and name not in used)


def _tables_to_score(wanted: Sequence[str] | None, inputs: FitInputs, target: Target) -> tuple[str, ...]:
    # A framework measures the transformed target: with target stages none of its metrics is on the labels' scale.
    needed = bool(target.stages) if wanted is None else any(name.startswith("train-") for name in wanted)
    train = ("train",) if needed else ()
    return (*train, *(("test",) if inputs.test is not None else ()))


def _result(
    trainer: BaseTrainer,
    preprocessor: Preprocessor | None,
    examples: pl.DataFrame,
    learned: TrainingSpec,
    run: Run,
    outcome: WorkerOutcome,
    measured: BaseTrainer,
    seconds: dict[str, float],
    started: float,
) -> Result:
    begun = time.perf_counter()
    last = run.history[-1:]
    best = trainer.adapter.best_iteration(outcome.native)
    chosen = [row for row in run.history if row["iteration"] == best] or last
    values = {name: value for row in chosen for name, value in row.items() if name != "iteration"}
    if learned.target.stages:
        values = {}
    for table, scored in sorted(outcome.scored.items()):
        names: Sequence[str] | None = measured.metrics
        if names is None:
            names = [
                f"{'train-' * (table == 'train')}{n}"
                for n in named_metrics.defaults(learned.target.task, scored.scores)
            ]
        asked = [n for n in names if (table == "train") is n.startswith("train-")]
        found = named_metrics.evaluate(
            asked, learned.target, scored.scores, scored.truth, scored.weight, measured.custom_metrics
        )
        values |= {
            f"{table}-{name.removeprefix('train-').removeprefix('test-')}": value for name, value in found.items()
        }
    seconds["metrics"] = time.perf_counter() - begun
    model = Model(
        trainer.adapter.models or trainer.framework,
        outcome.native,
        learned.features,
        learned.target,
        metrics=values,
        examples=examples,
        data=outcome.data.to_json(),
    )
    history = (
        pl.DataFrame(run.history, infer_schema_length=None)
        if run.history
        else pl.DataFrame(schema={"iteration": pl.Int64})
    )
    seconds["total"] = time.perf_counter() - started
    return Result(values, history, model, InferencePipeline(preprocessor, model), trainer, seconds)


def _examples(data: Any, preprocessor: Preprocessor) -> pl.DataFrame:
    """Return a few raw rows."""
    few = data.limit(EXAMPLES) if hasattr(data, "limit") else data
    frame = registry.engine_for(few).collect(few, list(preprocessor.input_schema)).head(EXAMPLES)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _report(line: progress.ProgressLine, run: Run, trainer: BaseTrainer, wanted: Sequence[str] | None) -> None:
    assert run.result is not None
    iterations = f" {counted(run.result.history.height, 'iteration')}" if run.result.history.height else ""
    line.part(f"{trainer.framework}{iterations} {progress.seconds(run.result.seconds['training'])}")
    names = list(run.result.metrics)
    first = (
        named_metrics.resolve(wanted[0], names) if wanted else next((n for n in names if n.startswith("test-")), None)
    )
    first = first or next(iter(names), None)
    if first is not None:
        of_class = run.result.model.target.of_class(first)
        line.part(f"{first.replace('-', ' ', 1)}{of_class} {number(run.result.metrics[first])}")
