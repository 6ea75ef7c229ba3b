"""Metrics of the user's own: functions of labels and predictions, and scikit-learn's scorers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import RaylineError, TrainingError
from rayline.core.target import Target, Task

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CustomMetric:
    """A metric of the user's: a function of labels and predictions, or a scorer of scikit-learn.

    Attributes
    ----------
    name
        What it is called in results.
    function
        `function(y_true, y_pred)`, with the labels (or values) as they are in the data and as `predict` gives them; with
        a parameter `sample_weight` it also gets the weights, where there are some. Or a scorer as
        `sklearn.metrics.make_scorer` makes it, called as `function(estimator, X, y)`.
    mode
        Whether smaller or larger is better. Of a scorer always "max"; of a function None, until a search says it.
    """

    name: str
    function: Callable[..., Any]
    mode: Literal["min", "max"] | None = None

    def fits(self, task: Task) -> bool:
        """Whatever its function can measure: that shows when it is called."""
        return True

    def __call__(self, target: Target, scores: Array, truth: Array, weight: Array | None) -> float:
        """The mean over the targets; see `evaluate`. Raises TrainingError when the function fails or gives no number."""
        predicted = target.predictions(scores)
        truths = truth.reshape(len(truth), len(target.columns)).T
        found = []
        for i, column in enumerate(predicted.columns):
            labels = np.asarray(truths[i])
            if target.task.is_classification:
                labels = pl.Series(list(target.classes[i]), dtype=target.dtypes[i]).gather(labels).to_numpy()
            try:
                if is_scorer(self.function):
                    value = self.function(
                        *_asked(target, scores, i, predicted[column].to_numpy(), labels), **_weights(weight)
                    )
                else:
                    takes = weight is not None and "sample_weight" in _parameters(self.function)
                    value = self.function(labels, predicted[column].to_numpy(), **_weights(weight if takes else None))
                found.append(float(value))
            except RaylineError:
                raise
            except Exception as error:  # whatever a function of the user's raises
                raise TrainingError(
                    f"metric {self.name!r}: the function failed with {type(error).__name__}: {error}",
                    "Expected a number from function(y_true, y_pred), which gets labels as they are in the data and as "
                    "predict gives them.",
                    "for probabilities pass sklearn.metrics.make_scorer(function, response_method='predict_proba').",
                ) from error
        return float(np.mean(found))


Custom: TypeAlias = Mapping[str, CustomMetric]
"""The user's own metrics by name."""


def takes(function: Callable[..., Any]) -> bool:
    """Whether it can be called with labels and predictions, or as a scorer."""
    try:
        inspect.signature(function).bind(*([None] * (3 if is_scorer(function) else 2)))
    except TypeError:
        return False
    except ValueError:  # a function of C without a signature
        return True
    return True


def _parameters(function: Callable[..., Any]) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a function of C without a signature
        return []


def is_scorer(function: Callable[..., Any]) -> bool:
    """Whether it is called as scikit-learn's scorers are: with an estimator, X and y."""
    return _parameters(function)[:1] == ["estimator"]


def _weights(weight: Array | None) -> dict[str, Array]:
    return {} if weight is None else {"sample_weight": weight}


def _asked(target: Target, scores: Array, place: int, predicted: Array, truth: Array) -> tuple[Any, Array, Array]:
    """The arguments of a scorer: an estimator that gives these predictions again, as many rows, and the labels."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    kind = ClassifierMixin if target.task.is_classification else RegressorMixin

    class Predictions(kind, BaseEstimator):  # type: ignore[misc, valid-type]
        def predict(self, _rows: Any) -> Array:
            return predicted

    if target.task.is_classification:
        order = np.argsort(np.asarray(target.classes[place]))  # scikit-learn's classes ascend
        ends = np.cumsum([len(c) for c in target.classes])[:-1]

        def predict_proba(_self: Any, _rows: Any) -> Array:
            return np.asarray(np.split(target.probabilities(scores).to_numpy(), ends, axis=1)[place][:, order])

        Predictions.predict_proba = predict_proba
        Predictions.classes_ = np.asarray(target.classes[place])[order]
    return Predictions(), np.zeros((len(truth), 1)), truth
