"""Metrics by name, computed the same way for every framework: from a model's scores, equal to scikit-learn's.

>>> import numpy as np, polars as pl
>>> from rayline.core.target import Target, Task
>>> from rayline.evaluate import metrics
>>> target = Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),))
>>> metrics.evaluate(["roc_auc", "accuracy"], target, np.array([0.1, 0.7, 0.4]), np.array([0, 1, 1]))
{'roc_auc': 1.0, 'accuracy': 0.6666666666666666}
>>> metrics.mode("test-logloss")
'min'
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from rayline.compat.sklearn import scorer_function
from rayline.core.data_types import Mode
from rayline.core.errors import ParameterError, at
from rayline.core.scores import has_probabilities
from rayline.core.target import Target, Task
from rayline.evaluate import classification, paired, regression
from rayline.evaluate.custom_metrics import Custom, CustomMetric, takes
from rayline.evaluate.measured_rows import MeasuredRows
from rayline.evaluate.metric import Metric, SumMetric
from rayline.evaluate.metric_statistic import MetricStatistic, StatisticMetric
from rayline.evaluate.paired import GroupMetric

Array = npt.NDArray[Any]


def get(name: str, custom: Custom | None = None) -> Metric:
    """The metric with this name or alias, of the user's own or ours; some take an argument, as "top_k@3".

    Raises ParameterError when there is none, or its argument is not a number that it takes.
    """
    plain, at, argument = name.partition("@")
    plain = _alias(plain)
    if at and plain in _ARGUMENTS:
        return _with_argument(name, plain, argument)
    metric = (custom or {}).get(name) or _REGISTERED.get(name) or _METRICS.get(plain)
    if metric is None:
        hint = f"{name!r} is scikit-learn's negated score; use the metric itself." if name.startswith("neg_") else None
        error = ParameterError.unknown(
            [name], [*(custom or {}), *_REGISTERED, *_METRICS, *_ALIASES, *_FUNCTIONS], "metric", where="metrics"
        )
        raise (
            error
            if hint is None
            else ParameterError(f"metrics: unknown metric {name!r}.", f"Expected one of {names()}.", hint)
        )
    return metric


def _with_argument(name: str, plain: str, argument: str) -> Metric:
    quantity, what, _ = _ARGUMENTS[plain]
    low, high = _RANGES[what]
    try:
        value = float(argument)
    except ValueError:
        value = float("nan")
    if not low <= value <= high or (what in ("k", "bins") and value != int(value)) or (what == "p" and 0 < value < 1):
        raise ParameterError.value(
            name, f"{plain}@{what} with {what} from {low:g} to {high:g}", argument, where="metrics"
        )
    metric = _METRICS[plain]
    if isinstance(metric, GroupMetric):
        return metric.at(name, int(value))
    assert isinstance(metric, SumMetric)
    parts = tuple(f"{quantity}@{value:g}" if part == quantity else part for part in metric.quantities)
    return replace(metric, name=name, quantities=parts)


def register_metric(statistic: type[MetricStatistic]) -> type[MetricStatistic]:
    """Make a statistic of your own usable as a metric by its name, in this process. Usable as a decorator.

    Parameters
    ----------
    statistic
        A class derived from `MetricStatistic`.

    Returns
    -------
    type
        The class, unchanged.

    Raises
    ------
    ParameterError
        When the class lacks an attribute, or its name is that of one of Rayline's metrics.

    Examples
    --------
    See `MetricStatistic` for a complete class.

    >>> from rayline import evaluate
    >>> @evaluate.register_metric  # doctest: +SKIP
    ... class Late(evaluate.MetricStatistic):
    ...     ...
    """
    with at("register_metric"):
        metric = _statistic(statistic)
        _refuse_taken(metric.name)
    _REGISTERED[metric.name] = metric
    return statistic


def _statistic(statistic: Any) -> StatisticMetric:
    if not isinstance(statistic, type) or not issubclass(statistic, MetricStatistic):
        raise ParameterError.here(
            f"{statistic!r:.200} is not a statistic.",
            "Expected a class derived from rayline.evaluate.MetricStatistic.",
            "pass a function in metrics= instead of registering it.",
        )
    if inspect.isabstract(statistic):
        raise ParameterError.here(
            f"the statistic {statistic.__name__} is incomplete.",
            f"Expected the methods of, merge and value; it lacks {sorted(statistic.__abstractmethods__)}.",
            "define them.",
        )
    return StatisticMetric.of(statistic)


def _refuse_taken(name: str) -> None:
    if name in _METRICS or name in _ALIASES:
        raise ParameterError.here(
            f"the function {name!r} has the name of a metric of Rayline's.",
            "Expected another name.",
            f'pass a dict, as metrics={{"my_{name}": function}}, or the name {name!r} itself.',
        )


def is_known(name: str, custom: Custom | None = None) -> bool:
    """Whether Rayline computes a metric of held-out rows by this name, the same way for every framework."""
    plain = name.removeprefix("test-")
    if plain in (custom or {}) or plain in _REGISTERED:
        return True
    base, at, _ = plain.partition("@")
    return _alias(base) in (_ARGUMENTS if at else _METRICS)


def given(wanted: Any, custom: Custom | None = None) -> tuple[tuple[str, ...], dict[str, Metric]]:
    """Return the names of metrics that a user passes, and those of them that are functions of the user's own, by name.

    Parameters
    ----------
    wanted
        A name, a function `(y_true, y_pred)`, a scorer of scikit-learn, a class derived from `MetricStatistic`, a list of
        these, or a dict from names that results are shown under to them.
    custom
        Functions that are registered under a name.

    Raises
    ------
    ParameterError
        On an unknown name, something that is neither a name nor a function, and a function without a name.

    Examples
    --------
    >>> def cost(y_true, y_pred):
    ...     return float((y_true != y_pred).sum())
    >>> given(["roc_auc", cost])[0]
    ('roc_auc', 'cost')
    """
    if isinstance(wanted, Mapping):
        items = [(str(name), metric) for name, metric in wanted.items()]
    else:
        listed = [wanted] if isinstance(wanted, str) or callable(wanted) else wanted
        if not isinstance(listed, Iterable):
            raise _no_metric(wanted)
        items = [("", metric) for metric in listed]
    names, own_metrics = list[str](), dict[str, Metric]()
    for name, metric in items:
        if isinstance(metric, str) and name in ("", metric):
            names.append(metric)
            continue
        own_metric = _of_own(name, metric, custom)
        _refuse_taken(own_metric.name)
        names.append(own_metric.name)
        own_metrics[own_metric.name] = own_metric
    for plain in names:
        get(plain.removeprefix("train-").removeprefix("test-"), {**(custom or {}), **own_metrics})
    return tuple(names), own_metrics


def _of_own(name: str, metric: Any, custom: Custom | None) -> Metric:
    """Return a metric by a name of the user's: a function, a scorer, a statistic, or a metric of Rayline's; its own name when
    the name is empty."""
    if name and not name.isidentifier():
        raise ParameterError.here(
            f"metrics has the name {name!r}.",
            "Expected names of letters, digits and underscores.",
            "rename it.",
        )
    if isinstance(metric, type) and issubclass(metric, MetricStatistic):
        statistic = _statistic(metric)
        return replace(statistic, name=name or statistic.name)
    if isinstance(metric, str):
        return replace(get(metric.removeprefix("test-"), custom), name=name)
    if isinstance(metric, Metric) and not isinstance(metric, CustomMetric):
        return replace(metric, name=name or metric.name)
    if not callable(metric) or isinstance(metric, type):
        raise _no_metric(metric)
    return _of_function(name, metric)


def _no_metric(name: Any) -> ParameterError:
    return ParameterError.here(
        "metrics has a wrong value.",
        f"Expected names of metrics, functions (y_true, y_pred), scorers or MetricStatistic classes; got {name!r:.200}.",
        "pass the class itself, without parentheses." if isinstance(name, MetricStatistic) else "change metrics.",
    )


def _of_function(name: str, metric: Any) -> CustomMetric:
    function, declared = (metric.function, metric.mode) if isinstance(metric, CustomMetric) else (metric, None)
    # scikit-learn's scorers have no name but that of the function in them.
    usual = metric.name if isinstance(metric, CustomMetric) else scorer_function(metric)
    own_name = name or (usual if isinstance(usual, str) else getattr(usual, "__name__", ""))
    if not own_name.isidentifier():
        raise ParameterError.here(
            f"a metric has no name: {metric!r}.",
            "Expected a function with a name of its own, which results are shown under.",
            'pass a dict, as metrics={"cost": function}.',
        )
    if not takes(function):
        raise ParameterError.here(
            f"the metric {own_name!r} cannot be called with labels and predictions alone.",
            f"Expected function(y_true, y_pred), or a scorer of scikit-learn; got {own_name}{inspect.signature(function)}.",
            f"give other parameters a value: functools.partial, or make_scorer({own_name}, …).",
        )
    return CustomMetric.of(own_name, function, declared)


def names() -> list[str]:
    """All metrics, without aliases."""
    return list(_METRICS)


def aliases() -> dict[str, str]:
    """The names that frameworks and scikit-learn have for them."""
    return {**_ALIASES, **_FUNCTIONS}


def _alias(name: str) -> str:
    """The name of Rayline's for this one; the same when it is no alias."""
    return _ALIASES.get(name) or _FUNCTIONS.get(name, name)


def mode(name: str, custom: Custom | None = None) -> Mode | None:
    """Whether to minimise or maximise a metric, also one of a framework's history ("test-auc"); None when unknown."""
    plain = _plain(name)
    metric = (custom or {}).get(plain) or _REGISTERED.get(plain) or _METRICS.get(_alias(plain))
    return metric.mode if metric else _OTHERS.get(plain)


def defaults(task: Task, scores: Array | None = None) -> tuple[str, ...]:
    """Return the default metrics of a test set; without probabilities for a model that predicts classes only."""
    if scores is not None and task.is_classification and not has_probabilities(scores):
        ranks = scores.dtype.names is not None and task is Task.BINARY
        return (*(["roc_auc"] if ranks else ()), "accuracy", "balanced_accuracy")
    return {
        Task.BINARY: ("log_loss", "roc_auc", "accuracy"),
        Task.MULTICLASS: ("log_loss", "accuracy"),
        Task.REGRESSION: ("rmse", "mae", "r2"),
        Task.RANKING: ("ndcg", "map", "mrr"),
        Task.SURVIVAL: ("concordance",),
    }[task]


def defaults_of(target: Target, scores: Array | None = None) -> tuple[str, ...]:
    """Return the default metrics of a target; several quantiles have other metrics than a value."""
    return ("pinball", "coverage") if len(target.quantiles) > 1 else defaults(target.task, scores)


def check(wanted: Iterable[str], target: Target, custom: Custom | None = None) -> None:
    """Raise ParameterError when a metric does not exist, or does not fit the task."""
    for name in wanted:
        if not get(_bare(name), custom).measures(target):
            fitting = [m.name for m in _METRICS.values() if m.measures(target)]
            what = "target of several quantiles" if len(target.quantiles) > 1 else f"{target.task} target"
            raise ParameterError.here(
                f"the metric {name!r} is not for a {what}.",
                f"Expected one of {fitting}.",
                "choose another."
                if target.task is not Task.REGRESSION
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
    with at("metrics"):
        check(wanted, target, custom)
    metrics = chosen(wanted, custom)
    return MeasuredRows.of(target, scores, truth, weight, metrics=metrics).values(metrics)


def chosen(wanted: Iterable[str], custom: Custom | None = None, *, limit: int = sys.maxsize) -> dict[str, Metric]:
    """Return the metrics by the names that were asked for; functions of the user's own take at most `limit` rows.

    Raises ParameterError on an unknown name.
    """
    return {name: get(_bare(name), custom).limited(limit) for name in wanted}


def _bare(name: str) -> str:
    """Without the table ("test-") that a history puts before it, and the argument of a framework's metric ("@5")."""
    plain = name.removeprefix("train-").removeprefix("test-").removeprefix("cv-")
    base = plain.partition("@")[0]
    return plain if _alias(base) in _ARGUMENTS else base


def _plain(name: str) -> str:
    """Without the table ("test-") that a history puts before it and the argument ("@5") behind it."""
    return name.removeprefix("train-").removeprefix("test-").removeprefix("cv-").partition("@")[0]


_METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (*classification.METRICS, *regression.METRICS, *paired.METRICS)
}

_ARGUMENTS = {
    **classification.ARGUMENTS,
    **regression.ARGUMENTS,
    **{metric.name: ("", "k", 0.0) for metric in paired.METRICS if isinstance(metric, GroupMetric)},
}

_RANGES = {"k": (1, 10_000), "bins": (1, 1_000), "p": (-10, 10), "alpha": (0, 1)}
"""The numbers that arguments may be."""

_REGISTERED: dict[str, StatisticMetric] = {}

_ALIASES: dict[str, str] = {
    "logloss": "log_loss", "mlogloss": "log_loss", "binary_logloss": "log_loss", "multi_logloss": "log_loss",
    "cross_entropy": "log_loss", "Logloss": "log_loss", "MultiClass": "log_loss",
    "auc": "roc_auc", "AUC": "roc_auc", "auc_mu": "roc_auc", "aucpr": "average_precision", "PRAUC": "average_precision",
    "merror": "error", "binary_error": "error", "multi_error": "error", "Accuracy": "accuracy",
    "l1": "mae", "MAE": "mae", "mean_absolute_error": "mae", "l2": "mse", "mean_squared_error": "mse", "RMSE": "rmse",
    "c_index": "concordance", "concordance_index": "concordance", "MAP": "map", "MRR": "mrr", "NDCG": "ndcg",
    "R2": "r2", "MAPE": "mape", "brier_score": "brier", "F1": "f1",
}  # fmt: skip
"""The names that frameworks have for them."""

_FUNCTIONS: dict[str, str] = {
    "roc_auc_score": "roc_auc", "roc_auc_ovr": "roc_auc", "average_precision_score": "average_precision",
    "brier_score_loss": "brier", "accuracy_score": "accuracy", "balanced_accuracy_score": "balanced_accuracy",
    "f1_score": "f1", "precision_score": "precision", "recall_score": "recall", "matthews_corrcoef": "mcc",
    "matthews": "mcc", "cohen_kappa_score": "cohen_kappa", "top_k_accuracy_score": "top_k", "top_k_accuracy": "top_k",
    "ECE": "ece", "root_mean_squared_error": "rmse", "root_mean_squared_log_error": "rmsle",
    "median_absolute_error": "median_ae", "mean_absolute_percentage_error": "mape", "r2_score": "r2",
    "explained_variance_score": "explained_variance", "mean_poisson_deviance": "poisson_deviance",
    "mean_gamma_deviance": "gamma_deviance", "mean_tweedie_deviance": "tweedie_deviance",
    "mean_pinball_loss": "pinball", "ndcg_score": "ndcg",
}  # fmt: skip
"""The names of scikit-learn's functions and scorers for them."""

_OTHERS: dict[str, Mode] = {
    "loss": "min", "mphe": "min", "gamma-nloglik": "min", "poisson-nloglik": "min", "gamma-deviance": "min",
    "tweedie-nloglik": "min", "cox-nloglik": "min", "aft-nloglik": "min", "quantile": "min", "huber": "min", "fair": "min",
    "poisson": "min", "gamma": "min", "tweedie": "min", "kullback_leibler": "min", "pre": "max",
    "episode_return_mean": "max",
}  # fmt: skip
"""What frameworks report and we do not compute."""


def resolve_name(name: str, available: Sequence[str]) -> str | None:
    """The column of a history or of result.metrics that a name means: itself, or its value on the test set, in
    cross validation, or on the training set; aliases count as the same ("auc" and "roc_auc"). None when there is none.

    >>> resolve_name("auc", ["train-logloss", "test-logloss", "test-roc_auc"])
    'test-roc_auc'
    """
    untyped: Any = name
    if not isinstance(untyped, str):
        return None
    if name in available:
        return name
    prefixes = [p for p in ("test-", "cv-", "train-") if name.startswith(p)] or ["test-", "cv-", "train-", ""]
    plain, bare = _plain(name), name.removeprefix("train-").removeprefix("test-").removeprefix("cv-")
    for prefix in prefixes:
        same = [c for c in available if c.startswith(prefix) and _alias(_plain(c)) == _alias(plain)]
        exact = [c for wanted in (bare, plain) for c in same if c == prefix + wanted]
        if same:
            return (exact or same)[0]
    return None
