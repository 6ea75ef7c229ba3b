"""What all trials of a search share, and a configuration applied to it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from rayline.core.target import Target
from rayline.data.split.fold_cells import CellSlice, FoldCells
from rayline.evaluate import metrics
from rayline.evaluate.custom_metrics import Custom
from rayline.inference.pipeline import Preprocessor
from rayline.postprocess import chain
from rayline.postprocess.chain import Stages
from rayline.train.fit_inputs import ColumnRoles
from rayline.train.trainer import Trainer
from rayline.tune import space
from rayline.tune.postprocessing import with_parameters
from rayline.tune.row_groups import CELL, CellColumn
from rayline.tune.table_cache import fingerprint

WHERE = "tune.run"

_checking = threading.Lock()  # adapters that check arguments record warnings, which one thread at a time can do


@dataclass(frozen=True)
class SearchProblem:
    """The settings that all trials share, without the rows.

    Attributes
    ----------
    trainer, preprocessor
        The trainer and the preprocessor that are tuned; the preprocessor is None or not fitted.
    roles
        The columns of the raw rows; its `test_weight` is the column of weights in the rows that folds hold out.
    target
        Learned from all rows, so that every fold has the same classes. Target stages are fitted
        for each fold, and scores and metrics are on the scale of the labels.
    splits
        The folds of each set of cells (one set, unless the split is repeated); their order is that of the folds.
    metric
        A name of `rayline.evaluate.metrics`, or of the framework's history.
    seed
        The seed of the frameworks, if the trainer has none.
    n_threads
        The number of threads of each training.
    tuned
        The stages whose parameters are searched: prepared tables are kept before each of them.
    endless
        The tuned stages whose parameters differ in every trial.
    digest
        A digest of the rows, the split and everything else outside a configuration; empty when results are not stored.
    others
        Further metrics that are traded off against the first.
    log_train_metrics
        Whether the history of every training is needed; otherwise frameworks evaluate their rows only where a metric,
        early stopping or a callback needs it.
    postprocess
        The stages after the model, not fitted; the score is that of the predictions after them.
    """

    trainer: Trainer
    preprocessor: Preprocessor | None
    roles: ColumnRoles
    target: Target
    splits: Sequence[Sequence[FoldCells]]
    metric: str
    seed: int | None = None
    n_threads: int = 1
    tuned: Sequence[str] = ()
    endless: Sequence[str] = ()
    digest: str = ""
    others: Sequence[str] = ()
    log_train_metrics: bool = False
    postprocess: Stages = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics; the first is the score."""
        return self.metric, *self.others

    @property
    def custom_used(self) -> list[Any]:
        """The metrics that are custom functions."""
        return [self.custom[name].source for name in self.metrics if name in self.custom]

    @property
    def custom(self) -> Custom:
        """The custom metrics, by name."""
        return self.trainer.custom_metrics

    def computes(self, metric: str) -> bool:
        """Whether this metric is computed by Rayline, the same way for every framework."""
        return metrics.is_known(metric, self.custom)

    @property
    def folds(self) -> list[tuple[int, int, FoldCells]]:
        """All folds: the index of the set of cells, the index of the fold in it, and the cells."""
        return [(split, place, fold) for split, folds in enumerate(self.splits) for place, fold in enumerate(folds)]

    @property
    def schema(self) -> pl.Schema:
        """The columns of the raw rows."""
        return self.roles.schema

    def side(self, fold: int, *, training: bool) -> CellSlice:
        """Return the function that selects the rows of a side of a fold, with their cells."""
        split, _, cells = self.folds[fold]
        return CellSlice(CellColumn(f"{CELL}{split}"), cells.train if training else cells.test)

    def candidate(self, config: space.Config) -> TrialCandidate:
        """Return the trainer and the preprocessor of a configuration."""
        with _checking:
            return TrialCandidate(
                self, self.trainer_of(config), self.preprocessor_of(config), self.postprocess_of(config)
            )

    def trainer_of(self, config: space.Config) -> Trainer:
        """Return the trainer with the parameters of a configuration."""
        changes = space.split_space(config).trainer
        return self.trainer.replace(changes) if changes else self.trainer

    def preprocessor_of(self, config: space.Config) -> Preprocessor:
        """Return the unfitted preprocessor with the parameters of a configuration."""
        return (
            Preprocessor() if self.preprocessor is None else self.preprocessor.replace(space.split_space(config).stages)
        )

    def postprocess_of(self, config: space.Config) -> Stages:
        """Return the unfitted stages after the model with the parameters of a configuration."""
        return with_parameters(self.postprocess, space.split_space(config).postprocess)


@dataclass(frozen=True)
class TrialCandidate:
    """A configuration applied to the trainer and the stages."""

    problem: SearchProblem
    trainer: Trainer
    preprocessor: Preprocessor
    postprocess: Stages = ()

    def key(self, fold: int) -> str:
        """Return the digest of everything that its score on a fold depends on."""
        return fingerprint([self._digest, fold])

    @cached_property
    def _digest(self) -> str:
        problem, trainer, preprocessor = self.problem, self.trainer, self.preprocessor
        phases = [[phase.until, phase.args, phase.kwargs] for phase in trainer.phases]
        options = (
            phases,
            trainer.seed,
            trainer.num_workers,
            trainer.class_weight,
            trainer.pos_label,
            problem.seed,
            problem.n_threads,
        )
        stages = [list(leaf) for leaf in (*preprocessor.leaves, *preprocessor.target_stages)]
        about = [
            problem.digest,
            stages,
            trainer.framework,
            trainer.args,
            trainer.kwargs,
            options,
            problem.metrics,
            problem.custom_used,
        ]
        after = [chain.to_json(self.postprocess)] if self.postprocess else []
        return fingerprint([*about, *after])

    @cached_property
    def digests(self) -> Mapping[int, str]:
        """The digests of the first stages, up to each place where prepared tables are kept, and of all stages."""
        leaves = self.preprocessor.leaves
        names = [path.partition("/")[0] for path, _ in leaves]
        cuts = sorted({names.index(name) for name in self.problem.tuned if name in names} - {0})
        return {cut: fingerprint([list(leaf) for leaf in leaves[:cut]]) for cut in (*cuts, len(names))}

    def recurs(self, cut: int | None = None) -> bool:
        """Return whether other trials may have the same first stages: no parameter of these stages is continuous."""
        leaves = self.preprocessor.leaves if cut is None else self.preprocessor.leaves[:cut]
        return not any(path.partition("/")[0] in self.problem.endless for path, _ in leaves)

    @property
    def is_seeded(self) -> bool:
        """Whether the training is seeded, so that another evaluation gives the same score."""
        return (self.problem.seed if self.trainer.seed is None else self.trainer.seed) is not None

    @cached_property
    def labels(self) -> str:
        """The digest of the target stages."""
        return fingerprint([list(leaf) for leaf in self.preprocessor.target_stages])
