"""The metrics of predicted values, by scikit-learn's definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rayline.evaluate.metric import (
    CLASSIFICATION,
    REGRESSION,
    MaximumMetric,
    MedianMetric,
    Metric,
    SumMetric,
    VarianceMetric,
)

Array = npt.NDArray[Any]


def _mean(total: Array, weight: Array) -> Array:
    return (total / weight)[:, 0]


def _root(total: Array, weight: Array) -> Array:
    return np.asarray(np.sqrt(_mean(total, weight)))


def _sums(name: str, about: str, quantity: str, total: Any = _mean, reason: str = "") -> Metric:
    return SumMetric(name, "min", "values", REGRESSION, about, (quantity, "weight"), total, reason)


_POSITIVE = "needs predictions above 0 and labels of at least 0"

METRICS: list[Metric] = [
    _sums("rmse", "root of the mean squared error", "squared_error", _root),
    _sums("mse", "mean squared error", "squared_error"),
    _sums("mae", "mean absolute error", "absolute_error"),
    MedianMetric("median_ae", "min", "values", REGRESSION, "median absolute error"),
    _sums("mape", "mean absolute error relative to the truth (1 is 100 %)", "relative_error"),
    _sums("smape", "mean absolute error relative to the mean size of truth and prediction (1 is 100 %)", "symmetric_error"),
    _sums(
        "rmsle", "root of the mean squared error of log(1 + value)", "squared_log_error", _root,
        "needs labels and predictions above −1",
    ),
    VarianceMetric("r2", "max", "values", REGRESSION, "share of the variance that is explained"),
    VarianceMetric(
        "explained_variance", "max", "values", REGRESSION, "share of the variance that is explained, apart from a bias", True
    ),
    MaximumMetric("max_error", "min", "values", REGRESSION, "largest absolute error"),
    _sums("poisson_deviance", "mean deviance of a Poisson distribution", "tweedie@1", reason=_POSITIVE),
    _sums(
        "gamma_deviance", "mean deviance of a gamma distribution", "tweedie@2", reason="needs labels and predictions above 0"
    ),
    _sums("tweedie_deviance", "mean deviance of a Tweedie distribution of power p", "tweedie", reason=_POSITIVE),
    SumMetric(
        "pinball", "min", "quantiles", REGRESSION, "mean pinball loss of the quantile alpha, or of the predicted quantiles",
        ("pinball", "weight"), _mean,
    ),
    SumMetric(
        "coverage", "max", "interval", CLASSIFICATION | REGRESSION, "share of rows whose interval, set or outer quantiles hold the label",
        ("covered", "weight"), _mean,
    ),
    SumMetric(
        "interval_width", "min", "interval", CLASSIFICATION | REGRESSION, "mean width of the intervals, or number of classes of the sets",
        ("width", "weight"), _mean,
    ),
]  # fmt: skip

ARGUMENTS = {"tweedie_deviance": ("tweedie", "p", 1.5), "pinball": ("pinball", "alpha", 0.5)}
"""Metrics with an argument ("pinball@0.9"): the quantity that takes it, what it is called, and its default."""
