"""Metrics that are functions of the user's own, of labels and predictions, or scorers of scikit-learn.

A function needs all rows at once. They are collected, up to a bound; a `MetricStatistic` has none.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from rayline.core.arguments import known_arguments
from rayline.core.data_types import Mode
from rayline.core.errors import ParameterError, RaylineError, TrainingError, first_line, shorten
from rayline.core.statistics.base import Statistic
from rayline.core.target import Task
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.metric import Metric, Part, Parts

Array = npt.NDArray[Any]

MAX_COLLECTED = 1 << 20
"""Rows up to which a function of all rows is computed in an evaluation, which calls it for each replicate."""

MAX_RESAMPLED = 4_000_000
"""Rows that a function is called with for its interval, in all: some seconds. At least `MIN_REPLICATES` times all rows."""

MIN_REPLICATES = 30


@dataclass(frozen=True, eq=False)
class CollectedScores(Statistic):
    """The rows themselves, up to the option `limit`; of more only their number."""

    batch: ScoredBatch | None = None
    n_rows: int = 0
    limit: int = 0

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        assert isinstance(batch, ScoredBatch)
        limit: int = options["limit"]
        return cls(batch if len(batch) <= limit else None, len(batch), limit)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls(limit=options.get("limit", 0))

    @classmethod
    def merge_all(cls, states: Any, **options: Any) -> Self:
        filled = [state for state in states if state.n_rows]
        n_rows, limit = sum(state.n_rows for state in filled), max((state.limit for state in filled), default=0)
        if n_rows > limit or any(state.batch is None for state in filled):
            return cls(None, n_rows, limit)
        parts = [state.batch for state in filled if state.batch is not None]

        def joined(name: str) -> Any:
            arrays = [getattr(part, name) for part in parts]
            return None if arrays[0] is None else np.concatenate(arrays)

        first = replace(
            parts[0],
            **{name: joined(name) for name in ("scores", "truth", "weight", "bucket", "pair", "covered", "width")},
        )
        return cls(first, n_rows, limit)


@dataclass(frozen=True)
class CustomMetric(Metric):
    """A metric of the user's: a function of labels and predictions, or a scorer of scikit-learn.

    Attributes
    ----------
    function
        `function(y_true, y_pred)`, with the labels (or values) as they are in the data and as `predict` gives them; with
        a parameter `sample_weight` it also gets the weights, where there are some. Or a scorer as
        `sklearn.metrics.make_scorer` makes it, called as `function(estimator, X, y)`.
    limit
        Rows up to which it is computed; `MAX_COLLECTED` when None.
    """

    function: Callable[..., Any] = float
    limit: int | None = None
    alternative = (
        "write it as a rayline.evaluate.MetricStatistic, which is computed from parts and merged, or evaluate a sample."
    )

    @classmethod
    def of(cls, name: str, function: Callable[..., Any], mode: Mode | None = None) -> Self:
        """Return the metric of a function. A scorer's direction is always "max"; that of a function may be unknown."""
        return cls(
            name,
            "max" if is_scorer(function) else mode,
            "labels",
            frozenset(Task),
            "a function of yours",
            function,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)

    @property
    def source(self) -> Any:
        return self.function

    @property
    def max_rows(self) -> int:
        return MAX_COLLECTED if self.limit is None else self.limit

    def limited(self, max_rows: int) -> Self:
        return replace(self, limit=max_rows)

    @property
    def _collected(self) -> Part:
        return Part(CollectedScores, (("limit", self.max_rows),))

    def parts(self, n_classes: int) -> Sequence[Part]:
        return [self._collected]

    def value(self, parts: Parts, multiplicity: Array) -> Array:
        collected = parts[self._collected]
        self.refuse_rows(collected.n_rows)
        values = np.full(len(multiplicity), np.nan)
        batch = collected.batch
        if batch is None:
            return values
        if batch.weight is not None and len(multiplicity) == 1:  # no report remarks on it
            self.warn_unweighted()
        predictions = CollectedPredictions(batch)
        values[0] = self._call(batch, predictions, batch.weight)
        for i, counts in enumerate(multiplicity[1 : 1 + self._replicates(len(batch))], start=1):
            values[i] = self._replicate(batch, predictions, counts if batch.bucket is None else counts[batch.bucket])
        return values

    def warn_unweighted(self) -> None:
        if not self._takes_weights:
            text = f"metric {self._unweighted} Add the parameter, or leave sample_weight out."
            warnings.warn(text, UserWarning, stacklevel=3)

    def _replicates(self, n_rows: int) -> int:
        """Return for how many replicates the function is called at most."""
        return max(MIN_REPLICATES, MAX_RESAMPLED // max(1, n_rows))

    def remarks(self, parts: Parts, multiplicity: Array) -> list[str]:
        batch = parts[self._collected].batch
        if batch is None:
            return []
        remarks = [self._unweighted] if batch.weight is not None and not self._takes_weights else []
        requested, computed = len(multiplicity) - 1, self._replicates(len(batch))
        if requested > computed:
            remarks.append(
                f"The interval of {self.name} uses {computed} replicates, not {requested}: a function is called again for each."
            )
        return remarks

    @property
    def _takes_weights(self) -> bool:
        return is_scorer(self.function) or "sample_weight" in _parameters(self.function)

    @property
    def _unweighted(self) -> str:
        return f"{self.name} is not weighted: its function has no parameter sample_weight."

    def _replicate(self, batch: ScoredBatch, predictions: CollectedPredictions, counts: Array) -> float:
        if batch.bucket is None:
            return self._call(batch, predictions, batch.weight)
        if "sample_weight" in _parameters(self.function):
            return self._call(batch, predictions, counts if batch.weight is None else counts * batch.weight)
        total = np.cumsum(counts)
        places = np.searchsorted(total, np.arange(round(total[-1])) + 0.5)  # each row as often as it counts
        if not len(places):
            return float("nan")
        places = np.minimum(places, len(batch) - 1)
        return self._call(batch, predictions.take(places), None if batch.weight is None else batch.weight[places])

    def _call(self, batch: ScoredBatch, predictions: CollectedPredictions, weight: Array | None) -> float:
        """Call the function. Raises TrainingError when it fails or gives no number."""
        try:
            if is_scorer(self.function):
                return float(self.function(*_scorer_arguments(predictions), **_weights(weight)))
            return float(
                self.function(
                    predictions.y_true, predictions.y_pred, **_weights(weight if self._takes_weights else None)
                )
            )
        except RaylineError:
            raise
        except Exception as error:  # whatever a function of the user's raises
            raise TrainingError(
                f"metric {self.name!r}: the function failed with {type(error).__name__}: {first_line(error)}",
                "Expected a number from function(y_true, y_pred), which gets labels as they are in the data and as "
                f"predict gives them, here {_kind(batch)}.",
                "to set arguments such as pos_label, or to get probabilities, pass "
                f"sklearn.metrics.make_scorer(function, {_ARGUMENT_EXAMPLE}).",
            ) from error


class CollectedPredictions:
    """Labels, predictions and probabilities of rows as functions get them, converted once for all replicates.

    Parameters
    ----------
    batch
        All rows.
    rows
        Which of them, and how often; all when None.
    """

    def __init__(
        self, batch: ScoredBatch, rows: Array | None = None, whole: CollectedPredictions | None = None
    ) -> None:
        self._batch, self._rows, self._whole = batch, rows, whole

    def take(self, rows: Array) -> CollectedPredictions:
        """Return the answers of some of all rows."""
        return CollectedPredictions(self._batch, rows, self)

    @cached_property
    def y_true(self) -> Array:
        """The labels as they are in the data."""
        return self._batch.y_true if self._whole is None else self._whole.y_true[self._rows]

    @cached_property
    def y_pred(self) -> Array:
        """The predictions as `predict` returns them."""
        return self._batch.y_pred if self._whole is None else self._whole.y_pred[self._rows]

    @cached_property
    def classes(self) -> Array:
        """The classes, ascending as scikit-learn's are; empty for a regression."""
        return np.sort(np.asarray(self._batch.classes))

    @cached_property
    def probabilities(self) -> Array:
        """The probability of each of the classes."""
        if self._whole is not None:
            return np.asarray(self._whole.probabilities[self._rows])
        return np.asarray(self._batch.probabilities[:, np.argsort(np.asarray(self._batch.classes))])


Custom: TypeAlias = Mapping[str, Metric]
"""The user's own metrics by name."""


@overload
def metric(function: Callable[..., Any], *, mode: Mode, name: str | None = None) -> CustomMetric: ...
@overload
def metric(*, mode: Mode, name: str | None = None) -> Callable[[Callable[..., Any]], CustomMetric]: ...
@known_arguments
def metric(function: Callable[..., Any] | None = None, *, mode: Mode, name: str | None = None) -> Any:
    """Declare a function of labels and predictions as a metric, with its direction. Usable as a decorator.

    Parameters
    ----------
    function
        `function(y_true, y_pred)`, and `sample_weight` where it takes weights.
    mode
        Whether smaller ("min") or larger ("max") is better.
    name
        What results call it; the function's name when omitted.

    Returns
    -------
    CustomMetric
        For `metrics=`; without a function a decorator that makes one.

    Raises
    ------
    ParameterError
        When `mode` is neither "min" nor "max", and on a function that is a class or cannot be called.

    Examples
    --------
    >>> from rayline import evaluate
    >>> @evaluate.metric(mode="min")
    ... def missed(y_true, y_pred):
    ...     return float(((y_true == "late") & (y_pred == "on time")).mean())
    >>> missed.name, missed.mode
    ('missed', 'min')
    """
    if function is not None and (not callable(function) or isinstance(function, type)):
        raise ParameterError(
            f"evaluate.metric: {function!r:.200} is not a function.",
            "Expected a function (y_true, y_pred), or a scorer of scikit-learn.",
            "metrics of Rayline's have a direction already: pass their names.",
        )
    if function is None:
        return lambda decorated: metric(decorated, mode=mode, name=name)
    return CustomMetric.of(str(name or getattr(function, "__name__", "metric")), function, mode)


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


_ARGUMENT_EXAMPLE = "pos_label=…, response_method='predict_proba'"


def _kind(batch: ScoredBatch) -> str:
    """Return what labels look like, for an error."""
    return f"labels {shorten(batch.classes, 4)}" if batch.classes else "numbers"


def _weights(weight: Array | None) -> dict[str, Array]:
    return {} if weight is None else {"sample_weight": weight}


def _scorer_arguments(predictions: CollectedPredictions) -> tuple[Any, Array, Array]:
    """The arguments of a scorer: an estimator that gives these predictions again, as many rows, and the labels."""
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

    is_classifier = len(predictions.classes) > 0
    kind = ClassifierMixin if is_classifier else RegressorMixin

    class Predictions(kind, BaseEstimator):  # type: ignore[misc, valid-type]
        def predict(self, _rows: Any) -> Array:
            return predictions.y_pred

    if is_classifier:

        def predict_proba(_self: Any, _rows: Any) -> Array:
            return predictions.probabilities

        Predictions.predict_proba = predict_proba
        Predictions.classes_ = predictions.classes
    return Predictions(), np.zeros((len(predictions.y_true), 1)), predictions.y_true
