"""The folds of trials with workers over a Dataset: prepared, trained and scored piece by piece, so that no process holds a fold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs
import ray

from rayline.core.engine import StoredBlocks
from rayline.core.framework import Rows
from rayline.core.operations.base import Operation, apply_all
from rayline.core.score_gathering import FEW_ROWS
from rayline.core.stage import Stage
from rayline.core.target import Target
from rayline.data.split.fold_cells import CellSlice
from rayline.evaluate import metrics
from rayline.evaluate.measured_rows import MeasuredRows
from rayline.evaluate.metric import Metric
from rayline.inference.model import pack, unpack
from rayline.train.fit_request import WEIGHT, FitRequest, RowPreparation, TrainingSpec
from rayline.tune.evaluate import FoldEvaluator, Memo, operations_between, prepared_key
from rayline.tune.row_groups import CELL
from rayline.tune.search_problem import SearchProblem, TrialCandidate
from rayline.tune.shared_cache import SharedCache
from rayline.tune.stored_groups import StoredGroups, TaskGroupEngine, prepared_blocks, scored_blocks
from rayline.tune.stored_scores import StoredScores

Array = npt.NDArray[Any]


class StoredFoldEvaluator(FoldEvaluator):
    """Score configurations on folds whose rows stay in the object store.

    Tasks prepare the groups of rows, each worker of a training reads its share of the result, and tasks score the held-out
    rows. This process gets the model, and for more than `FEW_ROWS` rows the statistics of the metrics instead of the scores.
    Parameters are those of `FoldEvaluator`.
    """

    _shared: SharedCache | None
    _rows: StoredGroups

    def __init__(self, problem: SearchProblem, rows: StoredGroups, **options: Any) -> None:
        self._n_tasks = problem.trainer.num_workers or 1
        super().__init__(problem, rows, engine=TaskGroupEngine(self._n_tasks), **options)

    def _prepared(self, candidate: TrialCandidate, fold: int) -> tuple[Any, Any, TrainingSpec, Memo]:
        digest = candidate.digests[len(candidate.preprocessor.leaves)]
        fitted, learned = self._fit(candidate, fold, digest + candidate.labels)
        train, test = (self._blocks(candidate, fold, fitted, learned, training=side) for side in (True, False))
        return train, test, learned, None

    def _blocks(
        self, candidate: TrialCandidate, fold: int, fitted: Sequence[Stage], learned: TrainingSpec, *, training: bool
    ) -> StoredBlocks:
        """Return the rows of a side of a fold in the form that workers read."""
        leaves = candidate.preprocessor.leaves
        operations = operations_between(leaves, fitted, training=training)
        function = _PreparedSide(
            self.problem.side(fold, training=training), operations, learned.prepare(None, test=not training)
        )
        make = functools.partial(prepared_blocks, self._rows, function, self._n_tasks)
        key = prepared_key(fold, candidate.digests[len(leaves)], training=training)
        if self._shared is not None and candidate.recurs():
            shared = self._shared
            blocks: StoredBlocks = shared.get((*key, "blocks"), lambda: shared.run(make))
            return blocks
        return self._tables.get(key, make)

    def _scored(
        self, candidate: TrialCandidate, native: Any, learned: TrainingSpec, test: StoredBlocks, memo: Memo
    ) -> tuple[StoredScores, Callable[[str], float]]:
        problem, adapter = self.problem, candidate.trainer.adapter
        computed = metrics.chosen([name for name in problem.metrics if problem.computes(name)], problem.custom)
        needs_rows = bool(candidate.postprocess) or any(metric.max_rows is not None for metric in computed.values())
        are_few = needs_rows or test.height <= FEW_ROWS
        score = _BlockScores(
            FitRequest.of(candidate.trainer, learned),
            pack(adapter, native),
            adapter.load_options(native),
            problem.target,
            None if problem.roles.test_weight is None else WEIGHT,
            None if are_few else computed,
        )
        scores, parts = scored_blocks(test, score, self._n_tasks)
        if are_few:
            whole = np.concatenate(ray.get(scores.references))
            return scores, self._measure(candidate, whole, lambda: _joined(parts))
        values = MeasuredRows.gathered(iter(parts)).values(computed)
        return scores, values.__getitem__


@dataclass(frozen=True)
class _PreparedSide:
    """Prepares the rows of a side of a fold."""

    side: CellSlice
    operations: Sequence[Operation]
    prepare: RowPreparation

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return self.prepare(apply_all(self.operations, self.side(table).drop(cs.starts_with(CELL))))


@dataclass(frozen=True)
class _BlockScores:
    """Scores a block of prepared rows with a model. Returns the scores on the scale of the labels, and either the statistics of
    metrics or the labels and the weights."""

    request: FitRequest
    files: Mapping[str, bytes]
    load_options: Mapping[str, Any]
    target: Target
    weight: str | None
    metrics: Mapping[str, Metric] | None

    def __call__(self, table: pl.DataFrame) -> tuple[Array, Any]:
        adapter, spec = self.request.adapter, self.request.spec
        native = unpack(adapter, self.files, self.load_options)
        rows = Rows.of(table, spec.features, self.target, self.weight)
        scores = spec.target.values(adapter.scores(native, rows.features, spec.target))
        if self.metrics is None:
            return scores, (rows.target, rows.weight)
        return scores, MeasuredRows.of(self.target, scores, rows.target, rows.weight, metrics=self.metrics)


def _joined(parts: Sequence[tuple[Array, Array | None]]) -> tuple[Array, Array | None]:
    """Concatenate the labels and the weights of all blocks."""
    truth, weight = [array for array, _ in parts], [array for _, array in parts if array is not None]
    return np.concatenate(truth), np.concatenate(weight) if weight else None
