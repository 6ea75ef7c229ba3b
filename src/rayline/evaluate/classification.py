"""The metrics of predicted classes and probabilities, by scikit-learn's definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rayline.core.statistics import score_weights
from rayline.evaluate.metric import CLASSIFICATION, Metric, RankMetric, SumMetric

Array = npt.NDArray[Any]


def _mean(total: Array, weight: Array) -> Array:
    return (total / weight)[:, 0]


def _share_wrong(correct: Array, weight: Array) -> Array:
    return 1.0 - _mean(correct, weight)


def _thirds(classes: Array) -> tuple[Array, Array, Array]:
    """Return the weight of each class as true, as predicted, and as both, each of shape (replicates, classes)."""
    true, predicted, both = np.split(classes, 3, axis=1)
    return true, predicted, both


def _balanced(classes: Array) -> Array:
    true, _, both = _thirds(classes)
    occurs = true > 0
    recalls = np.where(occurs, both / np.where(occurs, true, 1.0), 0.0)
    return np.asarray(recalls.sum(axis=1) / occurs.sum(axis=1))


def _ratio(over: Array, under: Array) -> Array:
    """Return a quotient, 0 where it is not defined (scikit-learn's zero_division=0)."""
    return np.where(under > 0, over / np.where(under > 0, under, 1.0), 0.0)


def _of_classes(name: str, average: str) -> Any:
    """Return precision, recall or F1 of sums of the classes: of the second of two, or an average over the classes."""

    def measure(classes: Array) -> Array:
        true, predicted, both = _thirds(classes)
        weight = true.sum(axis=1)
        if average == "micro":
            return np.asarray(both.sum(axis=1) / weight)
        under = {"precision": predicted, "recall": true, "f1": (true + predicted) / 2}[name]
        each = _ratio(both, under)
        if average == "" and true.shape[1] == 2:
            return np.where(weight > 0, each[:, 1], np.nan)
        if average == "weighted":
            return np.asarray((each * true).sum(axis=1) / weight)
        occurs = (true > 0) | (predicted > 0)
        return np.asarray((each * occurs).sum(axis=1) / occurs.sum(axis=1))

    return measure


def _matthews(classes: Array) -> Array:
    true, predicted, both = _thirds(classes)
    total = true.sum(axis=1)
    together = both.sum(axis=1) * total - (true * predicted).sum(axis=1)
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    return np.where(total > 0, np.where(spread > 0, together / np.sqrt(np.where(spread > 0, spread, 1.0)), 0.0), np.nan)


def _kappa(classes: Array) -> Array:
    true, predicted, both = _thirds(classes)
    total = true.sum(axis=1)
    by_chance = (true * predicted).sum(axis=1) / total**2
    return np.asarray((both.sum(axis=1) / total - by_chance) / (1.0 - by_chance))


def _expected_calibration_error(bins: Array) -> Array:
    weight, chance, hit = _thirds(bins)
    return np.asarray(np.abs(chance - hit).sum(axis=1) / weight.sum(axis=1))


def _sums(
    name: str,
    mode: Any,
    needs: Any,
    about: str,
    *quantities: str,
    total: Any = _mean,
    reason: str = "",
    recenters: bool = False,
) -> Metric:
    return SumMetric(name, mode, needs, CLASSIFICATION, about, quantities, total, reason, recenters)


_WORDS = {
    "f1": "harmonic mean of precision and recall",
    "precision": "share of the predicted positives that are",
    "recall": "share of the positives that are found",
}
_AVERAGES = {
    "macro": "mean over the classes",
    "micro": "over all classes together",
    "weighted": "mean over the classes, by their rows",
}


def _all() -> list[Metric]:
    return [
        _sums(
            "log_loss", "min", "probabilities", "mean of −log of the probability of the true class", "log_loss", "weight"
        ),
        _sums("brier", "min", "probabilities", "mean squared distance of the probabilities from the truth", "brier", "weight"),
        RankMetric("roc_auc", "max", "ranks", CLASSIFICATION, "area under the ROC curve"),
        RankMetric(
            "roc_auc_ovr_weighted", "max", "ranks", CLASSIFICATION,
            "area under the ROC curve, mean over the classes by their rows", average="weighted",
        ),
        RankMetric(
            "roc_auc_ovo", "max", "ranks", CLASSIFICATION, "area under the ROC curve, mean over pairs of classes", average="ovo"
        ),
        RankMetric(
            "average_precision", "max", "ranks", CLASSIFICATION, "area under the curve of precision over recall",
            score_weights.average_precision,
        ),
        _sums("accuracy", "max", "labels", "share of right labels", "correct", "weight"),
        _sums("error", "min", "labels", "share of wrong labels", "correct", "weight", total=_share_wrong),
        _sums("balanced_accuracy", "max", "labels", "mean over the classes of their recall", "classes", total=_balanced),
        *(_sums(name, "max", "labels", _WORDS[name], "classes", total=_of_classes(name, "")) for name in _WORDS),
        _sums("mcc", "max", "labels", "correlation of true and predicted labels (Matthews)", "classes", total=_matthews),
        _sums(
            "cohen_kappa", "max", "labels", "agreement with the truth beyond that by chance", "classes", total=_kappa,
            reason="labels and predictions are all of one class",
        ),
        *(
            _sums(f"{name}_{average}", "max", "labels", f"{_WORDS[name]}: {words}", "classes", total=_of_classes(name, average))
            for name in _WORDS
            for average, words in _AVERAGES.items()
        ),
        _sums("top_k", "max", "probabilities", "share of rows whose class is among the k likeliest", "top_k", "weight"),
        _sums(
            "ece", "min", "probabilities", "mean distance of probabilities from observed shares, in bins of equal width",
            "calibration", total=_expected_calibration_error, recenters=True,
        ),
    ]  # fmt: skip


METRICS = _all()

ARGUMENTS = {"top_k": ("top_k", "k", 2.0), "ece": ("calibration", "bins", 15.0)}
"""Metrics with an argument ("top_k@3"): the quantity that takes it, what it is called, and its default."""
