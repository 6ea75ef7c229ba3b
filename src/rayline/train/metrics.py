"""Metrics by name, computed the same way for every framework: from a model's scores, with scikit-learn.

>>> import numpy as np, polars as pl
>>> from rayline.core.target import Target, Task, has_probabilities
>>> from rayline.train import metrics
>>> target = Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),))
>>> metrics.evaluate(["roc_auc", "accuracy"], target, np.array([0.1, 0.7, 0.4]), np.array([0, 1, 1]))
{'roc_auc': 1.0, 'accuracy': 0.6666666666666666}
>>> metrics.mode("test-logloss")
'min'
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from rayline.core.errors import ParameterError
from rayline.core.target import Target, Task, has_probabilities
from rayline.train.custom_metrics import Custom, CustomMetric, is_scorer, takes

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
    about
        What it measures, in a few words.
    """

    name: str
    mode: Mode
    needs: Needs
    function: Callable[[Array, Array, Array | None], float]
    about: str = ""

    def fits(self, task: Task) -> bool:
        """Whether it can measure predictions of this task."""
        return (self.needs == "values") is not task.is_classification

    def __call__(self, target: Target, scores: Array, truth: Array, weight: Array | None) -> float:
        """The mean over the targets; see `evaluate`."""
        truths = truth.reshape(len(truth), len(target.columns)).T
        parts = _parts(self, target, scores)
        return float(np.mean([self.function(t, p, weight) for t, p in zip(truths, parts, strict=True)]))


def get(name: str, custom: Custom | None = None) -> Metric | CustomMetric:
    """The metric with this name or alias, of the user's own or ours. Raises ParameterError when there is none."""
    found = (custom or {}).get(name) or _METRICS.get(_ALIASES.get(name, name))
    if found is None:
        raise ParameterError.unknown("metrics", [name], [*(custom or {}), *_METRICS, *_ALIASES], "metric")
    return found


def is_known(name: str, custom: Custom | None = None) -> bool:
    """Whether Rayline computes a metric of held-out rows by this name, the same way for every framework."""
    plain = name.removeprefix("test-")
    return plain in (custom or {}) or _ALIASES.get(plain, plain) in _METRICS


def given(wanted: Any, where: str, custom: Custom | None = None) -> tuple[tuple[str, ...], dict[str, CustomMetric]]:
    """The names of metrics that a user passes, and those of them that are functions of the user's own, by name.

    Parameters
    ----------
    wanted
        A name, a function `(y_true, y_pred)`, a scorer of scikit-learn, a list of these, or a dict from names to
        functions.
    where
        Begins every error.
    custom
        Functions that are known by name already.

    Raises
    ------
    ParameterError
        On an unknown name, something that is neither a name nor a function, and a function without a name.

    Examples
    --------
    >>> def cost(y_true, y_pred):
    ...     return float((y_true != y_pred).sum())
    >>> given(["roc_auc", cost], "train.fit")[0]
    ('roc_auc', 'cost')
    """
    if isinstance(wanted, Mapping):
        items = [(str(name), metric) for name, metric in wanted.items()]
    else:
        listed = [wanted] if isinstance(wanted, str) or callable(wanted) else wanted
        if not isinstance(listed, Iterable):
            raise ParameterError.value(where, "metrics", "names of metrics, or functions (y_true, y_pred)", wanted)
        items = [("", metric) for metric in listed]
    names, own = list[str](), dict[str, CustomMetric]()
    for name, metric in items:
        if isinstance(metric, str) and not name:
            names.append(metric)
            continue
        if not callable(metric) or isinstance(metric, type):
            raise ParameterError.value(where, "metrics", "names of metrics, or functions (y_true, y_pred)", metric)
        # scikit-learn's scorers have no name but that of the function in them.
        own_name = name or getattr(getattr(metric, "_score_func", metric), "__name__", "")
        if not own_name.isidentifier():
            raise ParameterError(
                f"{where}: a metric has no name: {metric!r}.",
                "Expected a function with a name of its own, which results are shown under.",
                'pass a dict, as metrics={"cost": function}.',
            )
        if own_name in _METRICS or own_name in _ALIASES:
            raise ParameterError(
                f"{where}: the function {own_name!r} has the name of a metric of Rayline's.",
                "Expected another name.",
                f'pass a dict, as metrics={{"my_{own_name}": function}}, or the name {own_name!r} itself.',
            )
        if not takes(metric):
            raise ParameterError(
                f"{where}: the metric {own_name!r} does not take labels and predictions.",
                f"Expected function(y_true, y_pred), or a scorer of scikit-learn; got {own_name}{inspect.signature(metric)}.",
                "change its parameters.",
            )
        names.append(own_name)
        own[own_name] = CustomMetric(own_name, metric, "max" if is_scorer(metric) else None)
    for plain in names:
        get(plain.removeprefix("train-").removeprefix("test-"), {**(custom or {}), **own})
    return tuple(names), own


def names() -> list[str]:
    """All metrics, without aliases."""
    return list(_METRICS)


def aliases() -> dict[str, str]:
    """The names that frameworks have for them."""
    return dict(_ALIASES)


def mode(name: str, custom: Custom | None = None) -> Mode | None:
    """Whether to minimise or maximise a metric, also one of a framework's history ("test-auc"); None when unknown."""
    plain = _plain(name)
    if custom and plain in custom:
        return custom[plain].mode
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


def check(wanted: Iterable[str], target: Target, where: str, custom: Custom | None = None) -> None:
    """Raise ParameterError when a metric does not exist, or does not fit the task."""
    for name in wanted:
        if not get(_plain(name), custom).fits(target.task):
            fitting = [m.name for m in _METRICS.values() if m.fits(target.task)]
            raise ParameterError(
                f"{where}: the metric {name!r} is not for a {target.task} target.",
                f"Expected one of {fitting}.",
                "choose another."
                if target.task.is_classification
                else "choose another, or an objective of classes: labels that are numbers are regressed without one.",
            )


def evaluate(
    wanted: Iterable[str],
    target: Target,
    scores: Array,
    truth: Array,
    weight: Array | None = None,
    custom: Custom | None = None,
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
    custom
        The user's own metrics.

    Raises
    ------
    ParameterError
        On an unknown name, one that does not fit the task, or one that needs probabilities of a model without them.
    TrainingError
        When a function of the user's own fails.
    """
    wanted = list(wanted)
    check(wanted, target, "metrics", custom)
    if not len(truth) or (weight is not None and not weight.sum() > 0):
        return dict.fromkeys(wanted, float("nan"))
    return {name: get(_plain(name), custom)(target, scores, truth, weight) for name in wanted}


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
    return name.removeprefix("train-").removeprefix("test-").removeprefix("cv-").partition("@")[0]


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
        Metric("log_loss", "min", "probabilities", _log_loss, "mean of −log of the probability of the true class"),
        Metric("brier", "min", "probabilities", _brier, "mean squared distance of the probabilities from the truth"),
        Metric("roc_auc", "max", "ranks", _ranked("roc_auc_score"), "area under the ROC curve"),
        Metric(
            "average_precision", "max", "ranks", _ranked("average_precision_score"),
            "area under the curve of precision over recall",
        ),
        Metric("accuracy", "max", "labels", _counted("accuracy_score"), "share of right labels"),
        Metric("error", "min", "labels", _error, "share of wrong labels"),
        Metric(
            "balanced_accuracy", "max", "labels", _counted("balanced_accuracy_score"),
            "mean over the classes of their recall",
        ),
        Metric(
            "f1", "max", "labels", _counted("f1_score", zero_division=0.0),
            "harmonic mean of precision and recall",
        ),
        Metric(
            "precision", "max", "labels", _counted("precision_score", zero_division=0.0),
            "share of the predicted positives that are",
        ),
        Metric(
            "recall", "max", "labels", _counted("recall_score", zero_division=0.0),
            "share of the positives that are found",
        ),
        Metric(
            "mcc", "max", "labels", _counted("matthews_corrcoef"),
            "correlation of true and predicted labels (Matthews)",
        ),
        Metric("rmse", "min", "values", _regression("root_mean_squared_error"), "root of the mean squared error"),
        Metric("mse", "min", "values", _regression("mean_squared_error"), "mean squared error"),
        Metric("mae", "min", "values", _regression("mean_absolute_error"), "mean absolute error"),
        Metric(
            "mape", "min", "values", _regression("mean_absolute_percentage_error"),
            "mean absolute error relative to the truth (1 is 100 %)",
        ),
        Metric("rmsle", "min", "values", _rmsle, "root of the mean squared error of log(1 + value)"),
        Metric("r2", "max", "values", _regression("r2_score"), "share of the variance that is explained"),
    )
}  # fmt: skip

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
    """The column of a history or of result.metrics that a name means: itself, or its value on the test set, in
    cross validation, or on the training set; aliases count as the same ("auc" and "roc_auc"). None when there is none.

    >>> resolve("auc", ["train-logloss", "test-logloss", "test-roc_auc"])
    'test-roc_auc'
    """
    if name in available:
        return name
    prefixes = [p for p in ("test-", "cv-", "train-") if name.startswith(p)] or ["test-", "cv-", "train-", ""]
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
