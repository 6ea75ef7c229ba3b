"""What is computed of the rows that the folds of a search hold out: here for a table, in `stored_held_out` for rows on Ray."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from rayline.core.schema import col
from rayline.core.target import Target
from rayline.data.split.fold_cells import CellSlice
from rayline.inference.calibration import HeldOutSample
from rayline.postprocess.base import CalibrationRows
from rayline.train.cross_validation import predicted
from rayline.tune.ensemble import Array, MixtureRowsOf, Mixtures, TableMixtures
from rayline.tune.row_groups import RowGroups, TableGroups
from rayline.tune.search_problem import SearchProblem

Scores: TypeAlias = Sequence[Sequence[Array]]
"""For each model the scores of the held-out rows of each fold."""

HeldOutFunction: TypeAlias = Callable[[pl.DataFrame, Sequence[Array], int], Any]
"""A function of held-out rows of a fold, each model's scores for them, and the number of the fold."""


class HeldOutFolds(ABC):
    """The folds of a search, with their rows.

    Parameters
    ----------
    groups, problem
        The rows with their cells, and the folds.
    """

    def __init__(self, groups: RowGroups, problem: SearchProblem) -> None:
        self.groups, self.problem = groups, problem

    def training(self, fold: int) -> Any:
        """Return the training rows of a fold: a table, or a Dataset if they are in the object store."""
        return self.groups.after(self.side(fold, training=True))

    def tested(self, fold: int) -> Any:
        """Return the held-out rows of a fold, in the form of `training`."""
        return self.groups.after(self.side(fold))

    def side(self, fold: int, columns: Sequence[str] | None = None, *, training: bool = False) -> FoldSide:
        """Return the function that selects the held-out rows of a fold, or the training rows, and all columns or some of them."""
        return FoldSide(self.problem.side(fold, training=training), columns or list(self.problem.schema))

    @abstractmethod
    def of_each(self, scores: Scores, function: HeldOutFunction, columns: Sequence[str] | None = None) -> list[Any]:
        """Return the table that a function makes of the held-out rows of each fold, or a Dataset.

        Parameters
        ----------
        scores
            Those of each model, mapped from files.
        function
            Returns a table.
        columns
            The columns that it reads; all when omitted.
        """

    @abstractmethod
    def predictions(self, scores: Sequence[Array]) -> Any:
        """Return the held-out rows of all folds with predictions from these scores: a table, or a Dataset."""

    @abstractmethod
    def calibration_rows(self, scores: Sequence[Array], sample: HeldOutSample) -> CalibrationRows:
        """Return the rows that stages after the model learn from: all rows of a table, or a sample of a Dataset."""

    @abstractmethod
    def mixtures(self, scores: Scores) -> Mixtures:
        """Return the weighted mixtures of models, measured in the process that has the rows."""

    @abstractmethod
    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function with the groups of rows where they may be read, and return its result."""


@dataclass(frozen=True)
class FoldSide:
    """A function that selects some columns of the rows of a side of a fold."""

    rows: CellSlice
    columns: Sequence[str]

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return self.rows(table).select(map(col, self.columns))


@dataclass(frozen=True)
class Predicted:
    """A function that adds the predictions of the first model to held-out rows."""

    target: Target

    def __call__(self, rows: pl.DataFrame, scores: Sequence[Array], fold: int) -> pl.DataFrame:
        return predicted(rows, scores[0], self.target, fold)


class TableHeldOut(HeldOutFolds):
    """The folds of a search over a table."""

    groups: TableGroups

    def of_each(self, scores: Scores, function: HeldOutFunction, columns: Sequence[str] | None = None) -> list[Any]:
        tables = enumerate(self._tables(columns))
        return [function(rows, [np.array(of_model[fold]) for of_model in scores], fold) for fold, rows in tables]

    def _tables(self, columns: Sequence[str] | None) -> Iterator[pl.DataFrame]:
        """Yield the held-out rows of each fold."""
        engine = self.groups.engine
        for fold in range(len(self.problem.folds)):
            yield engine.collect(engine.map(self.groups, self.side(fold, columns)))

    def predictions(self, scores: Sequence[Array]) -> Any:
        return pl.concat(self.of_each([scores], Predicted(self.problem.target)))

    def calibration_rows(self, scores: Sequence[Array], sample: HeldOutSample) -> CalibrationRows:
        return sample.whole([*zip(self._tables(sample.columns), map(np.array, scores), strict=True)])

    def mixtures(self, scores: Scores) -> Mixtures:
        problem, roles = self.problem, self.problem.roles
        held = self.of_each(scores, MixtureRowsOf(problem.target, roles.test_weight), roles.measured_by)
        return TableMixtures(held, problem.target, problem.metric, problem.custom)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self.groups, *arguments)
