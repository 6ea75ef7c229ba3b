"""Metrics of the rows of all ranks, which a framework's adapter computes after each iteration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rayline.core.errors import ParameterError
from rayline.core.framework import Rows, TrainContext
from rayline.core.statistics.score_weights import ScoreWeights

Array = npt.NDArray[Any]

FEW_ROWS = 1 << 20
"""Rows of all ranks whose scores every rank gets; of more rows the ranks merge the weights at each different score."""

MAX_GATHERED = 1 << 23
"""Rows of all ranks up to which a function of the user's own is called, which needs all of them: 200 MB on every rank."""


class ScoreGathering:
    """Brings scores of the rows of all ranks together: the scores themselves where they are few, else statistics.

    Parameters
    ----------
    context
        This rank. All ranks create the object, and call its methods equally often.
    rows
        The rows of each set on this rank.
    """

    def __init__(self, context: TrainContext, rows: Mapping[str, Rows]) -> None:
        self._gather = context.gather
        everyone = context.gather({name: gathered.n_rows for name, gathered in rows.items()})
        self.n_rows: dict[str, int] = {name: sum(counts[name] for counts in everyone) for name in rows}

    def refuse_function(self, argument: str) -> None:
        """Raise ParameterError when a set has more rows than a function of the user's own takes, which is passed as this argument."""
        for name, n in self.n_rows.items():
            if n > MAX_GATHERED:
                raise ParameterError.here(
                    f"{argument} needs the scores of all rows at once, and the {name} set has {n:,} rows.",
                    f"Expected at most {MAX_GATHERED:,} on several workers.",
                    "pass a rayline.evaluate.MetricStatistic as metrics=[…], which is merged, or train on a sample.",
                )

    def is_small(self, name: str) -> bool:
        """Return whether the rows of a set are few."""
        return self.n_rows[name] <= FEW_ROWS

    def rows(self, scores: Array, truth: Array, weight: Array) -> tuple[Array, Array, Array]:
        """Return scores, labels and weights of the rows of all ranks."""
        scores, truth, weight = (
            np.concatenate(arrays) for arrays in zip(*self._gather((scores, truth, weight)), strict=True)
        )
        return scores, truth, weight

    def tables(self, scores: Sequence[Array], hits: Sequence[Array], weight: Array) -> list[ScoreWeights]:
        """Return the weights of the rows of all ranks at each different score, one table for each array of scores.

        `hits` says for each row whether it is positive, 0 or 1, or which part of it is.
        """
        states = [
            ScoreWeights.of(score, np.stack([weight * (1.0 - hit), weight * hit]))
            for score, hit in zip(scores, hits, strict=True)
        ]
        parts = zip(*self._gather(states), strict=True)
        return [ScoreWeights.merge_all(of_score) for of_score in parts]

    def sums(self, values: Array) -> Array:
        """Return the sums over all ranks."""
        return np.asarray(np.sum(self._gather(values), axis=0))


class MetricsOfRanks:
    """Metrics of the rows of all ranks that a library computes of each rank's own: every rank gets the same values, so that all stop together.

    Parameters
    ----------
    context
        This rank.
    sets
        What the library has made of the rows of each set ("train", "test").
    argument
        The trainer's argument with functions of the user's own.
    functions
        Such a function, several, or None.
    needed
        Whether other metrics need the scores of all ranks, too.

    Attributes
    ----------
    everyone
        Brings the scores together; None where nothing needs them.
    """

    def __init__(
        self, context: TrainContext, sets: Mapping[str, Any], argument: str, functions: Any, *, needed: bool
    ) -> None:
        given = functions if isinstance(functions, (list, tuple)) else [functions]
        self.own_functions: list[Callable[..., Any]] = [function for function in given if function is not None]
        self.rows = {"train": context.train, "test": context.test or context.train}
        self._names = {id(data): name for name, data in sets.items()}
        self.everyone = ScoreGathering(context, self.rows) if needed or self.own_functions else None
        if self.everyone is not None and self.own_functions:
            self.everyone.refuse_function(argument)

    def scored(self, predictions: Array, data: Any) -> tuple[str, Array, Array, Array]:
        """Return the name of a set, and the scores, labels and weights of its rows on this rank."""
        name = self._names[id(data)]
        rows = self.rows[name]
        weight = np.ones(rows.n_rows) if rows.weight is None else rows.weight
        return name, predictions[: rows.n_rows], rows.target, weight

    def called(self, name: str, scores: Array, truth: Array, weight: Array, make: Callable[..., Any]) -> list[Any]:
        """Return what the user's functions give for scores of all ranks; `make` makes the library's data of a matrix, labels and weights."""
        weights = None if self.rows[name].weight is None else weight
        data = make(np.zeros((len(truth), 1), np.float32), truth, weight=weights)
        results = [function(scores, data) for function in self.own_functions]
        return [one for values in results for one in (values if isinstance(values, list) else [values])]
