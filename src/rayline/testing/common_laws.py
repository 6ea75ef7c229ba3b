"""The laws of what is common to all frameworks: weights, metrics by name, resources, errors."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

from rayline import device
from rayline.core import registry
from rayline.core.errors import ParameterError, ResourceError, TrainingError
from rayline.core.framework import Framework, TrainContext
from rayline.core.scores import has_probabilities
from rayline.testing.contract_case import FrameworkCase, error_of
from rayline.train.trainer import Trainer

LIGHT = 1e-6
"""The weight of rows that are to teach nothing."""


def weighs(case: FrameworkCase) -> None:
    """Half of the rows tell the opposite of the other half: what the model believes must be what the heavy half says."""
    if not (case.weights and case.learns):
        return
    table, target = case.table, case.target
    opposite = table.with_columns(pl.col(target).reverse() if case.task != "regression" else -pl.col(target))
    errors = []
    for weight, other in ((1.0, LIGHT), (LIGHT, 1.0)):
        both = pl.concat([table.with_columns(w=pl.lit(weight)), opposite.with_columns(w=pl.lit(other))])
        fitted = case.fit(table=both, test_dataset=None, sample_weight="w")
        predictions = fitted.inference_pipeline.predict(case.rows)["prediction"]
        if case.task == "regression":
            errors.append(float(np.mean((predictions.to_numpy() - table[target].to_numpy()) ** 2)))
        else:
            errors.append(float(np.mean(predictions.to_numpy() != table[target].to_numpy())))
    assert errors[0] < errors[1] / 2, f"rows of almost no weight teach as much as the others: errors {errors}"


def weighs_classes(case: FrameworkCase) -> None:
    if case.task == "regression":
        message = error_of(lambda: case.fit(case.trainer(class_weight="balanced")), ParameterError)
        assert message, "class_weight is not refused in a regression"
        return
    if not case.weights:
        return
    target = case.target
    weights = {label: 0.25 + 2.0 * place for place, label in enumerate(sorted(case.table[target].unique()))}
    rows = case.table.with_columns(w=pl.col(target).replace_strict(weights, return_dtype=pl.Float64))

    def scores(trainer: Trainer | None = None, **options: Any) -> Any:
        return case.fit(trainer, test_dataset=None, **options).inference_pipeline.scores(case.rows.lazy())

    by_class, by_row = scores(case.trainer(class_weight=weights)), scores(table=rows, sample_weight="w")
    case.same(by_class, by_row, bits=case.seeded, why="weights of classes are not those of their rows")
    assert (np.asarray(by_class) != np.asarray(scores())).any(), "weights of classes change nothing"


def measures_by_name(case: FrameworkCase) -> None:
    """Against scikit-learn, of the predictions that a user gets."""
    from sklearn import metrics as oracle

    pipeline, table = case.result.inference_pipeline, case.table
    truth, predicted = table[case.target].to_numpy(), pipeline.predict(table)["prediction"].to_numpy()
    if case.task == "regression":
        expected = {
            "mae": oracle.mean_absolute_error(truth, predicted),
            "r2": oracle.r2_score(truth, predicted),
            "train-rmse": oracle.root_mean_squared_error(truth, predicted),
        }
    else:
        expected = {
            "accuracy": oracle.accuracy_score(truth, predicted),
            "train-balanced_accuracy": oracle.balanced_accuracy_score(truth, predicted),
        }
        if has_probabilities(pipeline.scores(case.rows.lazy())):
            proba = pipeline.predict_proba(table).to_numpy()
            codes = np.searchsorted(np.array(case.result.model.classes), truth)
            ranked = [1] if proba.shape[1] == 2 else range(proba.shape[1])
            expected["log_loss"] = oracle.log_loss(codes, proba / proba.sum(axis=1, keepdims=True))
            expected["roc_auc"] = float(np.mean([oracle.roc_auc_score(codes == c, proba[:, c]) for c in ranked]))
    metrics = case.fit(metrics=list(expected)).metrics
    for name, value in expected.items():
        key = name if name.startswith("train-") else f"test-{name}"
        assert key in metrics, f"{name} was asked for, and there are {sorted(metrics)}"
        assert abs(metrics[key] - value) <= 1e-5 * max(1.0, abs(value)), (
            f"{key} is {metrics[key]}, scikit-learn says {value}"
        )
    report = pipeline.evaluate(
        table, metrics=[name for name in expected if not name.startswith("train-")], replicates=20
    )
    for name, estimate in report.metrics.items():
        assert abs(estimate.value - expected[name]) <= 1e-5 * max(1.0, abs(expected[name])), (
            f"evaluate gives {estimate} for {name}, scikit-learn says {expected[name]}"
        )


def refuses_a_gpu_that_is_not_there(case: FrameworkCase) -> None:
    with device.pretend():
        message = error_of(lambda: case.fit(case.trainer(use_gpu=True)), ResourceError)
    assert "GPU" in message, "use_gpu=True without a GPU is not refused"


def tells_what_failed(case: FrameworkCase, **options: Any) -> None:
    """`options` may hold a scaling and a table."""
    scaling = options.pop("scaling", None)
    workers = 1 if scaling is None else scaling.max_workers or 1
    with _failing(case) as name:
        trainer = Trainer(name, *copy.deepcopy(case.args), **copy.deepcopy(case.kwargs), scaling=scaling)
        try:
            case.fit(trainer, **options)
        except TrainingError as error:
            message, cause = str(error), error.__cause__
        else:
            raise AssertionError("an error in training is not raised")
    assert "ArithmeticError: failed on purpose" in message, f"the error does not say what failed: {message}"
    if workers > 1:
        assert f"rank {workers - 1}" in message, f"the error does not say on which rank: {message}"
    causes, todo = [], [cause]
    while todo:  # Ray's errors carry theirs as `cause`, and the two may point at each other
        cause = todo.pop()
        if cause is not None and cause not in causes:
            causes.append(cause)
            todo += [cause.__cause__, getattr(cause, "cause", None)]
    assert any(isinstance(e, ArithmeticError) for e in causes), "the framework's own error is not the cause"


@contextlib.contextmanager
def standing_in(case: FrameworkCase, ending: str, train: Callable[..., Any]) -> Iterator[str]:
    """The case's framework under another name, its own and this ending, with another `train`."""
    kind = type(case.adapter)
    body = {
        "name": f"{kind.name}-{ending}",
        "models": kind.models or kind.name,
        "train": functools.wraps(kind.train)(train),  # so that arguments are checked as before
        "owns": lambda self, model: False,
    }
    other: type[Framework] = type(kind.__name__, (kind,), body)
    registry.register_framework(other)
    try:
        yield other.name
    finally:
        registry.forget_framework(other.name)


def _failing(case: FrameworkCase) -> contextlib.AbstractContextManager[str]:
    """The framework under another name, whose training fails on the last rank."""
    kind = type(case.adapter)

    def train(self: Any, context: TrainContext, *args: Any, **kwargs: Any) -> Any:
        if context.rank == context.world_size - 1:
            raise ArithmeticError("failed on purpose")
        return kind.train(self, context, *args, **kwargs)

    return standing_in(case, "that-fails", train)


LAWS = (refuses_a_gpu_that_is_not_there, tells_what_failed)
"""Of every framework."""

LAWS_OF_ROWS = (weighs, weighs_classes, measures_by_name)
"""Of those that are given data."""
