"""The target of a fit: which columns, what task, and the way from labels to numbers and from scores back to labels."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, ParameterError, RaylineError
from rayline.core.schema import Kind, dtype_from_json, dtype_to_json, kind_of, value_from_json, value_to_json
from rayline.core.statistics import ValueCounts

Array = npt.NDArray[Any]


class Task(enum.StrEnum):
    """What is predicted. With several targets each is of the same task; several classifications are all binary."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"

    @property
    def is_classification(self) -> bool:
        return self is not Task.REGRESSION


@dataclass(frozen=True)
class Target:
    """The target columns, their task, and for classification the classes of each in ascending order."""

    columns: tuple[str, ...]
    task: Task
    dtypes: tuple[pl.DataType, ...]
    classes: tuple[tuple[Any, ...], ...] = ()  # one tuple for each column; empty for a regression

    @classmethod
    def learn(
        cls,
        columns: Sequence[str],
        schema: Mapping[str, pl.DataType],
        counts: Sequence[ValueCounts | None],
        task: Task | None,
    ) -> Self:
        """The target from the value counts of its columns (None where not counted, as in a regression).

        `task` is what the framework's arguments ask for; None lets the labels decide: strings, booleans and categories
        are classes, numbers are regressed.

        Raises
        ------
        DataError
            On missing labels, on labels of one class only, on text where a number is needed, on more than two classes
            in a binary task.
        """
        for column, count in zip(columns, counts, strict=True):
            if count is not None and count.n_null:
                raise DataError(
                    f"train.fit: the target {column!r} has {count.n_null} missing values.",
                    "Expected a label in every row.",
                    f"drop these rows, for example ds.filter(lambda row: row[{column!r}] is not None).",
                )
        dtypes = tuple(_plain(schema[column]) for column in columns)
        if task is None:
            task = Task.REGRESSION if all(d.is_numeric() for d in dtypes) else Task.BINARY
            guessed = True
        else:
            guessed = False
        if not task.is_classification:
            for column, dtype in zip(columns, dtypes, strict=True):
                if not (dtype.is_numeric() or dtype == pl.Boolean):
                    raise DataError(
                        f"train.fit: the target {column!r} holds {dtype}, and the trainer's objective is a regression.",
                        "Expected numbers.",
                        "choose a classification objective, or convert the target.",
                    )
            return cls(tuple(columns), task, dtypes)
        classes: list[tuple[Any, ...]] = []
        for column, count in zip(columns, counts, strict=True):
            if count is None:
                raise RaylineError(f"Target.learn: the classes of {column!r} were not counted.")
            found = tuple(count.table["value"].to_list())
            if len(found) < 2:
                raise DataError(
                    f"train.fit: the target {column!r} has {'one class only' if found else 'no labels'}: {list(found)!r}.",
                    "Expected at least two classes.",
                    "check the split (stratify=…) or the column's values.",
                )
            classes.append(found)
        most = max(len(c) for c in classes)
        if guessed and most > 2:
            task = Task.MULTICLASS
        if most > 2 and task is Task.BINARY:
            raise DataError(
                f"train.fit: the target {columns[0]!r} has {most} classes, and the trainer's objective is binary.",
                f"Expected two classes; got {list(classes[0][:6])!r}.",
                "choose a multiclass objective, or merge classes.",
            )
        if len(columns) > 1 and task is Task.MULTICLASS:
            raise DataError(
                f"train.fit: {len(columns)} targets with more than two classes each.",
                "Expected one multiclass target, several binary ones, or several numbers.",
                "train one model for each target.",
            )
        return cls(tuple(columns), task, dtypes, tuple(classes))

    @classmethod
    def unnamed(cls, task: Task, n_classes: int = 2, n_targets: int = 1) -> Self:
        """The target of a bare model of a framework, which has forgotten its labels: classes are 0, 1, 2, …."""
        columns = ("target",) if n_targets == 1 else tuple(f"target_{i}" for i in range(n_targets))
        dtype: pl.DataType = pl.Int64() if task.is_classification else pl.Float64()
        classes = tuple(tuple(range(n_classes)) for _ in columns) if task.is_classification else ()
        return cls(columns, task, (dtype,) * n_targets, classes)

    @property
    def n_outputs(self) -> int:
        """Scores that a model gives for each row: classes in a multiclass task, otherwise targets."""
        return len(self.classes[0]) if self.task is Task.MULTICLASS else len(self.columns)

    def encode(self, table: pl.DataFrame) -> Array:
        """Labels as numbers: class codes (int64) or values (float64); shape (n,), or (n, targets) for several.

        Raises DataError on labels that are missing or were not there in training.
        """
        out = []
        for i, column in enumerate(self.columns):
            series = table[column]
            if self.task.is_classification:
                values = pl.Series(list(self.classes[i]), dtype=self.dtypes[i])
                codes = series.cast(self.dtypes[i]).replace_strict(
                    values, range(len(values)), default=None, return_dtype=pl.Int64
                )
                if codes.null_count():
                    bad = series.filter(codes.is_null()).unique().head(5).to_list()
                    raise DataError(
                        f"The target {column!r} holds labels that training did not see.",
                        f"Expected one of {list(self.classes[i])[:8]!r}; got {bad!r}.",
                        "remove these rows, or train on data that has all classes.",
                    )
                out.append(codes.to_numpy())
            else:
                values = series.cast(pl.Float64).fill_nan(None)
                if values.null_count():
                    raise DataError(
                        f"The target {column!r} has {values.null_count()} missing values.",
                        "Expected a number in every row.",
                        "drop these rows first.",
                    )
                out.append(values.to_numpy())
        return out[0] if len(out) == 1 else np.stack(out, axis=1)

    # -- from scores to labels -------------------------------------------------------------------------------------

    @property
    def prediction_names(self) -> list[str]:
        return ["prediction"] if len(self.columns) == 1 else [f"prediction_{c}" for c in self.columns]

    @property
    def probability_names(self) -> list[str]:
        if len(self.columns) == 1:
            return [f"probability_{_word(c)}" for c in self.classes[0]]
        return [
            f"probability_{column}_{_word(c)}"
            for column, cs in zip(self.columns, self.classes, strict=True)
            for c in cs
        ]

    def predictions(self, scores: Array) -> pl.DataFrame:
        """One column for each target in the labels' own type, from a model's scores (see `Framework.predict`)."""
        if not self.task.is_classification:
            columns = scores.reshape(len(scores), len(self.columns)).T
            dtypes = [d if d.is_float() else pl.Float64() for d in self.dtypes]
            series = [pl.Series(n, c).cast(d) for n, c, d in zip(self.prediction_names, columns, dtypes, strict=True)]
            return pl.DataFrame(series)
        out = []
        for name, codes, classes, dtype in zip(
            self.prediction_names, self.codes(scores), self.classes, self.dtypes, strict=True
        ):
            labels = pl.Series(name, list(classes), dtype=dtype)
            out.append(labels.gather(pl.Series(codes.astype(np.int64))).alias(name))
        return pl.DataFrame(out)

    def probabilities(self, scores: Array) -> pl.DataFrame:
        """One Float64 column for each class, from a model's scores.

        Raises ParameterError for a regression, and for a model that answers with classes instead of scores.
        """
        if not self.task.is_classification or np.issubdtype(scores.dtype, np.integer):
            raise ParameterError(
                "predict_proba: this model gives no probabilities.",
                f"Expected a classifier with scores; got a {self.task} model.",
                "call predict, or train with an objective that gives probabilities.",
            )
        scores = scores.astype(np.float64)
        if self.task is Task.BINARY:
            positive = (
                scores[:, 1:2] if len(self.columns) == 1 and scores.ndim == 2 and scores.shape[1] == 2 else scores
            )
            positive = positive.reshape(len(scores), len(self.columns))
            scores = np.stack([1.0 - positive, positive], axis=2).reshape(len(scores), -1)
        return pl.DataFrame({name: scores[:, i] for i, name in enumerate(self.probability_names)})

    def row_prediction(self, scores: Array) -> dict[str, Any]:
        """`predictions` of one row, as plain Python values."""
        if self.task.is_classification:
            codes = (int(c[0]) for c in self.codes(scores))
            return {n: cs[code] for n, cs, code in zip(self.prediction_names, self.classes, codes, strict=True)}
        values = scores.reshape(-1).tolist()
        if any(d == pl.Float32 for d in self.dtypes):
            return dict(self.predictions(scores).row(0, named=True))
        return dict(zip(self.prediction_names, values, strict=True))

    def row_probabilities(self, scores: Array) -> dict[str, float]:
        """`probabilities` of one row."""
        return dict(self.probabilities(scores).row(0, named=True))

    def codes(self, scores: Array) -> list[Array]:
        """The predicted class codes of each target, from a model's scores."""
        if np.issubdtype(scores.dtype, np.integer):
            return list(scores.reshape(len(scores), len(self.columns)).T)
        if self.task is Task.MULTICLASS:
            return [scores.argmax(axis=1)]
        if len(self.columns) == 1 and scores.ndim == 2 and scores.shape[1] == 2:
            return [(scores[:, 1] > 0.5).astype(np.int64)]
        return [(column > 0.5).astype(np.int64) for column in scores.reshape(len(scores), len(self.columns)).T]

    # -- JSON ------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": list(self.columns),
            "task": str(self.task),
            "dtypes": [dtype_to_json(d) for d in self.dtypes],
            "classes": value_to_json([list(c) for c in self.classes]),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(
            tuple(data["columns"]),
            Task(data["task"]),
            tuple(dtype_from_json(d) for d in data["dtypes"]),
            tuple(tuple(c) for c in value_from_json(data["classes"])),
        )


def is_class_like(dtype: pl.DataType) -> bool:
    """Whether labels of this type are classes when nothing else says so."""
    return kind_of(dtype) in (Kind.CATEGORY, Kind.BOOLEAN)


def _plain(dtype: pl.DataType) -> pl.DataType:
    return pl.String() if dtype in (pl.Categorical, pl.Enum) else dtype


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
