"""Metrics of the user's own that are statistics: computed from parts of the rows and merged."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from rayline.core.data_types import Mode
from rayline.core.errors import ParameterError, RaylineError, TrainingError, first_line
from rayline.core.statistics.base import Statistic
from rayline.core.target import Task
from rayline.evaluate.batch import ScoredBatch
from rayline.evaluate.metric import Metric, Needs, Part, Parts

Array = npt.NDArray[Any]

OWN_BUCKETS = 64
"""Bootstrap buckets of a `MetricStatistic`."""


class MetricStatistic(ABC):
    """A metric of the user's own that is computed from parts of the rows and merged: for any number of rows.

    Derive from it, and pass the class in `metrics=`, or register it under its name with `register_metric`.

    Attributes
    ----------
    name
        What results call it.
    mode
        Whether smaller ("min") or larger ("max") is better.
    tasks
        The tasks whose predictions it can measure: some of "binary", "multiclass" and "regression".

    Examples
    --------
    >>> from rayline import evaluate
    >>> class Late(evaluate.MetricStatistic):
    ...     name, mode, tasks = "late_share", "max", ("regression",)
    ...     def __init__(self, late=0.0, rows=0.0):
    ...         self.late, self.rows = late, rows
    ...     @classmethod
    ...     def of(cls, batch):
    ...         return cls(float((batch.y_pred > batch.y_true).sum()), len(batch))
    ...     def merge(self, other):
    ...         return Late(self.late + other.late, self.rows + other.rows)
    ...     def value(self):
    ...         return self.late / self.rows
    >>> Late().merge(Late(3.0, 4.0)).value()
    0.75
    """

    name: ClassVar[str]
    mode: ClassVar[Mode]
    tasks: ClassVar[Sequence[str]] = ("binary", "multiclass", "regression")
    needs: ClassVar[Needs] = "labels"

    @classmethod
    def empty(cls) -> Self:
        """Return the statistic of no rows: the identity of `merge`.

        Returns
        -------
        MetricStatistic
            What the constructor gives without arguments, unless overridden.
        """
        return cls()

    @classmethod
    @abstractmethod
    def of(cls, batch: ScoredBatch) -> Self:
        """Return the statistic of some rows.

        Parameters
        ----------
        batch
            The rows, none of which lacks a label: `y_true`, `y_pred` and `weight` (None for ones) have shape (n,),
            `probabilities` (n, classes).

        Returns
        -------
        MetricStatistic
            A small object: it travels between processes, and must not hold the rows.
        """

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """Return the statistic of the rows of both; neither of them changes.

        Parameters
        ----------
        other
            The statistic of other rows.

        Returns
        -------
        MetricStatistic
            The same for any order and any division of the rows.
        """

    @abstractmethod
    def value(self) -> float:
        """Return the metric.

        Returns
        -------
        float
            NaN where it is not defined, as for no rows.
        """


@dataclass(frozen=True, eq=False)
class OwnStatistic(Statistic):
    """The user's statistic of the rows in each of a few bootstrap buckets."""

    states: Mapping[int, Any]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        (batch,) = values
        assert isinstance(batch, ScoredBatch)
        statistic = options["statistic"]
        with _naming(statistic):
            return cls._of(batch, statistic)

    @classmethod
    def _of(cls, batch: ScoredBatch, statistic: type[MetricStatistic]) -> Self:
        if batch.bucket is None:
            return cls({0: _checked(statistic.of(batch), statistic)} if len(batch) else {})
        bucket = (batch.bucket % OWN_BUCKETS).astype(np.uint8)
        order = np.argsort(bucket, kind="stable")
        filled, starts = np.unique(bucket[order], return_index=True)
        parts = np.split(order, starts[1:]) if len(order) else []
        return cls(
            {int(b): _checked(statistic.of(batch.take(rows)), statistic) for b, rows in zip(filled, parts, strict=True)}
        )

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls({})

    def merge(self, other: Self) -> Self:
        states = dict(self.states)
        for bucket, state in other.states.items():
            with _naming(type(state)):
                states[bucket] = states[bucket].merge(state) if bucket in states else state
        return type(self)(states)


@contextlib.contextmanager
def _naming(statistic: Any) -> Iterator[None]:
    """Raise TrainingError when a statistic of the user's fails, with its name."""
    try:
        yield
    except RaylineError:
        raise
    except Exception as error:  # whatever the user's code raises
        raise TrainingError(
            f"metric {statistic.name!r}: the statistic {statistic.__name__} failed with {type(error).__name__}: {first_line(error)}",
            "Expected of(batch) and merge(other) to return statistics of this class, value() a number, and a constructor "
            "without arguments (or empty()) for no rows.",
            "the error above was raised by the class; call its methods with a few rows to find the cause.",
        ) from error


@dataclass(frozen=True)
class StatisticMetric(Metric):
    """The metric of a `MetricStatistic`."""

    statistic: Any = None  # the class

    @classmethod
    def of(cls, statistic: type[MetricStatistic]) -> Self:
        """Return the metric of a class, whose attributes are checked. Raises ParameterError."""
        name, mode = getattr(statistic, "name", None), getattr(statistic, "mode", None)
        tasks = getattr(statistic, "tasks", ())
        known = [str(task) for task in Task]
        if not isinstance(name, str) or not name or mode not in ("min", "max") or not {*map(str, tasks)} <= {*known}:
            raise ParameterError(
                f"metrics: the statistic {statistic.__name__} has name={name!r}, mode={mode!r}, tasks={tasks!r}.",
                f"Expected a name, mode 'min' or 'max', and tasks among {known}.",
                "set them as attributes of the class.",
            )
        return cls(name, mode, statistic.needs, frozenset(map(Task, tasks)), "a statistic of yours", statistic)

    @property
    def source(self) -> Any:
        return self.statistic

    def parts(self, n_classes: int) -> Sequence[Part]:
        return [self._part]

    def value(self, parts: Parts, multiplicity: Array) -> Array:
        with _naming(self.statistic):
            return self._value(parts, multiplicity)

    @property
    def _part(self) -> Part:
        return Part(OwnStatistic, (("statistic", self.statistic),))

    def _value(self, parts: Parts, multiplicity: Array) -> Array:
        states: Mapping[int, Any] = parts[self._part].states
        values = np.full(len(multiplicity), np.nan)
        if not states:
            return values
        counts = multiplicity if np.array_equal(multiplicity, np.rint(multiplicity)) else multiplicity * 16
        for i, row in enumerate(np.rint(counts).astype(int) if len(counts) > 1 else counts.astype(int)):
            repeated = [_repeated(state, row[bucket]) for bucket, state in sorted(states.items()) if row[bucket]]
            whole = self.statistic.empty()
            for state in repeated:
                whole = whole.merge(state)
            values[i] = float(whole.value()) if repeated else np.nan
        return values


def _checked(state: Any, statistic: type[MetricStatistic]) -> Any:
    """Return what `of` gave. Raises TypeError when it is something else than a statistic."""
    if not isinstance(state, MetricStatistic):
        raise TypeError(f"{statistic.__name__}.of returned {state!r:.80}")
    return state


def _repeated(state: Any, times: int) -> Any:
    """Merge a statistic with itself, so that its rows count so many times."""
    half = _repeated(state, times // 2) if times > 1 else None
    return state if half is None else half.merge(half) if times % 2 == 0 else half.merge(half).merge(state)
