"""Ensemble selection over a Dataset: mixtures of held-out scores are measured in tasks, the driver gets one score per fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
import ray

from rayline.core.score_gathering import MAX_GATHERED
from rayline.core.target import Target
from rayline.evaluate import metrics
from rayline.evaluate.measured_rows import MeasuredRows
from rayline.evaluate.metric import Metric
from rayline.inference.members import averageable
from rayline.tune.search_problem import SearchProblem
from rayline.tune.stored_groups import StoredGroups, of_held_out, results
from rayline.tune.trial_record import mean

Array = npt.NDArray[Any]


class MixtureRows(NamedTuple):
    """The held-out rows of a fold in a group: labels, weights, and the scores of each candidate."""

    truth: Array
    weight: Array | None
    scores: list[Array]


@dataclass(frozen=True)
class _MixtureRowsOf:
    """Creates `MixtureRows` from held-out rows."""

    target: Target
    weight: str | None

    def __call__(self, rows: pl.DataFrame, scores: Sequence[Array], fold: int) -> MixtureRows:
        weight = None if self.weight is None else rows[self.weight].cast(pl.Float64).to_numpy()
        return MixtureRows(
            self.target.encode(rows), weight, [averageable(member_scores, self.target) for member_scores in scores]
        )


class StoredMixtures:
    """Mixtures of the scores of rows in the object store; see `ensemble.Mixtures`.

    Parameters
    ----------
    groups
        The rows.
    problem
        The search.
    candidates
        The scores of the held-out rows of each fold for each candidate, which are read piece by piece.

    Raises
    ------
    DataError
        When a fold has more held-out rows than a metric that needs all rows at once allows.
    """

    def __init__(self, groups: StoredGroups, problem: SearchProblem, candidates: Sequence[Sequence[Any]]) -> None:
        chosen = metrics.chosen([problem.metric], problem.custom, limit=MAX_GATHERED)
        for scores in candidates[0]:
            chosen[problem.metric].refuse_rows(len(scores))
        weight = problem.weight if problem.weighs_test else None
        self._folds = of_held_out(groups, problem, candidates, _MixtureRowsOf(problem.target, weight))
        self._work = ray.put((problem.target, chosen))
        self._added: list[int] = []
        self.n_candidates = len(candidates)

    def scores(self) -> list[float]:
        tasks = [
            [_score.remote(rows, [*self._added, candidate], [self._work]) for rows in self._folds]
            for candidate in range(self.n_candidates)
        ]
        return [mean([*results(of_candidate)]) for of_candidate in tasks]

    def add(self, candidate: int) -> None:
        self._added.append(candidate)


@ray.remote
def _score(groups: list[Any], added: list[int], work: list[Any]) -> float:
    """Return the metric of the mean of some candidates' scores, over the rows of a fold; one group is held at a time."""
    target: Target
    chosen: Mapping[str, Metric]
    target, chosen = ray.get(work[0])

    def measured() -> Iterator[MeasuredRows]:
        for reference in groups:
            rows: MixtureRows = ray.get(reference)
            total = np.zeros_like(rows.scores[0])
            for candidate in added:
                total = total + rows.scores[candidate]
            yield MeasuredRows.of(target, total / len(added), rows.truth, rows.weight, metrics=chosen)

    (score,) = MeasuredRows.gathered(measured()).values(chosen).values()
    return score
