"""Maps from a model's probability to a calibrated one, and how they are fitted to scored rows with labels.

Both maps compute many values with NumPy and one with plain floats, in the same steps: the results are equal to the bit.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rayline.postprocess.base import Array

EPSILON = 1e-12
"""Probabilities are moved this far from 0 and 1 before their logarithm is taken."""

_BELOW_1 = 1.0 - EPSILON
_MAX_STEPS = 100
MAX_EXPONENT = 700.0
_SHARPEST = 100.0  # the largest inverse temperature


@dataclass(frozen=True)
class LogisticMap:
    """p becomes 1 / (1 + exp(-(a ln p - b ln(1 - p) + c))): Platt's sigmoid of the log-odds where a = b, a temperature where also
    c = 0, and beta calibration otherwise."""

    a: float
    b: float
    c: float

    def of(self, p: Array) -> Array:
        p = np.minimum(np.maximum(p, EPSILON), 1.0 - EPSILON)
        z = self.a * np.log(p) - self.b * np.log(1.0 - p) + self.c
        probabilities: Array = 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(z, -MAX_EXPONENT), MAX_EXPONENT)))
        return probabilities

    def one(self, p: float) -> float:
        if not EPSILON <= p <= _BELOW_1:
            p = EPSILON if p < EPSILON else _BELOW_1 if p > _BELOW_1 else p
        z = self.a * float(np.log(p)) - self.b * float(np.log(1.0 - p)) + self.c  # not math.log: its last bit differs
        if not -MAX_EXPONENT <= z <= MAX_EXPONENT:
            z = -MAX_EXPONENT if z < -MAX_EXPONENT else MAX_EXPONENT if z > MAX_EXPONENT else z
        return 1.0 / (1.0 + float(np.exp(-z)))

    def to_json(self) -> dict[str, Any]:
        return {"a": self.a, "b": self.b, "c": self.c}


@dataclass(frozen=True)
class IsotonicMap:
    """A non-decreasing, piecewise linear function through the points (x, y); constant beyond the first and the last."""

    x: Sequence[float]
    y: Sequence[float]
    slopes: Sequence[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        pairs = zip(self.x, self.y, self.x[1:], self.y[1:], strict=False)
        object.__setattr__(self, "slopes", [(y1 - y0) / (x1 - x0) for x0, y0, x1, y1 in pairs])

    def of(self, p: Array) -> Array:
        x, y, slopes = np.array(self.x), np.array(self.y), np.array(self.slopes)
        if len(x) == 1:
            return np.full_like(p, y[0])
        place = np.clip(np.searchsorted(x, p, side="right") - 1, 0, len(x) - 2)
        probabilities = y[place] + (p - x[place]) * slopes[place]
        limited: Array = np.where(p <= x[0], y[0], np.where(p >= x[-1], y[-1], probabilities))
        return limited

    def one(self, p: float) -> float:
        x, y = self.x, self.y
        if p <= x[0] or len(x) == 1:
            return y[0]
        if p >= x[-1]:
            return y[-1]
        place = bisect_right(x, p) - 1
        return y[place] + (p - x[place]) * self.slopes[place]

    def to_json(self) -> dict[str, Any]:
        return {"x": list(self.x), "y": list(self.y)}


CalibrationMap = LogisticMap | IsotonicMap


def map_from_json(data: Mapping[str, Any]) -> CalibrationMap:
    """Return the map that `to_json` describes. Raises ValueError when it is none."""
    if "x" in data:
        x, y = [float(v) for v in data["x"]], [float(v) for v in data["y"]]
        rising = all(a < b for a, b in itertools.pairwise(x)) and all(map(math.isfinite, [*x, *y]))
        if not x or len(x) != len(y) or not rising:
            raise ValueError("the points of an isotonic map must be finite numbers in ascending order")
        return IsotonicMap(x, y)
    a, b, c = (float(data[name]) for name in "abc")
    if not all(map(math.isfinite, (a, b, c))):
        raise ValueError("the coefficients of a calibration must be finite")
    return LogisticMap(a, b, c)


def isotonic(p: Array, y: Array, w: Array) -> IsotonicMap:
    """Fit by isotonic regression: weighted least squares, by pooling adjacent violators (Barlow and others, 1972).

    Rows of equal probability are pooled first. Of each constant run the first and the last point are kept, as in scikit-learn.
    """
    x, place = np.unique(p, return_inverse=True)
    weight = np.bincount(place, weights=w)
    mean = np.bincount(place, weights=w * y) / weight
    values, weights, sizes = list[float](), list[float](), list[int]()
    for block in zip(mean.tolist(), weight.tolist(), strict=True):
        (value, n), size = block, 1
        while values and values[-1] >= value:
            other, m = values.pop(), weights.pop()
            size += sizes.pop()
            value, n = (other * m + value * n) / (m + n), m + n
        values.append(value)
        weights.append(n)
        sizes.append(size)
    ends = np.cumsum(sizes)
    kept = np.unique(np.concatenate([ends - np.array(sizes), ends - 1]))
    fitted = np.repeat(values, sizes)
    return IsotonicMap(x[kept].tolist(), np.clip(fitted[kept], 0.0, 1.0).tolist())


def sigmoid(p: Array, y: Array, w: Array) -> LogisticMap:
    """Fit Platt's sigmoid to the log-odds, with his smoothed labels (Platt, "Probabilistic outputs for support vector
    machines", 1999)."""
    positive, negative = float(w[y > 0].sum()), float(w[y <= 0].sum())
    smooth = np.where(y > 0, (positive + 1.0) / (positive + 2.0), 1.0 / (negative + 2.0))
    a, c = _logistic(np.stack([_log_odds(p), np.ones_like(p)], axis=1), smooth, w)
    return LogisticMap(a, a, c)


def beta(p: Array, y: Array, w: Array) -> LogisticMap:
    """Fit beta calibration (Kull, Silva Filho and Flach, 2017): a and b are not negative, so that the map is monotone."""
    p = np.clip(p, EPSILON, 1.0 - EPSILON)
    features = np.stack([np.log(p), -np.log(1.0 - p), np.ones_like(p)], axis=1)
    a, b, c = _logistic(features, y, w)
    if a < 0.0 or b < 0.0:
        kept = 1 if a < b else 0
        slope, c = _logistic(features[:, [kept, 2]], y, w)
        a, b = (0.0, max(slope, 0.0)) if kept else (max(slope, 0.0), 0.0)
    return LogisticMap(a, b, c)


def temperature(p: Array, y: Array, w: Array) -> LogisticMap:
    """Fit a temperature (Guo and others, 2017) to binary probabilities: the log-odds are divided by it."""
    slope = inverse_temperature(np.stack([np.zeros_like(p), _log_odds(p)], axis=1), y.astype(np.int64), w)
    return LogisticMap(slope, slope, 0.0)


def inverse_temperature(logits: Array, codes: Array, w: Array) -> float:
    """Return the factor of the logits, shape (n, classes), that minimises the log loss, by Newton's method in its logarithm."""
    true_logits = logits[np.arange(len(logits)), codes]

    def slope(factor: float) -> tuple[float, float]:
        z = factor * logits
        shares = np.exp(z - z.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        mean = (shares * logits).sum(axis=1)
        spread = (shares * logits**2).sum(axis=1) - mean**2
        return float((w * (mean - true_logits)).sum()), float((w * spread).sum())

    low, high = 1.0 / _SHARPEST, _SHARPEST
    factor = 1.0
    for _ in range(_MAX_STEPS):
        gradient, curvature = slope(factor)
        low, high = (factor, high) if gradient < 0.0 else (low, factor)
        step = factor - gradient / curvature if curvature > 0.0 else math.nan
        following = step if low < step < high else math.sqrt(low * high)
        if abs(following - factor) <= 1e-12 * factor:
            break
        factor = following
    return factor


def _log_odds(p: Array) -> Array:
    p = np.clip(p, EPSILON, 1.0 - EPSILON)
    odds: Array = np.log(p) - np.log(1.0 - p)
    return odds


def _logistic(features: Array, y: Array, w: Array) -> list[float]:
    """Return the coefficients of a weighted logistic regression without penalty, by Newton's method with halved steps. Of
    labels that the features separate it returns a steep map, not an infinite one."""
    scale = np.maximum(np.abs(features).max(axis=0), 1e-300)
    x = features / scale
    coefficients = np.zeros(x.shape[1])

    def loss(at: Array) -> float:
        z = x @ at
        return float((w * (np.logaddexp(0.0, z) - y * z)).sum())

    current = loss(coefficients)
    for _ in range(_MAX_STEPS):
        z = x @ coefficients
        p = 1.0 / (1.0 + np.exp(-np.clip(z, -MAX_EXPONENT, MAX_EXPONENT)))
        gradient = x.T @ (w * (p - y))
        hessian = (x * (w * p * (1.0 - p))[:, None]).T @ x
        ridge = 1e-12 * max(float(np.trace(hessian)), 1e-12 * float(w.sum()))
        step = np.linalg.solve(hessian + ridge * np.eye(len(coefficients)), gradient)
        size = 1.0
        while size > 1e-6 and loss(coefficients - size * step) > current:
            size /= 2.0
        following = coefficients - size * step
        improved = loss(following)
        if not improved < current - 1e-13 * abs(current):
            break
        coefficients, current = following, improved
    return [float(v) for v in coefficients / scale]
