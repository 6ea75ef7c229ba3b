"""The statistics of scored rows that some metrics need: what the workers of a training merge, in place of their scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from rayline.core.statistics.base import Statistic
from rayline.evaluate.batch import batches
from rayline.evaluate.metric import Metric, Part

ONCE = np.ones((1, 1))
"""The multiplicity of a metric without replicates."""

BUFFERED = 16
"""States that are merged together: a table of scores is as large as many pieces of rows."""


@dataclass(frozen=True, eq=False)
class MeasuredRows(Statistic):
    """The statistics of rows that some metrics need, for each target column, with the number of rows and the sum of their weights.

    `of(target, scores, truth, weight, metrics=…)` takes what `Framework.predict` and `Target.truth` give, and the metrics by
    their names.
    """

    parts: Sequence[Mapping[Part, Any]] = ()  # nothing without rows
    n_rows: int = 0
    weight: float = 0.0

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        target, scores, truth, weight = values
        metrics: Mapping[str, Metric] = options["metrics"]
        if not len(truth):
            return cls()
        states = []
        for batch in batches(target, scores, truth, weight):
            needed = dict.fromkeys(part for metric in metrics.values() for part in metric.parts(len(batch.classes)))
            states.append({part: part.of(batch) for part in needed})
        return cls(states, len(truth), float(len(truth) if weight is None else weight.sum()))

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        filled = [state for state in states if state.n_rows]
        if len(filled) < 2:
            return filled[0] if filled else cls()
        merged = [
            {part: part.merged([parts[part] for parts in of_target]) for part in of_target[0]}
            for of_target in zip(*(state.parts for state in filled), strict=True)
        ]
        return cls(merged, sum(state.n_rows for state in filled), sum(state.weight for state in filled))

    @classmethod
    def gathered(cls, states: Iterator[Self]) -> Self:
        """Return the statistics of many states, of which only a few are held at a time."""
        held: list[Self] = []
        for state in states:
            held.append(state)
            if len(held) > BUFFERED:
                held = [cls.merge_all(held)]
        return cls.merge_all(held)

    def values(self, metrics: Mapping[str, Metric]) -> dict[str, float]:
        """Return the metrics by their names, the mean over the targets when there are several; NaN without rows or weight.

        Raises TrainingError when a function of the user's own fails. Raises DataError when there are more rows than a metric
        takes that needs all of them at once.
        """
        if not self.weight > 0:
            return dict.fromkeys(metrics, float("nan"))
        return {
            name: float(np.mean([metric.value(parts, ONCE)[0] for parts in self.parts]))
            for name, metric in metrics.items()
        }
