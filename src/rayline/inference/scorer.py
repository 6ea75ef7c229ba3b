"""Scores for raw rows: a fitted preprocessor, a model and postprocessing stages applied one after the other.

Everything that predicts or saves works on a `Scorer`: batches, artifacts and, on top of them, the `InferencePipeline`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Generic, Self, TypeVar

import numpy as np
import polars as pl

from rayline.core.errors import ParameterError, SchemaError, at
from rayline.core.operations.base import Row
from rayline.core.schema import col
from rayline.core.target import Target
from rayline.device import UseGPU
from rayline.inference.model import Model, Scores
from rayline.postprocess.base import Outcome, PostprocessingStage, RowOutcome, group_text, group_texts, interval_names
from rayline.postprocess.chain import StageChain
from rayline.preprocessing.preprocessor import BasePreprocessor
from rayline.preprocessing.schema_check import SchemaCheck
from rayline.preprocessing.value_readers import row_check

P = TypeVar("P", bound=BasePreprocessor)


class Scorer(Generic[P]):
    """A fitted preprocessor, a model and postprocessing stages: raw rows in, scores out.

    Parameters
    ----------
    preprocessor
        A fitted preprocessor, or None when the model takes raw rows.
    model
        The model; its features are columns that the preprocessor returns.
    postprocessing
        Fitted stages that change the model's scores.

    Raises
    ------
    ParameterError
        When the model is no Model, or the preprocessor no Preprocessor.
    SchemaError
        When the preprocessor does not return a feature of the model.
    """

    def __init__(
        self, preprocessor: P | None, model: Model, postprocessing: Sequence[PostprocessingStage] = ()
    ) -> None:
        if not isinstance(model, Model):
            raise ParameterError.value("model", "a rayline.Model", model, where=type(self).__name__)
        if preprocessor is not None and not isinstance(preprocessor, BasePreprocessor):
            raise ParameterError.value(
                "preprocessor", "a Preprocessor, or None", preprocessor, where=type(self).__name__
            )
        if preprocessor is not None:
            lacking = [n for n in model.feature_names if n not in preprocessor.output_schema]
            if lacking:
                raise SchemaError.missing(lacking, preprocessor.output_schema, where="Preprocessor.chain (the model)")
        # A copy, here and below: fitting the preprocessor again must not change this object.
        self._preprocessor, self.model = copy.copy(preprocessor), model
        self._chain = StageChain(postprocessing, model.target)

    @property
    def preprocessor(self) -> P | None:
        """The fitted preprocessor (a copy), None when the model takes raw rows."""
        return copy.copy(self._preprocessor)

    def with_model(self, model: Model) -> Self:
        """Return this scorer with another model of the same features and target.

        Parameters
        ----------
        model
            The other model; its schema is not compared.

        Returns
        -------
        Scorer
            This object when the model is its own. Preprocessor and stages are shared.
        """
        if model is self.model:
            return self
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.model = model
        return other

    def on_gpu(self, use_gpu: UseGPU | None = True) -> Self:
        """Return this scorer with its model's predictions computed there.

        Parameters
        ----------
        use_gpu
            As in `Model.on_gpu`.

        Returns
        -------
        Scorer
            This object when nothing changes.

        Raises
        ------
        ParameterError, ResourceError
            As `Model.on_gpu`.
        """
        return self.with_model(self.model.on_gpu(use_gpu))

    @property
    def input_schema(self) -> pl.Schema:
        """Columns and types of the raw rows."""
        return self.model.schema if self._preprocessor is None else self._preprocessor.input_schema

    @property
    def output_schema(self) -> pl.Schema:
        """Columns and types of `predict`."""
        return self.target.predictions(no_scores(self.target.n_outputs)).schema

    @property
    def postprocessing(self) -> tuple[PostprocessingStage, ...]:
        """The fitted stages after the model, in the order in which they are applied."""
        return self._chain.stages

    @property
    def has_intervals(self) -> bool:
        """Whether a postprocessing stage gives intervals or sets."""
        return self._chain.has_intervals

    @property
    def interval_names(self) -> list[str]:
        """The columns that `predict(rows, interval=True)` adds; empty without intervals."""
        return interval_names(self.target) if self.has_intervals else []

    @property
    def target(self) -> Target:
        """The target that `scores` refer to; with postprocessing stages, without target stages, which are undone before them."""
        return self._chain.target

    @property
    def classes(self) -> list[Any]:
        """The classes of the target; see `Model.classes`."""
        return self.model.classes

    @property
    def examples(self) -> pl.DataFrame:
        """A few raw rows of the training data; an empty table when there are none."""
        rows = self.model.examples
        if rows is None or any(name not in rows.columns for name in self.input_schema):
            return pl.DataFrame(schema=self.input_schema)
        return rows.select(map(col, self.input_schema))

    @cached_property
    def _row(self) -> Callable[[Row], None] | None:
        if self._preprocessor is None:
            with at("InferencePipeline.predict"):
                return row_check(self.input_schema)
        return self._preprocessor.row_function()

    @property
    def takes_rows(self) -> bool:
        """Whether single rows can be preprocessed by `prepare`, which is much faster than a table of one row."""
        return self._row is not None and not self._chain.needs_members

    def prepare(self, row: Row) -> Row:
        """Return one raw row preprocessed, for `model.row_scores`; requires `takes_rows`.

        Parameters
        ----------
        row
            A dict with the columns of `input_schema`, None for a missing value; further keys are left out.

        Returns
        -------
        dict
            The model's features.

        Raises
        ------
        SchemaError
            When a column is missing or a value has another type.
        DataError
            When a stage rejects a value.
        """
        assert self._row is not None
        row = {name: row[name] for name in self.input_schema if name in row}
        self._row(row)
        return row

    def row_scores(self, row: Row) -> Scores:
        """Return the scores for one raw row after postprocessing.

        Parameters
        ----------
        row
            As in `prepare`, None for a missing value.

        Returns
        -------
        ndarray
            Shape (1,) or (1, outputs), the bits that `scores` gives for a table of this row.

        Raises
        ------
        SchemaError, DataError
            As `prepare`.
        PredictionError
            When the library fails on the row.
        """
        return self.postprocessed(self.model.row_scores(self.prepare(row)))

    def scores(self, table: pl.LazyFrame) -> Scores:
        """Return the scores for a table of raw rows after postprocessing.

        Parameters
        ----------
        table
            Raw rows; nulls are the preprocessor's matter.

        Returns
        -------
        ndarray
            Shape (n,) or (n, outputs), as the target reads them (see `Framework.predict`).

        Raises
        ------
        SchemaError
            When a column is missing or has another type.
        DataError
            When a stage rejects a value.
        PredictionError
            When the library fails on the rows.
        """
        return self.postprocessed(self.model_scores(table))

    def model_scores(self, table: pl.LazyFrame) -> Scores:
        """Return the model's scores for a table of raw rows, without postprocessing.

        Parameters
        ----------
        table
            As in `scores`, nulls too.

        Returns
        -------
        ndarray
            Shape (n,) or (n, outputs); of no rows an empty one.

        Raises
        ------
        SchemaError, DataError, PredictionError
            As `scores`.
        """
        return self.model.scores(self.prepared(table))

    def postprocessed(self, scores: Scores) -> Scores:
        """Return the model's scores of some rows after postprocessing.

        Parameters
        ----------
        scores
            What `model_scores` returned, shape (n,) or (n, outputs).

        Returns
        -------
        ndarray
            The same shape, or records of codes and probabilities where a stage decides the class. Without stages the
            argument itself.
        """
        return self._chain.scores(scores)

    def outcome(self, frame: pl.DataFrame, scores: Scores | None = None) -> Outcome:
        """Return the answers for a table of raw rows, with their intervals.

        Parameters
        ----------
        frame
            Raw rows, nulls too.
        scores
            The model's scores of these rows, where they are known, shape (n,) or (n, outputs).

        Returns
        -------
        Outcome
            Values, codes, and the interval or set of each row where a stage gives one.

        Raises
        ------
        SchemaError, DataError, PredictionError
            As `scores`.
        """
        scores = self.model_scores(frame.lazy()) if scores is None else scores
        members = self.model.members(self.prepared(frame.lazy())) if self._chain.needs_members else None
        return self._chain.outcome(scores, groups=self.groups(frame), members=members, interval=True)

    def row_outcome(self, row: Row, scores: Scores | None = None) -> RowOutcome:
        """Return the answer for one raw row, with its interval.

        Parameters
        ----------
        row
            As in `prepare`, None for a missing value.
        scores
            The model's scores of the row, where they are known, shape (1,) or (1, outputs).

        Returns
        -------
        RowOutcome
            The numbers of `outcome` for a table of this row, to the bit.

        Raises
        ------
        SchemaError, DataError, PredictionError
            As `row_scores`.
        """
        scores = self.model.row_scores(self.prepare(row)) if scores is None else scores
        members = None
        if self._chain.needs_members:
            member_values = self.model.members(self.prepared(pl.LazyFrame([row], schema=self.input_schema)))
            members = None if member_values is None else member_values[0]
        group = group_text(row, self._chain.group_columns) if self._chain.group_columns else None
        return self._chain.row(scores, group=group, members=members, interval=True)

    def groups(self, frame: pl.DataFrame) -> pl.Series | None:
        """Return the group of each raw row that postprocessing stages distinguish.

        Parameters
        ----------
        frame
            Raw rows; a null in a group column is a group of its own.

        Returns
        -------
        polars.Series or None
            A text for each row; None when no stage distinguishes groups.

        Raises
        ------
        SchemaError
            When a group column is missing or has another type.
        """
        names = self._chain.group_columns
        return (
            group_texts(self._check.only(names)(frame.lazy().select(map(col, names))).collect(), names)
            if names
            else None
        )

    def prepared(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """Return raw rows preprocessed, for the model.

        Parameters
        ----------
        table
            Raw rows, nulls too.

        Returns
        -------
        polars.LazyFrame
            A row for each raw one; nothing is computed yet.

        Raises
        ------
        SchemaError
            When a column is missing or has another type.
        """
        prepare = self._check if self._preprocessor is None else self._preprocessor.table_function()
        return prepare(table)

    @cached_property
    def _check(self) -> SchemaCheck:
        return SchemaCheck(self.input_schema, "InferencePipeline.predict")

    def __getstate__(self) -> dict[str, Any]:
        return {"_preprocessor": self._preprocessor, "model": self.model, "_chain": self._chain}


def no_scores(n_outputs: int) -> Any:
    """Return the scores of no rows."""
    return np.empty((0, n_outputs) if n_outputs > 1 else 0)
