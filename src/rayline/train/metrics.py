"""Metrics by name, computed the same way for every framework: from a model's scores, with scikit-learn.

>>> import numpy as np, polars as pl
>>> from rayline.core.target import Target, Task
>>> from rayline.train import metrics
>>> target = Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),))
>>> metrics.evaluate(["roc_auc", "accuracy"], target, np.array([0.1, 0.7, 0.4]), np.array([0, 1, 1]))
{'roc_auc': 1.0, 'accuracy': 0.6666666666666666}
>>> metrics.mode("test-logloss")
'min'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rayline.core.errors import ParameterError
from rayline.core.target import Target, Task, has_probabilities

Array = npt.NDArray[Any]
Mode: TypeAlias = Literal["min", "max"]
Needs: TypeAlias = Literal["labels", "ranks", "probabilities", "values"]


@dataclass(frozen=True)
class Metric:
    """A measure of predictions.

    Attributes
    ----------
    mode
        Whether smaller ("min") or larger ("max") is better.
    needs
        What it is computed from: predicted classes, probabilities of the classes, either these or other numbers that
        rank the rows, or predicted values (regression).
    function
        `function(truth, predicted, weight)` of one target: class codes or values; class codes, probabilities of shape
        (n, classes), or values; weights or None. NaN where it is not defined, as the AUC of one class.
    """

    name: str
    mode: Mode
    needs: Needs
    function: Callable[[Array, Array, Array | None], float]


def get(name: str) -> Metric:
    """The metric with this name or alias. Raises ParameterError when there is none."""
    found = _METRICS.get(_ALIASES.get(name, name))
    if found is None:
        raise ParameterError.unknown("metrics", [name], [*_METRICS, *_ALIASES], "metric")
    return found


def names() -> list[str]:
    """All metrics, without aliases."""
    return list(_METRICS)


def mode(name: str) -> Mode | None:
    """Whether to minimise or maximise a metric, also one of a framework's history ("test-auc"); None when unknown."""
    plain = _plain(name)
    found = _METRICS.get(_ALIASES.get(plain, plain))
    return found.mode if found else _OTHERS.get(plain)


def defaults(task: Task, scores: Array | None = None) -> tuple[str, ...]:
    """What is computed on a test set when nothing is asked for; of a model that answers with classes, no probabilities."""
    if scores is not None and task.is_classification and not has_probabilities(scores):
        ranks = scores.dtype.names is not None and task is Task.BINARY
        return (*(["roc_auc"] if ranks else ()), "accuracy", "balanced_accuracy")
    return {
        Task.BINARY: ("log_loss", "roc_auc", "accuracy"),
        Task.MULTICLASS: ("log_loss", "accuracy"),
        Task.REGRESSION: ("rmse", "mae", "r2"),
    }[task]


def check(wanted: Iterable[str], target: Target, where: str) -> None:
    """Raise ParameterError when a metric does not exist, or does not fit the task."""
    for name in wanted:
        metric = get(_plain(name))
        if (metric.needs == "values") is target.task.is_classification:
            fitting = [m.name for m in _METRICS.values() if (m.needs == "values") is not target.task.is_classification]
            raise ParameterError(
                f"{where}: the metric {name!r} is not for a {target.task} target.",
                f"Expected one of {fitting}.",
                "choose another."
                if target.task.is_classification
                else "choose another, or an objective of classes: labels that are numbers are regressed without one.",
            )


def evaluate(
    wanted: Iterable[str], target: Target, scores: Array, truth: Array, weight: Array | None = None
) -> dict[str, float]:
    """Metrics by the names that were asked for; the mean over the targets when there are several.

    Parameters
    ----------
    wanted
        Names or aliases.
    target
        What was predicted.
    scores
        What the model gave (see `Framework.predict`).
    truth
        The labels as numbers (see `Target.truth`).
    weight
        A weight for each row, or None.

    Raises
    ------
    ParameterError
        On an unknown name, one that does not fit the task, or one that needs probabilities of a model without them.
    """
    wanted = list(wanted)
    check(wanted, target, "metrics")
    n_targets = len(target.columns)
    truths = truth.reshape(len(truth), n_targets).T
    found = {}
    for name in wanted:
        metric = get(_plain(name))
        if not len(truth) or (weight is not None and not weight.sum() > 0):
            found[name] = float("nan")
            continue
        values = [metric.function(t, p, weight) for t, p in zip(truths, _parts(metric, target, scores), strict=True)]
        found[name] = float(np.mean(values))
    return found


def _parts(metric: Metric, target: Target, scores: Array) -> list[Array]:
    """What the metric is computed from, for each target."""
    if metric.needs == "values":
        return list(target.values(scores).reshape(len(scores), len(target.columns)).T.astype(np.float64))
    if metric.needs == "labels":
        return target.codes(scores)
    if metric.needs == "ranks" and scores.dtype.names is not None and "margin" in scores.dtype.names:
        return _margins(target, scores["margin"])
    table = np.clip(target.probabilities(scores).to_numpy(), 0.0, 1.0)
    ends = np.cumsum([len(c) for c in target.classes])
    return np.split(table, ends[:-1], axis=1)


def _margins(target: Target, margins: Array) -> list[Array]:
    """Margins of each target in the shape of its probabilities."""
    if target.task is Task.MULTICLASS:
        return [margins]
    columns = margins.reshape(len(margins), len(target.columns), -1)[:, :, -1].T  # of both classes the second's
    return [np.stack([-column, column], axis=1) for column in columns]


def _plain(name: str) -> str:
    """Without the table ("test-") that a history puts before it and the argument ("@5") that XGBoost puts behind it."""
    return name.removeprefix("train-").removeprefix("test-").partition("@")[0]


# -- the metrics -------------------------------------------------------------------------------------------------------


def _log_loss(truth: Array, p: Array, weight: Array | None) -> float:
    from sklearn.metrics import log_loss

    # float32 probabilities of many classes do not add up to 1 within scikit-learn's tolerance.
    return float(log_loss(truth, p / p.sum(axis=1, keepdims=True), sample_weight=weight, labels=np.arange(p.shape[1])))


def _brier(truth: Array, p: Array, weight: Array | None) -> float:
    hit = np.eye(p.shape[1])[truth]
    squares = ((p - hit) ** 2).sum(axis=1)
    return float(np.average(squares / 2 if p.shape[1] == 2 else squares, weights=weight))


def _ranked(function: str) -> Callable[[Array, Array, Array | None], float]:
    """A measure of a ranking: of the second class, or the mean of one class against the rest."""

    def measure(truth: Array, p: Array, weight: Array | None) -> float:
        import sklearn.metrics

        score = getattr(sklearn.metrics, function)
        classes = [1] if p.shape[1] == 2 else range(p.shape[1])
        if any(len(np.unique(truth == c)) < 2 for c in classes):
            return float("nan")
        return float(np.mean([score(truth == c, p[:, c], sample_weight=weight) for c in classes]))

    return measure


def _counted(function: str, **options: Any) -> Callable[[Array, Array, Array | None], float]:
    """A measure of predicted classes; for more than two classes the mean over the classes."""

    def measure(truth: Array, predicted: Array, weight: Array | None) -> float:
        import sklearn.metrics

        more = dict(options)
        if "zero_division" in options and max(truth.max(), predicted.max()) > 1:
            more["average"] = "macro"
        return float(getattr(sklearn.metrics, function)(truth, predicted, sample_weight=weight, **more))

    return measure


def _error(truth: Array, predicted: Array, weight: Array | None) -> float:
    return float(np.average(truth != predicted, weights=weight))


def _regression(function: str) -> Callable[[Array, Array, Array | None], float]:
    def measure(truth: Array, predicted: Array, weight: Array | None) -> float:
        import sklearn.metrics

        if function == "r2_score" and len(truth) < 2:
            return float("nan")
        return float(getattr(sklearn.metrics, function)(truth, predicted, sample_weight=weight))

    return measure


def _rmsle(truth: Array, predicted: Array, weight: Array | None) -> float:
    if min(truth.min(), predicted.min()) <= -1:
        return float("nan")
    return float(np.sqrt(np.average((np.log1p(predicted) - np.log1p(truth)) ** 2, weights=weight)))


_METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("log_loss", "min", "probabilities", _log_loss),
        Metric("brier", "min", "probabilities", _brier),
        Metric("roc_auc", "max", "ranks", _ranked("roc_auc_score")),
        Metric("average_precision", "max", "ranks", _ranked("average_precision_score")),
        Metric("accuracy", "max", "labels", _counted("accuracy_score")),
        Metric("error", "min", "labels", _error),
        Metric("balanced_accuracy", "max", "labels", _counted("balanced_accuracy_score")),
        Metric("f1", "max", "labels", _counted("f1_score", zero_division=0.0)),
        Metric("precision", "max", "labels", _counted("precision_score", zero_division=0.0)),
        Metric("recall", "max", "labels", _counted("recall_score", zero_division=0.0)),
        Metric("mcc", "max", "labels", _counted("matthews_corrcoef")),
        Metric("rmse", "min", "values", _regression("root_mean_squared_error")),
        Metric("mse", "min", "values", _regression("mean_squared_error")),
        Metric("mae", "min", "values", _regression("mean_absolute_error")),
        Metric("mape", "min", "values", _regression("mean_absolute_percentage_error")),
        Metric("rmsle", "min", "values", _rmsle),
        Metric("r2", "max", "values", _regression("r2_score")),
    )
}

_ALIASES: dict[str, str] = {
    "logloss": "log_loss", "mlogloss": "log_loss", "binary_logloss": "log_loss", "multi_logloss": "log_loss",
    "cross_entropy": "log_loss", "Logloss": "log_loss", "MultiClass": "log_loss",
    "auc": "roc_auc", "AUC": "roc_auc", "auc_mu": "roc_auc", "aucpr": "average_precision", "PRAUC": "average_precision",
    "merror": "error", "binary_error": "error", "multi_error": "error", "Accuracy": "accuracy",
    "l1": "mae", "MAE": "mae", "mean_absolute_error": "mae", "l2": "mse", "mean_squared_error": "mse", "RMSE": "rmse",
    "R2": "r2", "MAPE": "mape", "brier_score": "brier", "F1": "f1",
}  # fmt: skip
"""The names that frameworks have for them."""

_OTHERS: dict[str, Mode] = {
    "loss": "min", "mphe": "min", "gamma-nloglik": "min", "poisson-nloglik": "min", "gamma-deviance": "min",
    "tweedie-nloglik": "min", "cox-nloglik": "min", "aft-nloglik": "min", "quantile": "min", "huber": "min", "fair": "min",
    "poisson": "min", "gamma": "min", "tweedie": "min", "kullback_leibler": "min", "ndcg": "max", "map": "max", "pre": "max",
    "episode_return_mean": "max",
}  # fmt: skip
"""What frameworks report and we do not compute."""


def resolve(name: str, available: Sequence[str]) -> str | None:
    """The column of a history or of result.metrics that a name means: itself, or its value on the test set, or on the
    training set; aliases count as the same ("auc" and "roc_auc"). None when there is none.

    >>> resolve("auc", ["train-logloss", "test-logloss", "test-roc_auc"])
    'test-roc_auc'
    """
    if name in available:
        return name
    prefixes = [p for p in ("test-", "train-") if name.startswith(p)] or ["test-", "train-", ""]
    plain = _plain(name)
    for prefix in prefixes:
        same = [
            c
            for c in available
            if c.startswith(prefix) and _ALIASES.get(_plain(c), _plain(c)) == _ALIASES.get(plain, plain)
        ]
        exact = [c for c in same if c == prefix + plain]
        if same:
            return (exact or same)[0]
    return None
