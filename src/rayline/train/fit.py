"""`train.fit`: fit the preprocessor, train the framework, measure, and return the result. `trainer.fit` calls it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, TypedDict

import polars as pl

from rayline import device
from rayline.core import registry
from rayline.core.arguments import known_arguments
from rayline.core.data_types import Column, Data, Features, Labels, Metrics, NativeCallback, PosLabel
from rayline.core.errors import ParameterError, at, counted
from rayline.evaluate import metrics as named_metrics
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline, Preprocessor
from rayline.inference.svg_plots import number
from rayline.train import progress
from rayline.train.base_trainer import BaseTrainer
from rayline.train.callback_errors import ended_callbacks, named_errors
from rayline.train.callbacks import Callback, Callbacks, Run
from rayline.train.drivers import driver_of
from rayline.train.fit_driver import FitDriver, FitStages
from rayline.train.fit_inputs import WHERE, DataArguments, FitInputs
from rayline.train.fit_request import FitRequest
from rayline.train.result import Result
from rayline.train.training_run import TrainingRun
from rayline.train.worker import WorkerOutcome


class FitOptions(TypedDict, total=False):
    """The keywords of `fit` beside the trainer, the preprocessor and the datasets."""

    X: Features | None
    y: Labels | None
    X_test: Features | None
    y_test: Labels | None
    sample_weight: Column | None
    group: Column | None
    event: Column | None
    callbacks: Callbacks
    metrics: Metrics | None
    pos_label: PosLabel | None
    refit: bool
    verbose: bool | None


@known_arguments
@at(WHERE)
def fit(
    trainer: BaseTrainer,
    preprocessor: Preprocessor | None = None,
    train_dataset: Data | None = None,
    test_dataset: Data | None = None,
    target_columns: Sequence[str] | str | None = None,
    *,
    X: Features | None = None,  # noqa: N803  # the field's name for it
    y: Labels | None = None,
    X_test: Features | None = None,  # noqa: N803
    y_test: Labels | None = None,
    sample_weight: Column | None = None,
    group: Column | None = None,
    event: Column | None = None,
    callbacks: Callbacks = (),
    metrics: Metrics | None = None,
    pos_label: PosLabel | None = None,
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
    group
        For a ranking (`rank:ndcg`, `lambdarank`, `YetiRank`, …): the column of the groups, such as query ids, whose rows are
        ranked against one another; the target is their relevance. Rows of a group stay on one worker. With X and y also an
        array.
    event
        For survival times (`survival:aft`, `survival:cox`, `SurvivalAft`, …): the column that says whether the event was
        observed at the time in `target_columns` (True or 1), or the time is right-censored. Without it all were observed,
        or two target columns are the bounds of each time. With X and y also an array.
    callbacks
        Objects of `rayline.train.Callback`, and callback objects of the framework.
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
        When the framework or a callback fails; its own error is the cause.

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
    return fit_rows(
        trainer, preprocessor,
        DataArguments(train_dataset, test_dataset, target_columns, X, y, X_test, y_test, sample_weight, group, event),
        callbacks=callbacks, metrics=metrics, pos_label=pos_label, refit=refit, verbose=verbose,
    )  # fmt: skip


def check_preprocessor(preprocessor: Any) -> None:
    """Raise ParameterError unless this is a preprocessor, or None."""
    if preprocessor is not None and not isinstance(preprocessor, Preprocessor):
        raise ParameterError.value("preprocessor", "a Preprocessor or None", type(preprocessor))


def fit_rows(
    trainer: BaseTrainer,
    preprocessor: Preprocessor | None,
    arguments: DataArguments,
    *,
    callbacks: Callbacks = (),
    metrics: Metrics | None = None,
    pos_label: PosLabel | None = None,
    refit: bool = False,
    verbose: bool | None = None,
    fit_stages: FitStages | None = None,
) -> Result:
    """Do what `fit` does, for the arguments about data; `fit_stages` fits the stages where they are fitted for
    several folds at once."""
    started = time.perf_counter()
    if not isinstance(trainer, BaseTrainer):
        raise ParameterError.value(
            "trainer", "a trainer, such as train.XGBoostTrainer({…}, num_boost_round=100)", trainer
        )
    check_preprocessor(preprocessor)
    ours, native = _callbacks(trainer, callbacks)
    driver = driver_of(trainer)(trainer.measured(metrics, pos_label), preprocessor, refit=refit)
    driver.fit_stages = fit_stages
    with read_once(arguments):
        with progress.hushed(verbose):
            driver.read(arguments)
        _check_resources(driver, native)
        _refuse_lacking_test(trainer, driver.inputs)
        with progress.line("fit", verbose) as line, driver.starting_workers():
            begun = time.perf_counter()
            request = driver.resolve(line).with_callbacks(native)
            seconds = {"preprocessor": time.perf_counter() - begun} if driver.preprocessor is not None else {}
            run = Run(trainer, request.spec.target)
            with ended_callbacks(ours, run):
                for callback in ours:
                    with named_errors(callback):
                        callback.on_start(run)
                begun = time.perf_counter()
                outcome = driver.run(request, TrainingRun(run, ours, line))
                seconds["training"] = time.perf_counter() - begun
                run.result = _result(driver, request, run, outcome, seconds, started)
            trainer.remember(run.result)
            _report(line, run, driver.trainer.metrics)
            return run.result


def read_once(arguments: DataArguments) -> AbstractContextManager[None]:
    """Keep rows of Datasets that are costly to compute between the scan of a fit and its training (see `Engine.keeping`)."""
    arguments_with_data = (arguments.train_dataset, arguments.X, arguments.test_dataset, arguments.X_test)
    datasets = [data for data in arguments_with_data if registry.is_dataset(data)]
    return registry.engine("ray").keeping(*datasets) if datasets else contextlib.nullcontext()


def _callbacks(trainer: BaseTrainer, callbacks: Callbacks) -> tuple[list[Callback], list[NativeCallback]]:
    """Return the callbacks of Rayline and those of the framework."""
    if not isinstance(callbacks, (list, tuple)):
        raise ParameterError.value("callbacks", "a list of callback objects", callbacks)
    ours = [c for c in callbacks if isinstance(c, Callback)]
    native = [c for c in callbacks if not isinstance(c, Callback) and trainer.adapter.owns_callback(c)]
    unknown = [c for c in callbacks if not isinstance(c, Callback) and not any(c is n for n in native)]
    if unknown:
        raise ParameterError.value(
            "callbacks",
            f"objects of rayline.train.Callback or of {trainer.framework}'s own callback classes",
            unknown[0],
        )
    return ours, native


def _check_resources(driver: FitDriver, callbacks: Sequence[Any]) -> None:
    """Refuse a GPU that is not there or that the framework would leave idle. The GPUs of workers are Ray's to find."""
    if driver.trainer.wants_gpu:
        driver.trainer.check_gpu(callbacks=callbacks)
        if driver.uses_this_gpu:
            device.select_device(True)


def _refuse_lacking_test(trainer: BaseTrainer, inputs: FitInputs) -> None:
    lacking = trainer.adapter.validation_argument(*trainer.args, **trainer.kwargs) if inputs.test is None else ""
    if lacking:
        raise ParameterError.here(
            f"{lacking} needs a test set.", "Expected test_dataset=….", f"pass one, or leave {lacking} out."
        )


def _result(
    driver: FitDriver,
    request: FitRequest,
    run: Run,
    outcome: WorkerOutcome,
    seconds: dict[str, float],
    started: float,
) -> Result:
    begun = time.perf_counter()
    values = _metrics(request, run, outcome)
    seconds["metrics"] = time.perf_counter() - begun
    model = Model(
        request.adapter.models or request.framework,
        outcome.native,
        request.spec.features,
        request.spec.target,
        metrics=values,
        examples=driver.examples,
        data=outcome.data.to_json(),
    )
    history = pl.DataFrame(
        run.history or [], schema=None if run.history else {"iteration": pl.Int64}, infer_schema_length=None
    )
    seconds["total"] = time.perf_counter() - started
    inputs = getattr(driver, "inputs", None)
    test = None if inputs is None or inputs.test is None else (inputs.test, inputs.roles.test_weight)
    return Result(values, history, model, InferencePipeline(driver.preprocessor, model), run.trainer, seconds, test)


def _metrics(request: FitRequest, run: Run, outcome: WorkerOutcome) -> dict[str, float]:
    """Return the framework's metrics at the iteration that predictions use, and those that are computed from scores."""
    target, values = request.spec.target, {}
    if not target.stages:
        best = request.adapter.best_iteration(outcome.native)
        chosen = [row for row in run.history if row["iteration"] == best] or run.history[-1:]
        values = {name: value for row in chosen for name, value in row.items() if name != "iteration"}
    return values | outcome.metrics


def _report(line: progress.ProgressLine, run: Run, wanted: Sequence[str] | None) -> None:
    assert run.result is not None
    iterations = f" {counted(run.result.history.height, 'iteration')}" if run.result.history.height else ""
    line.part(f"{run.trainer.framework}{iterations} {progress.seconds(run.result.seconds['training'])}")
    names = list(run.result.metrics)
    first = (
        named_metrics.resolve_name(wanted[0], names)
        if wanted
        else next((n for n in names if n.startswith("test-")), None)
    )
    first = first or next(iter(names), None)
    if first is not None:
        of_class = run.result.model.target.of_class(first)
        line.part(f"{first.replace('-', ' ', 1)}{of_class} {number(run.result.metrics[first])}")
