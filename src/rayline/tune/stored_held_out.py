"""What is computed in Ray's tasks of the rows that the folds of a search hold out, next to the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import ray
import ray.data

from rayline.core.score_gathering import MAX_GATHERED
from rayline.core.target import Target
from rayline.evaluate import metrics
from rayline.evaluate.measured_rows import MeasuredRows
from rayline.evaluate.metric import Metric
from rayline.inference.calibration import HeldOutSample
from rayline.postprocess.base import CalibrationRows
from rayline.tune.ensemble import Array, MixtureRows, MixtureRowsOf
from rayline.tune.held_out import FoldSide, HeldOutFolds, HeldOutFunction, Predicted, Scores
from rayline.tune.stored_groups import StoredGroup, StoredGroups, results, stored_table
from rayline.tune.stored_scores import slices
from rayline.tune.trial_record import mean


@dataclass(frozen=True)
class HeldOutPiece:
    """The held-out rows of a fold in a group, and the position of their scores among those of the fold."""

    group: StoredGroup
    fold: int
    side: FoldSide
    start: int
    stop: int

    def frame(self) -> pl.DataFrame:
        """Read the rows from the object store."""
        return self.side(self.group.frame().lazy()).collect()


class StoredHeldOut(HeldOutFolds):
    """The folds of a search over rows in the object store."""

    groups: StoredGroups

    def of_each(self, scores: Scores, function: HeldOutFunction, columns: Sequence[str] | None = None) -> list[Any]:
        return [ray.data.from_arrow_refs(of_fold) for of_fold in self._references(scores, function, columns)]

    def predictions(self, scores: Sequence[Array]) -> ray.data.Dataset:
        blocks = self._references([scores], Predicted(self.problem.target))
        return ray.data.from_arrow_refs([reference for of_fold in blocks for reference in of_fold])

    def calibration_rows(self, scores: Sequence[Array], sample: HeldOutSample) -> CalibrationRows:
        parts = self._references([scores], sample, sample.columns)
        return sample.merged(results([reference for of_fold in parts for reference in of_fold]))

    def mixtures(self, scores: Scores) -> StoredMixtures:
        """Return the mixtures, measured in tasks. Raises DataError when a fold has more held-out rows than a metric that needs all
        rows at once allows."""
        problem = self.problem
        chosen = metrics.chosen([problem.metric], problem.custom, limit=MAX_GATHERED)
        for of_fold in scores[0]:
            chosen[problem.metric].refuse_rows(len(of_fold))
        rows = self._references(scores, MixtureRowsOf(problem.target, problem.roles.test_weight))
        return StoredMixtures(rows, len(scores), problem.target, chosen)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        (result,) = results([_called.remote(function, self.groups, *arguments)])
        return result

    def _references(
        self, scores: Scores, function: HeldOutFunction, columns: Sequence[str] | None = None
    ) -> list[list[Any]]:
        """Call a function with the held-out rows of each fold in each group, in tasks. Returns references to its results for each
        fold; tables are stored as Arrow tables."""
        work = ray.put(function)
        by_fold = []
        for fold in range(len(self.problem.folds)):
            pieces = [*self._pieces(fold, columns)]
            parts = slices([of_model[fold] for of_model in scores], [(piece.start, piece.stop) for piece in pieces])
            by_fold.append([_held_out.remote(piece, part, [work]) for piece, part in zip(pieces, parts, strict=True)])
        return by_fold

    def _pieces(self, fold: int, columns: Sequence[str] | None) -> Iterator[HeldOutPiece]:
        side, (split, _, cells), at = self.side(fold, columns), self.problem.folds[fold], 0
        for group, summary in zip(self.groups.groups, self.groups.summaries, strict=True):
            n_rows = sum(summary.n_cells[split].get(cell, 0) for cell in cells.test)
            if n_rows:
                yield HeldOutPiece(group, fold, side, at, at + n_rows)
            at += n_rows


class StoredMixtures:
    """Mixtures of the scores of rows in the object store; see `ensemble.Mixtures`.

    Parameters
    ----------
    folds
        For each fold references to the `MixtureRows` of each group.
    n_candidates
        The number of models.
    target, chosen
        The target, and the metric by its name.
    """

    def __init__(
        self, folds: Sequence[Sequence[Any]], n_candidates: int, target: Target, chosen: Mapping[str, Metric]
    ) -> None:
        self._folds, self.n_candidates = folds, n_candidates
        self._work = ray.put((target, chosen))
        self._added: list[int] = []

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


@ray.remote
def _held_out(piece: HeldOutPiece, scores: list[Any], work: list[Any]) -> Any:
    value = ray.get(work[0])(piece.frame(), scores, piece.fold)
    return stored_table(value) if isinstance(value, pl.DataFrame) else value


@ray.remote
def _called(function: Any, *arguments: Any) -> Any:
    return function(*arguments)
