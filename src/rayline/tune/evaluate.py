"""The evaluation of a configuration on a fold: fit the stages on the training slice, train, score the held-out rows.

This module does not use Ray. A `FoldEvaluator` has caches: it keeps the results of every scan, the fitted stages, and the
prepared tables of each fold, so that another configuration recomputes only what it changes.
"""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from rayline import device
from rayline.core.errors import DataError, ParameterError, at, nearest
from rayline.core.features import Features
from rayline.core.framework import Rows
from rayline.core.operations.base import Operation, apply_all
from rayline.core.stage import Stage, operations_of
from rayline.evaluate import metrics
from rayline.preprocessing.cross_fit import FoldFitter, KnownStatistics
from rayline.train import memory_check
from rayline.train.fit_request import WEIGHT, FitRequest, Leaves, TrainingSpec, resolve
from rayline.train.trainer import Trainer
from rayline.train.training_phases import Phase
from rayline.train.worker import LocalWorker, train_on, train_on_ray
from rayline.tune.postprocessing import cross_fitted
from rayline.tune.row_groups import CELL, GROUP_ROWS, CellColumn, GroupEngine, RowGroups, TableGroups
from rayline.tune.search_problem import WHERE, SearchProblem, TrialCandidate
from rayline.tune.table_cache import TableCache
from rayline.tune.trial_record import FoldScore

LABELS = "rayline:labels"
"""The key of a table's memo under which the digest of the target stages is kept."""

HELD_OUT = "rayline:held_out"
"""The key of the training rows' memo under which the held-out rows of the fold are kept, if they are few."""

HELD_OUT_BYTES = 4 << 20
"""Held-out rows up to this size are kept in the form that the framework predicts: of more the conversion takes little of a trial."""

FITTED = 64
"""The number of fitted preprocessors kept for each fold."""

Array = npt.NDArray[Any]
History = list[dict[str, float]]
Memo = dict[Any, Any] | None


class Shared(Protocol):
    """A cache that several evaluators share: one computes the value of a key, the others get it."""

    def get(self, key: tuple[Any, ...], make: Callable[[], Any], /) -> Any: ...
    def parts(self, key: tuple[Any, ...], make: Callable[[], Iterator[pl.DataFrame]], /) -> list[pl.DataFrame]: ...


class FoldEvaluation(NamedTuple):
    """The score of a fold, the model's scores of the held-out rows (values on the scale of the labels), and the history of
    the training."""

    score: FoldScore
    scores: Array
    history: History


class TrainingPart(NamedTuple):
    """A part of a training: the checkpoint it resumes from, and the callback that receives the writer of the next checkpoint."""

    phase: Phase
    resume: Path | None
    keep: Callable[[Callable[[Path], None]], None]


class FoldEvaluator:
    """Score configurations on folds; caches avoid repeated computation.

    Parameters
    ----------
    problem
        The trainer, the stages and the folds.
    rows
        The raw rows in the types of the schema, with their cells; a table stands for its groups.
    max_bytes
        Memory for prepared tables.
    shared
        The cache that is shared with other evaluators; None when there are no others.
    stopping
        A function that is called after each iteration of a training: True ends the training, and its score is not used.
    engine
        The engine that scans the rows; that of this process when omitted.
    known
        The statistics computed by `scan_ahead`.

    Several threads may use one evaluator: they prepare one after another, with all the threads of Polars, and train and
    predict concurrently. The framework's form of a table is kept for each thread.
    """

    def __init__(
        self,
        problem: SearchProblem,
        rows: RowGroups | pl.DataFrame,
        *,
        max_bytes: int = 1 << 30,
        shared: Shared | None = None,
        stopping: Callable[[], bool] = lambda: False,
        engine: GroupEngine | None = None,
        known: Sequence[KnownStatistics] | None = None,
    ) -> None:
        self._rows = rows if isinstance(rows, RowGroups) else TableGroups([rows])
        self.problem, self._shared, self._stopping = problem, shared, stopping
        self._preparing = threading.RLock()
        self._tables = TableCache(max_bytes)
        self._fits: list[dict[str, tuple[list[Stage], TrainingSpec]]] = [{} for _ in problem.folds]
        self._folds = problem.folds
        self.fitters = [
            FoldFitter(
                engine or GroupEngine(), self._rows, problem.schema, CellColumn(f"{CELL}{split}"), folds,
                targets=problem.target.columns, excluded_columns=problem.roles.excluded_columns,
                known=None if known is None else known[split],
            )
            for split, folds in enumerate(problem.splits)
        ]  # fmt: skip

    @at(WHERE)
    def __call__(self, candidate: TrialCandidate, fold: int, part: TrainingPart | None = None) -> FoldEvaluation:
        """Fit, train and score; `part` selects a part of the training, by default all of it.

        Raises RaylineError when a stage cannot learn from the slice, the framework fails, or the metric is not defined there.
        """
        problem = self.problem
        trainer = candidate.trainer
        begun = time.perf_counter()
        train, test, learned, memo = self._prepared(candidate, fold)
        if not test.height:
            raise DataError.here(f"fold {fold + 1} holds out no rows.", "Expected at least one.", "use fewer folds.")
        native, history = self._train(trainer, learned, train, test, memo, part)
        trained = time.perf_counter()
        best = trainer.adapter.best_iteration(native)
        scores, measure = self._scored(candidate, native, learned, test, memo)
        predicted = time.perf_counter()
        main_score, *others = [self._score(metric, measure, history, best, fold) for metric in problem.metrics]
        score = FoldScore(
            fold,
            main_score,
            test.height,
            trained - begun,
            predicted - trained,
            iterations=best + 1 if best is not None else len(history) or None,
            key=candidate.key(fold) if problem.digest else "",
            others=tuple(others),
        )
        return FoldEvaluation(score, scores, [row for row in history if len(row) > 1])

    @at(WHERE)
    def scan_ahead(self, candidate: TrialCandidate) -> list[KnownStatistics]:
        """Compute the statistics of all folds that a configuration needs, and return them for other evaluators of these rows.

        Raises RaylineError when its stages cannot be fitted.
        """
        first = [
            next(i for i, (split, _, _) in enumerate(self._folds) if split == split_number)
            for split_number in range(len(self.fitters))
        ]
        for fold in first:
            self._fitted(candidate, fold)
        return [fitter.known for fitter in self.fitters]

    @at(WHERE)
    def refuse_too_large(self, candidate: TrialCandidate) -> None:
        """Raise ResourceError when the training rows of the first fold, as a configuration prepares them, fit on no node of the cluster,
        of rows whose groups know their cells."""
        (split, _, cells), (_, learned) = self._folds[0], self._fitted(candidate, 0)
        counts = (summary.n_cells[split] for summary in self._rows.summaries)
        n_rows = sum(n for count in counts for cell, n in count.items() if cell in cells.train)
        scaling = candidate.trainer.scaling
        on_a_worker = scaling if scaling.num_workers is not None else replace(scaling, num_workers=1)
        memory_check.refuse_too_large(FitRequest.of(candidate.trainer.scaled(on_a_worker), learned), n_rows)

    @at(WHERE)
    def history(self, candidate: TrialCandidate, fold: int) -> History:
        """Train on a fold with the held-out rows as test set, and return the framework's history. Raises as a call does."""
        train, test, learned, memo = self._prepared(candidate, fold)
        return self._train(candidate.trainer, learned, train, test, memo, shown=True)[1]

    # -- the rows of a fold ----------------------------------------------------------------------------------------

    def _prepared(self, candidate: TrialCandidate, fold: int) -> tuple[Any, Any, TrainingSpec, Memo]:
        """Return the training and the held-out rows of a fold in the framework's form, and the specification learned from them."""
        with self._preparing:
            return self._prepared_alone(candidate, fold)

    def _prepared_alone(
        self, candidate: TrialCandidate, fold: int
    ) -> tuple[pl.DataFrame, pl.DataFrame, TrainingSpec, Memo]:
        leaves, digests, labels = candidate.preprocessor.leaves, candidate.digests, candidate.labels
        digest = digests[len(leaves)]
        fitted, learned = self._fit(candidate, fold, digest + labels)
        # Class weights differ between training and test rows, and a stage may treat them differently.
        train = self._transformed(candidate, fold, fitted, learned, training=True)
        test = self._transformed(candidate, fold, fitted, learned, training=False)
        memo = self._tables.memo(prepared_key(fold, digest, training=True))
        if memo is not None:
            memo = memo.setdefault(threading.get_ident(), {})
        if memo is not None and memo.setdefault(LABELS, labels) != labels:
            memo.clear()  # the frameworks' forms of a table contain the labels after the target stages
            memo[LABELS] = labels
        return train, test, learned, memo

    def _fit(self, candidate: TrialCandidate, fold: int, digest: str) -> tuple[list[Stage], TrainingSpec]:
        kept = self._fits[fold]
        if digest not in kept:
            if len(kept) >= FITTED:
                kept.pop(next(iter(kept)))
            kept[digest] = self._make((fold, "fit", digest), lambda: self._fitted(candidate, fold), candidate.recurs())
        return kept[digest]

    def _fitted(self, candidate: TrialCandidate, fold: int) -> tuple[list[Stage], TrainingSpec]:
        problem, trainer, preprocessor = self.problem, candidate.trainer, candidate.preprocessor
        named = preprocessor.target_stages
        split, place, _ = self._folds[fold]
        spec, fit = resolve(
            trainer,
            problem.roles,
            preprocessor.leaves,
            named,
            lambda requests: self.fitters[split].fit(
                place, preprocessor.leaves, extra_requests=requests, target_leaves=named
            ),
            target=problem.target,
        )
        return fit.leaves, spec

    def _make(self, key: tuple[Any, ...], make: Callable[[], Any], recurs: bool) -> Any:
        """Get a value from the shared cache or compute it; a value that no other trial can use is not shared."""
        return self._shared.get(key, make) if self._shared is not None and recurs else make()

    def _transformed(
        self, candidate: TrialCandidate, fold: int, fitted: Sequence[Stage], learned: TrainingSpec, *, training: bool
    ) -> pl.DataFrame:
        """Return the rows of a side of a fold in the framework's form, starting from the last cached stage."""
        leaves, digests = candidate.preprocessor.leaves, candidate.digests
        prepare = learned.prepare(None, test=not training)

        def raw() -> Iterator[pl.LazyFrame]:
            rows = self.problem.side(fold, training=training)
            for frame in self._rows.frames():
                yield rows(frame.lazy()).drop(cs.starts_with(CELL))

        def parts(cut: int) -> Iterator[pl.LazyFrame]:
            """Return the groups after the first stages."""
            if not cut:
                return raw()
            before = max((c for c in digests if c < cut), default=0)
            operations = operations_between(leaves[before:cut], fitted[before:cut], training=training)
            return (apply_all(operations, part) for part in after(before))

        def after(cut: int) -> Iterator[pl.LazyFrame]:
            if cut and cut < len(leaves):
                key = (fold, training, digests[cut])
                table = kept(key, lambda: (part.collect() for part in parts(cut)), cut)
                return (part.lazy() for part in (table.iter_slices(GROUP_ROWS) if table.height else [table]))
            return parts(cut)

        def kept(key: tuple[Any, ...], make: Callable[[], Iterator[pl.DataFrame]], cut: int) -> pl.DataFrame:
            recurs = candidate.recurs(cut)
            if self._shared is not None and not (training and recurs):
                # Held-out rows are read again from the object store without a copy, and other rows never come again.
                return self._joined(key, make, recurs)
            size = None if self._shared is None else remembered
            return self._tables.get(key, lambda: self._joined(key, make, recurs), size)

        def remembered(table: pl.DataFrame) -> int:
            """The memory of this process behind a table in the object store: what the framework makes of it."""
            trainer = candidate.trainer
            return trainer.adapter.remembered_bytes(table.height, table.width, *trainer.args, **trainer.kwargs)

        key = prepared_key(fold, digests[len(leaves)], training=training)
        return kept(key, lambda: (prepare(part).collect() for part in after(len(leaves))), len(leaves))

    def _joined(self, key: tuple[Any, ...], make: Callable[[], Iterator[pl.DataFrame]], recurs: bool) -> pl.DataFrame:
        """Concatenate the groups of a table, or get the result from the shared cache."""
        share = self._shared is not None and recurs
        parts = self._shared.parts(key, make) if self._shared is not None and share else [*make()]
        return parts[0] if len(parts) == 1 else pl.concat(parts, rechunk=False)

    # -- training and scoring --------------------------------------------------------------------------------------

    def _train(
        self, trainer: Trainer, learned: TrainingSpec, train: Any, test: Any, memo: Memo,
        part: TrainingPart | None = None, *, shown: bool = False,
    ) -> tuple[Any, History]:  # fmt: skip
        problem = self.problem
        shown |= self._needs_test_rows(trainer)
        request = FitRequest.of(
            trainer,
            learned,
            seed=trainer.seed if trainer.seed is not None else problem.seed,
            log_train_metrics=problem.log_train_metrics or shown or bool(trainer.kwargs.get("callbacks")),
            phases=trainer.phases if part is None else (part.phase,),
            fingerprint=False,
        )
        memory_check.refuse_too_large(request, train.height)
        history: History = []

        def report(iteration: int, metrics: Mapping[str, float]) -> bool:
            history.append({"iteration": float(iteration), **metrics})
            return self._stopping()

        def checkpoint(iteration: int, save: Callable[[Path], None]) -> None:
            """Store the checkpoint at the end of a part; a whole fold is trained again, not resumed."""
            if part is not None and iteration + 1 == part.phase.until:
                part.keep(save)

        if trainer.num_workers is None:
            worker = LocalWorker(
                [lambda: train], [lambda: test] if shown else None, report, checkpoint, problem.n_threads,
                resume=None if part is None else part.resume,
            )  # fmt: skip
            return train_on(request, worker, memo).native, history
        outcome = train_on_ray(
            request,
            train=train,
            test=test if shown else None,
            prepare=_unchanged,
            prepare_test=_unchanged,
            on_report=report,
            on_checkpoint=lambda iteration, directory: None,
            checkpoint_every=None,
        )
        return outcome.native, history

    def _needs_test_rows(self, trainer: Trainer) -> bool:
        """Return whether the framework gets the held-out rows: for early stopping, or for a metric that only it can compute."""
        argument = trainer.adapter.validation_argument(*trainer.args, **trainer.kwargs)
        return bool(argument) or not all(map(self.problem.computes, self.problem.metrics))

    def _scored(
        self, candidate: TrialCandidate, native: Any, learned: TrainingSpec, test: Any, memo: Memo
    ) -> tuple[Any, Callable[[str], float]]:
        """Return the model's scores of the held-out rows, and a function that computes a metric of them."""
        trainer = candidate.trainer
        if trainer.wants_gpu and trainer.adapter.predicts_on_gpu:
            native = trainer.adapter.place(native, device.select_device(None))
        rows, features = self._held_out(learned, test, memo)
        scores = learned.target.values(trainer.adapter.scores(native, features, learned.target))
        return scores, self._measure(candidate, scores, lambda: (rows.target, rows.weight))

    def _held_out(self, learned: TrainingSpec, test: pl.DataFrame, memo: Memo) -> tuple[Rows, Features]:
        """Return the held-out rows and their features, which small tables keep from trial to trial."""
        kept: tuple[Rows, Features] | None = None if memo is None else memo.get(HELD_OUT)
        if kept is None:
            weight = None if self.problem.roles.test_weight is None else WEIGHT
            rows = Rows.of(test, learned.features, self.problem.target, weight)
            kept = rows, rows.features
            if memo is not None and rows.size_bytes <= HELD_OUT_BYTES:
                memo[HELD_OUT] = rows, kept[1].kept()
        return kept

    def _measure(
        self, candidate: TrialCandidate, scores: Array, rows: Callable[[], tuple[Array, Array | None]]
    ) -> Callable[[str], float]:
        """Return a function that computes a metric of scores; `rows` returns the labels and the weights."""
        problem = self.problem

        @functools.cache
        def shown() -> tuple[Array, Array, Array | None]:
            truth, weight = rows()
            # The stages for some rows are learned from other rows of the fold.
            after = cross_fitted(
                candidate.postprocess, problem.target, scores, truth, weight, candidate.trainer.framework
            )
            return after, truth, weight

        return lambda metric: metrics.evaluate([metric], problem.target, *shown(), problem.custom)[metric]

    def _score(
        self, metric: str, measure: Callable[[str], float], history: History, best: int | None, fold: int
    ) -> float:
        problem = self.problem
        score = measure(metric) if problem.computes(metric) else reported(metric, history, best)
        if not math.isfinite(score):
            raise DataError.here(
                f"{metric} of fold {fold + 1} is {score}.",
                "Expected a number; a ranking needs rows of each class, with weights above 0, among the held-out rows.",
                "use fewer folds, or a stratified split.",
            )
        return float(score)


def reported(metric: str, history: History, best: int | None = None) -> float:
    """Return a metric that the framework reports, of the best iteration or the last. Raises ParameterError when there is none."""
    # By its number: the history of a part of a training does not start with the first iteration.
    last = next((row for row in history if row["iteration"] == best), history[-1] if history else {})
    name = metrics.resolve_name(metric, list(last))
    if name is None:
        reported = sorted(n for n in last if n.startswith("test-"))
        near = nearest(metric, [*metrics.names(), *reported])
        raise ParameterError.here(
            f"unknown metric {metric!r}.",
            f"Expected one of {metrics.names()}, or what the framework reports: {reported}.",
            f"did you mean {near}?" if near else "check the spelling against the documentation.",
        )
    return last[name]


def operations_between(leaves: Leaves, fitted: Sequence[Stage], *, training: bool) -> list[Operation]:
    """Return the operations of some stages; held-out rows skip resampling."""
    return [
        operation
        for (path, _), stage in zip(leaves, fitted, strict=True)
        if training or not stage.resamples
        for operation in operations_of(path, stage, training=training)
    ]


def prepared_key(fold: int, digest: str, *, training: bool) -> tuple[Any, ...]:
    return fold, training, "prepared", digest


def _unchanged(table: pl.LazyFrame) -> pl.LazyFrame:
    return table
