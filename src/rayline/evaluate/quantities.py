"""Quantities of a row whose sums metrics are made of: losses, hits, the classes, bins of a probability.

A quantity is named, with an argument behind "@" where it has one, so that metrics which need the same share it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rayline.evaluate.batch import ScoredBatch

Array = npt.NDArray[Any]
Quantity: TypeAlias = Callable[[ScoredBatch], Array]


def quantity(name: str) -> Quantity:
    """Return the function that sums a quantity in each bucket, shape (buckets, width).

    >>> quantity("pinball@0.9").keywords
    {'alpha': 0.9}
    """
    plain, _, argument = name.partition("@")
    function = QUANTITIES[plain]
    return function if not argument else partial(function, **{_ARGUMENTS[plain]: float(argument)})


def _weight(batch: ScoredBatch) -> Array:
    if len(batch.classes) == 2:
        weights: Array = batch.confusion.sum(axis=1, keepdims=True)
        return weights
    if batch.weight is None and batch.bucket is not None:
        return batch.counts(np.zeros(1, np.int64), 1)
    return batch.sums(1.0)


def _log_loss(batch: ScoredBatch) -> Array:
    eps = np.finfo(np.float64).eps
    return batch.sums(-np.log(np.clip(batch.of_truth, eps, 1.0 - eps)))


def _brier(batch: ScoredBatch) -> Array:
    if len(batch.classes) == 2:
        return batch.sums((1.0 - batch.of_truth) ** 2)
    table = batch.probabilities
    true = np.take_along_axis(table, batch.truth[:, None], axis=1)[:, 0]
    return batch.sums((table**2).sum(axis=1) - true**2 + (1.0 - true) ** 2)


def _correct(batch: ScoredBatch) -> Array:
    if len(batch.classes) == 2:
        correct: Array = batch.confusion[:, [0, 3]].sum(axis=1, keepdims=True)
        return correct
    return batch.sums(batch.codes == batch.truth)


def _classes(batch: ScoredBatch) -> Array:
    """The weights, for each class, of the rows of the class, the rows predicted as it, and both; side by side."""
    n, truth, codes = len(batch.classes), batch.truth, batch.codes
    if n == 2:
        cells = batch.confusion
        true = cells @ np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
        predicted = cells @ np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
        return np.concatenate([true, predicted, cells[:, [0, 3]]], axis=1)
    right = batch.counts(codes, n, (codes == truth).astype(np.float64))
    return np.concatenate([batch.counts(truth, n), batch.counts(codes, n), right], axis=1)


def _top_k(batch: ScoredBatch, k: float = 2) -> Array:
    if len(batch.classes) == 2:
        return batch.sums(batch.codes == batch.truth if k < 2 else 1.0)
    table = batch.probabilities
    true = np.take_along_axis(table, batch.truth[:, None], axis=1)
    later = np.arange(table.shape[1]) > batch.truth[:, None]  # of equal classes the last one comes first
    before = (table > true).sum(axis=1) + ((table == true) & later).sum(axis=1)
    return batch.sums(before < k)


def _calibration(batch: ScoredBatch, bins: float = 15) -> Array:
    """In bins of equal width of a probability: weight, sum of probabilities, weight of the rows it is true of."""
    n = int(bins)
    if len(batch.classes) == 2:
        chance, hit = batch.positive, batch.truth == 1
    else:
        chance, hit = batch.probabilities.max(axis=1), batch.codes == batch.truth
    places = np.minimum((chance * n).astype(np.int64), n - 1)
    sums = [batch.counts(places, n, of) for of in (None, chance, hit.astype(np.float64))]
    return np.concatenate(sums, axis=1)


def _squared_error(batch: ScoredBatch) -> Array:
    return batch.sums(batch.errors**2)


def _absolute_error(batch: ScoredBatch) -> Array:
    return batch.sums(np.abs(batch.errors))


def _relative_error(batch: ScoredBatch) -> Array:
    return batch.sums(np.abs(batch.errors) / np.maximum(np.abs(batch.truth), np.finfo(np.float64).eps))


def _symmetric_error(batch: ScoredBatch) -> Array:
    size = np.abs(batch.truth) + np.abs(batch.values)
    return batch.sums(np.divide(2 * np.abs(batch.errors), size, out=np.zeros_like(size), where=size > 0))


def _squared_log_error(batch: ScoredBatch) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        both = np.log1p(batch.values) - np.log1p(batch.truth)
    return batch.sums(np.where((batch.values > -1) & (batch.truth > -1), both**2, np.nan))


def _tweedie(batch: ScoredBatch, power: float = 1.5) -> Array:
    """The unit deviance of a Tweedie distribution: power 0 is squared error, 1 Poisson, 2 gamma, 3 inverse Gaussian.

    NaN where it is not defined: predictions that are not positive, labels below 0 (from power 2 on at 0, too).
    """
    y, mean = batch.truth, batch.values
    fits = (mean > 0) & ((y >= 0) if power < 2 else (y > 0)) if power >= 1 else (mean > 0) | (power == 0)
    y, mean = np.where(fits, y, 1.0), np.where(fits, mean, 1.0)
    if power == 0:
        unit = (y - mean) ** 2
    elif power == 1:
        unit = 2 * (np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0) / mean), 0.0) - y + mean)
    elif power == 2:
        unit = 2 * (np.log(mean / y) + y / mean - 1)
    else:
        first = np.maximum(y, 0.0) ** (2 - power) if power < 2 else y ** (2 - power)
        unit = 2 * (
            first / ((1 - power) * (2 - power))
            - y * mean ** (1 - power) / (1 - power)
            + mean ** (2 - power) / (2 - power)
        )
    return batch.sums(np.where(fits, unit, np.nan))


def _pinball(batch: ScoredBatch, alpha: float | None = None) -> Array:
    """The pinball loss of a quantile, of the median if it is not said; for a model of quantiles the mean over them."""
    quantiles = batch.target.quantiles
    levels = np.array(quantiles if quantiles and alpha is None else [0.5 if alpha is None else alpha])
    predicted = batch.values.reshape(len(batch), -1)
    if alpha in quantiles and len(quantiles) > 1:
        predicted = predicted[:, [quantiles.index(alpha)]]
    low = batch.truth[:, None] - predicted
    return batch.sums(np.where(low >= 0, levels * low, (levels - 1) * low).mean(axis=1))


def _covered(batch: ScoredBatch) -> Array:
    """The rows whose interval or set holds the label; of quantiles those between the smallest and the greatest, both included."""
    if batch.covered is not None:
        return batch.sums(batch.covered)
    predicted = batch.values.reshape(len(batch), -1)
    return batch.sums((predicted.min(axis=1) <= batch.truth) & (batch.truth <= predicted.max(axis=1)))


def _width(batch: ScoredBatch) -> Array:
    """The width of the interval of a row, the number of classes of its set, or the distance of its outer quantiles."""
    if batch.width is not None:
        return batch.sums(batch.width)
    predicted = batch.values.reshape(len(batch), -1)
    return batch.sums(predicted.max(axis=1) - predicted.min(axis=1))


QUANTITIES: dict[str, Any] = {
    "weight": _weight, "log_loss": _log_loss, "brier": _brier, "correct": _correct, "classes": _classes, "top_k": _top_k,
    "calibration": _calibration, "squared_error": _squared_error, "absolute_error": _absolute_error,
    "relative_error": _relative_error, "symmetric_error": _symmetric_error, "squared_log_error": _squared_log_error,
    "tweedie": _tweedie, "pinball": _pinball, "covered": _covered, "width": _width,
}  # fmt: skip

_ARGUMENTS = {"top_k": "k", "calibration": "bins", "tweedie": "power", "pinball": "alpha"}
