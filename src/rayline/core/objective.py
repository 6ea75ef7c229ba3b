"""The objective of a trainer: the task, the labels that can be learned, and the kind of predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from rayline.core.errors import DataError, ParameterError
from rayline.core.task import Task


@dataclass(frozen=True)
class LabelRange:
    """The labels that an objective can learn: from `low` to `high`, `low` itself only if not `excludes_low`.

    >>> str(LabelRange(0.0, excludes_low=True)), str(LabelRange(0.0, 1.0))
    ('above 0', 'from 0 to 1')
    >>> LabelRange(0.0, excludes_low=True).holds(0.0, 3.0)
    False
    """

    low: float = -math.inf
    high: float = math.inf
    excludes_low: bool = False

    def holds(self, smallest: float, largest: float) -> bool:
        """Whether labels between these two are all in the range."""
        return (self.low < smallest if self.excludes_low else self.low <= smallest) and largest <= self.high

    def __str__(self) -> str:
        if not math.isinf(self.high):
            return f"{'above' if self.excludes_low else 'from'} {self.low:g} to {self.high:g}"
        return f"above {self.low:g}" if self.excludes_low else f"of at least {self.low:g}"


ANY = LabelRange()
NON_NEGATIVE = LabelRange(0.0)
POSITIVE = LabelRange(0.0, excludes_low=True)


@dataclass(frozen=True)
class Objective:
    """The properties of the target that follow from the arguments of a trainer.

    Attributes
    ----------
    task
        The task; None when the labels decide, "classification" when they decide between two and more classes.
    labels
        The labels that can be learned, before target stages.
    quantiles
        The quantiles that are predicted, each in (0, 1); empty for a model of one value.
    predicts_risk
        Of a survival model: whether its score is a risk (greater means earlier) and not a time.
    name
        What the user calls it, for errors.
    """

    task: Task | Literal["classification"] | None = None
    labels: LabelRange = ANY
    quantiles: tuple[float, ...] = ()
    predicts_risk: bool = False
    name: str = ""

    def check_labels(self, column: str, smallest: float, largest: float) -> None:
        """Raise DataError when labels between these two cannot be learned."""
        if not self.labels.holds(smallest, largest):
            raise DataError.here(
                f"the target {column!r} has labels that the objective {self.name!r} cannot learn.",
                f"Expected every label {self.labels}; got labels from {smallest:g} to {largest:g}.",
                "drop or correct these rows, or choose another objective.",
            )


def quantiles_of(value: Any, *, name: str = "quantile_alpha") -> tuple[float, ...]:
    """Return quantiles from a number or a list of numbers; empty for None.

    Raises ParameterError unless all are different and between 0 and 1, both excluded.
    """
    if value is None:
        return ()
    is_list = isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1
    values = list(value) if is_list else [value]
    try:
        quantiles = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        quantiles = ()
    if not quantiles or len({*quantiles}) < len(quantiles) or not all(0.0 < q < 1.0 for q in quantiles):
        raise ParameterError.value(name, "different numbers between 0 and 1, both excluded", value)
    return quantiles
