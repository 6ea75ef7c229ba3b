"""The contract of a postprocessing stage: what it learns from scored rows with labels, and how it changes a model's answers.

A stage is a frozen dataclass like a preprocessing stage (`core/stage.py`): its fields are its parameters, `learn` returns
plain values that JSON can hold. Both executors, `apply` for many rows and `row_function` for one, give the same bits.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, ParameterError
from rayline.core.schema import col
from rayline.core.scores import decisions, has_probabilities
from rayline.core.stage import ParameterizedStage
from rayline.core.target import Target, Task
from rayline.core.text_analysis import row_as_text

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Outcome:
    """The answers of a model for n rows, on their way through the stages.

    Attributes
    ----------
    target
        The target, without target stages: values are on the scale of the labels.
    values
        Float64, shape (n, outputs): values of a regression; probabilities of the second class of each target in a binary
        task, of all classes in a multiclass one.
    codes
        The predicted class codes, shape (n, targets), where they do not follow from the probabilities.
    groups
        The group of each row as text (see `group_texts`), for stages that learn by group.
    members
        Shape (n, members): the values of each member of an ensemble, for stages that need them.
    lower, upper
        The interval of each target, shape (n, targets).
    sets
        The classes in the set of each row, shape (n, number of classes of all targets).
    """

    target: Target
    values: Array
    codes: Array | None = None
    groups: pl.Series | None = None
    members: Array | None = None
    lower: Array | None = None
    upper: Array | None = None
    sets: Array | None = None

    @property
    def n_rows(self) -> int:
        return len(self.values)

    def with_(self, **changes: Any) -> Outcome:
        return replace(self, **changes)

    def take(self, rows: Array) -> Outcome:
        """Return the predictions of some rows, by their indices."""
        arrays = {name: getattr(self, name) for name in ("codes", "members", "lower", "upper", "sets")}
        taken: dict[str, Any] = {name: None if array is None else array[rows] for name, array in arrays.items()}
        groups = None if self.groups is None else self.groups.gather(rows)
        return Outcome(self.target, self.values[rows], groups=groups, **taken)

    @property
    def probabilities(self) -> Array:
        """Shape (n, number of classes of all targets)."""
        if self.target.task is Task.MULTICLASS:
            return self.values
        return np.stack([1.0 - self.values, self.values], axis=2).reshape(self.n_rows, -1)

    @property
    def scores(self) -> Array:
        """The answers in the form that `target` reads (see `Framework.predict`)."""
        return packed(self.values, self.codes)

    def intervals(self) -> pl.DataFrame:
        """The columns `lower` and `upper`, or `set` of a classification; with the target's name behind it when there are
        several."""
        target = self.target
        if self.sets is None:
            assert self.lower is not None
            assert self.upper is not None
            return pl.DataFrame(
                [
                    pl.Series(f"{word}{suffix}", bound[:, i])
                    for i, suffix in enumerate(suffixes(target))
                    for word, bound in (("lower", self.lower), ("upper", self.upper))
                ]
            )
        return pl.DataFrame(
            [
                _set_column(f"set{suffix}", members, classes, dtype)
                for suffix, members, classes, dtype in zip(
                    suffixes(target), self.memberships(), target.classes, target.dtypes, strict=True
                )
            ]
        )

    def memberships(self) -> list[Array]:
        """Which classes are in the set of each row, shape (n, classes), for each target; the predicted class always is."""
        assert self.sets is not None
        memberships, start = [], 0
        for codes, classes in zip(self.target.codes(self.scores), self.target.classes, strict=True):
            columns = self.sets[:, start : start + len(classes)]
            memberships.append(columns | (codes[:, None] == np.arange(len(classes))))
            start += len(classes)
        return memberships


@dataclass(slots=True)
class RowOutcome:
    """The same for one row, as plain Python numbers."""

    target: Target
    values: list[float]
    codes: list[int] | None = None
    group: str | None = None
    members: list[float] | None = None
    lower: list[float] | None = None
    upper: list[float] | None = None
    sets: list[bool] | None = None

    @property
    def scores(self) -> Array:
        """The answer in the form that `target` reads, of one row."""
        values, codes = self.values, self.codes
        if codes is None:
            return np.array(values if len(values) == 1 else [values])
        value = values[0] if len(values) == 1 else values
        code = codes[0] if len(codes) == 1 else codes
        return np.array([(code, value)], dtype=_record(len(codes), len(values)))

    def intervals(self) -> dict[str, Any]:
        """Return the intervals as plain values (see `Outcome.intervals`)."""
        target = self.target
        if self.sets is None:
            assert self.lower is not None
            assert self.upper is not None
            bounds = zip(suffixes(target), self.lower, self.upper, strict=True)
            return {f"{word}{s}": v for s, low, high in bounds for word, v in (("lower", low), ("upper", high))}
        codes = self.codes or [int(c[0]) for c in target.codes(self.scores)]
        intervals, start = {}, 0
        for suffix, classes, code in zip(suffixes(target), target.classes, codes, strict=True):
            members = self.sets[start : start + len(classes)]
            intervals[f"set{suffix}"] = [
                c for i, (c, m) in enumerate(zip(classes, members, strict=True)) if m or i == code
            ]
            start += len(classes)
        return intervals


@dataclass(frozen=True)
class CalibrationRows:
    """Scored rows with labels, which stages learn from.

    Attributes
    ----------
    outcome
        The answers for them, after the stages before the one that learns.
    truth
        Class codes or values, shape (n, targets).
    weight
        How much each row counts, shape (n,): how often it occurs, times its sample weight.
    counts
        How many rows each stands for, shape (n,).
    folds
        The fold of each row whose answer is a cross-validated one; None for held-back rows.
    """

    outcome: Outcome
    truth: Array
    weight: Array
    counts: Array
    folds: Array | None = None

    @property
    def n_rows(self) -> int:
        """The number of rows that they stand for."""
        return round(float(self.counts.sum()))

    def take(self, rows: Array) -> CalibrationRows:
        """Return some of the rows, by their indices."""
        folds = None if self.folds is None else self.folds[rows]
        return CalibrationRows(self.outcome.take(rows), self.truth[rows], self.weight[rows], self.counts[rows], folds)

    def with_weight(self) -> CalibrationRows:
        """Return the rows that have a weight. Raises DataError when none has."""
        rows = np.flatnonzero(self.weight > 0)
        if len(rows) == len(self.weight):
            return self
        if not len(rows):
            raise DataError.here(
                "all rows to learn from have the weight 0.", "Expected rows with a weight.", "check sample_weight."
            )
        return self.take(rows)


class PostprocessingStage(ParameterizedStage):
    """A stage after the model: it changes predictions, or adds their uncertainty."""

    fitted_by: ClassVar[str] = "pass it to pipeline.calibrated([…], rows) or analysis.calibrated([…])"

    has_intervals: ClassVar[bool] = False
    """Whether it adds intervals or sets; only a prediction that asks for them runs it."""

    @property
    def group_columns(self) -> tuple[str, ...]:
        """The raw columns whose values it learns by."""
        return ()

    @property
    def needs_members(self) -> bool:
        """Whether it needs the answers of the members of an ensemble."""
        return False

    @abstractmethod
    def check(self, target: Target) -> None:
        """Raise an error when the stage does not fit the target. Runs before any row is read.

        Parameters
        ----------
        target
            The target of the pipeline.

        Raises
        ------
        ParameterError
            With the task that the stage expects (see `refuse_task`).
        """

    @property
    def needs_rows(self) -> bool:
        """Whether it learns anything from rows."""
        return True

    def learn(self, rows: CalibrationRows) -> dict[str, Any]:
        """Return what the stage learns.

        Parameters
        ----------
        rows
            Scored rows with labels, which are never null, and their weights.

        Returns
        -------
        dict
            Plain values that JSON can hold; empty by default.

        Raises
        ------
        DataError
            When the rows do not allow it: one class only, or too few of them.
        """
        return {}

    @abstractmethod
    def apply(self, outcome: Outcome) -> Outcome:
        """Return the answers after the stage.

        Parameters
        ----------
        outcome
            The answers before it, for n rows; they do not change.

        Returns
        -------
        Outcome
            Values, codes, intervals or sets of the same n rows.
        """

    @abstractmethod
    def row_function(self) -> Callable[[RowOutcome], None]:
        """Return a function that does to one row what `apply` does to many.

        Returns
        -------
        callable
            It takes a `RowOutcome`, changes it in place, and gives the bits of `apply`.
        """

    def summary(self, target: Target) -> str:
        """Return what the fitted stage learned as a readable sentence.

        Parameters
        ----------
        target
            The target, whose classes the sentence names.

        Returns
        -------
        str
            Empty when it learned nothing.
        """
        return ""

    def refuse_task(self, target: Target, task: str, hint: str) -> ParameterError:
        """Return the error for a target that the stage does not fit.

        Parameters
        ----------
        target
            The target that was found.
        task
            What the stage expects, as part of a sentence.
        hint
            What to do instead.

        Returns
        -------
        ParameterError
            To be raised by `check`.
        """
        described = f"{target.task} classification" if target.task.is_classification else str(target.task)
        if len(target.quantiles) > 1:
            described += f" of {len(target.quantiles)} quantiles"
        return ParameterError(
            f"{type(self).__name__}: it does not fit a {described} of {list(target.columns)}.",
            f"Expected {task}.",
            f"{hint}.",
        )


def plain_values(scores: Array, target: Target) -> Array:
    """Return a model's scores as `Outcome.values`. Margins become probabilities by the logistic function (or softmax)."""
    if not target.task.is_classification:
        return np.asarray(target.values(scores), dtype=np.float64).reshape(len(scores), target.n_outputs)
    if scores.dtype.names is not None and "margin" in scores.dtype.names:
        return _of_margins(scores["margin"].astype(np.float64), target)
    values = (scores if scores.dtype.names is None else scores["probability"]).astype(np.float64)
    if target.task is Task.BINARY and len(target.columns) == 1 and values.ndim == 2 and values.shape[1] == 2:
        values = values[:, 1]
    return values.reshape(len(scores), target.n_outputs)


def own_codes(scores: Array) -> Array | None:
    """Return the class codes that a model answers itself; None where they follow from its probabilities."""
    if scores.dtype.names is not None:
        codes: Array = scores["code"].reshape(len(scores), -1)
        return codes
    return None if scores.dtype.kind == "f" else scores.reshape(len(scores), -1)


def only_codes(scores: Array, target: Target) -> bool:
    """Whether a classifier answers with classes alone, neither probabilities nor margins."""
    return target.task.is_classification and scores.dtype.names is None and not has_probabilities(scores)


def packed(values: Array, codes: Array | None) -> Array:
    """Return values, and codes where there are any, as the scores that a `Target` reads."""
    values = values[:, 0] if values.shape[1] == 1 else values
    if codes is None:
        return values
    return decisions(codes[:, 0] if codes.shape[1] == 1 else codes, probabilities=values)


@functools.cache
def _record(n_codes: int, n_values: int) -> np.dtype[Any]:
    """The type of `decisions` of one row."""
    fields = packed(np.empty((1, n_values)), np.empty((1, n_codes), dtype=np.int64))
    return fields.dtype


def suffixes(target: Target) -> Sequence[str]:
    """Return what distinguishes the columns of several targets; empty for one."""
    names = target.value_names
    return [""] if len(names) == 1 else [f"_{name}" for name in names]


def interval_names(target: Target) -> list[str]:
    """Return the names of the columns that `Outcome.intervals` has."""
    words = ["set"] if target.task.is_classification else ["lower", "upper"]
    return [f"{word}{suffix}" for suffix in suffixes(target) for word in words]


MISSING_GROUP = "\x1e"


def group_texts(table: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """Return the values of some columns of each row as one text."""
    texts = [col(name).cast(pl.String).fill_null(MISSING_GROUP) for name in columns]
    return table.select(pl.concat_str(texts, separator="\x1f").alias("group")).to_series()


def group_text(row: dict[str, Any], columns: Sequence[str]) -> str:
    """Return the same text for one row."""
    return "\x1f".join(map(_text, (row[name] for name in columns)))


def _text(value: Any) -> str:
    return MISSING_GROUP if value is None or value != value else str(row_as_text(value))


def _of_margins(margins: Array, target: Target) -> Array:
    margins = margins.reshape(len(margins), -1)
    if target.task is Task.MULTICLASS:
        powers = np.exp(margins - margins.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
        return shares
    probabilities: Array = 1.0 / (1.0 + np.exp(-np.clip(margins, -700, 700)))
    return probabilities


def _set_column(name: str, members: Array, classes: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Return a column of lists: the classes of each row's set, in the order of the classes."""
    rows, codes = np.nonzero(members)
    labels = pl.Series("label", list(classes), dtype=dtype).gather(pl.Series(codes.astype(np.int64)))
    sizes = np.bincount(rows, minlength=len(members))
    frame = pl.DataFrame({"row": rows.astype(np.int64), "label": labels})
    lists = frame.group_by("row", maintain_order=True).agg("label")["label"]
    assert sizes.min(initial=1) > 0  # the predicted class is always in it
    return lists.alias(name) if len(lists) else pl.Series(name, [], dtype=pl.List(dtype))
