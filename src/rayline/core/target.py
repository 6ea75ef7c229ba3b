"""The target of a fit: its columns and task, and the conversions from labels to numbers and from scores to labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core import paired_labels, registry
from rayline.core.errors import DataError, ParameterError, SchemaError, at, counted, place
from rayline.core.json_values import value_from_json, value_to_json
from rayline.core.labels import (
    class_codes,
    classes_of,
    classification_of,
    finite_values,
    in_type,
    no_positive,
    plain_type,
    refuse_missing,
    refuse_unusable,
    refuse_words,
    with_positive,
)
from rayline.core.objective import Objective, quantiles_of
from rayline.core.operations.base import Operation, Row, RowFunction, apply_all, row_function, schema_after
from rayline.core.operations.inverse import Leaf, inverse
from rayline.core.schema import col, dtype_from_json, dtype_to_json
from rayline.core.scores import decisions, has_probabilities
from rayline.core.stage import operations_of
from rayline.core.statistics.counts import ValueCounts
from rayline.core.task import Task as Task  # noqa: PLC0414  # its old place
from rayline.core.text_analysis import named_by

Array = npt.NDArray[Any]


OF_ONE_CLASS = frozenset(
    (
        "f1", "precision", "recall", "average_precision", "F1", "Precision", "Recall", "PRAUC", "aucpr",
        "f1_score", "precision_score", "recall_score", "average_precision_score",
    )
)  # fmt: skip
"""Metrics (by Rayline's and the frameworks' names) of the positive class of two; with more classes, their mean."""


@dataclass(frozen=True)
class Target:
    """The target columns, their task, and for classification the classes of each, in the order of their codes.

    For a regression also the fitted target stages: training uses their outputs, and predictions are transformed back to
    the scale of the labels. `quantiles` are the quantiles of its one column that are predicted, in place of a single value.

    Of a ranking the columns are the relevance and the group, of a survival time the time and whether the event was observed
    (`event`), or its two bounds. `predicts_risk` says that a greater survival score means an earlier event.
    """

    columns: tuple[str, ...]
    task: Task
    dtypes: tuple[pl.DataType, ...]
    classes: tuple[tuple[Any, ...], ...] = ()  # one tuple for each column; empty for a regression
    stages: tuple[Leaf, ...] = ()
    quantiles: tuple[float, ...] = ()
    event: bool = False
    predicts_risk: bool = False

    @classmethod
    def learn(
        cls,
        columns: Sequence[str],
        schema: Mapping[str, pl.DataType],
        counts: Sequence[ValueCounts | None],
        task: Task | None,
        stages: Sequence[Leaf] = (),
        pos_label: Any = None,
    ) -> Self:
        """Return the target from the value counts of its columns (None where not counted, as in a regression).

        `task` is the task that the framework's arguments imply. With None it follows from the labels: strings, booleans,
        categories and columns that one of `stages` encodes as classes mean a classification, numbers a regression.
        `pos_label` is the positive class of two (for several targets a mapping from column to
        label): it becomes the second class, which every framework and metric takes as positive. None leaves the classes in
        ascending order.

        Raises DataError on missing labels, on labels of only one class, on text where a number is needed, on more than two
        classes in a binary task, on stages that turn classes into numbers or numbers into classes. Raises ParameterError when a
        stage has no inverse; when `pos_label` is not a class, or the task has no positive class. Raises SchemaError when labels
        are lists.
        """
        refuse_unusable(columns, schema, counts)
        dtypes = tuple(plain_type(schema[column]) for column in columns)
        categories = {c: state["categories"] for _, s in stages if s.labels for c, state in s.state["columns"].items()}
        numeric = [c for c in columns if schema[c].is_numeric() and c not in categories]
        guessed = Task.REGRESSION if len(numeric) == len(columns) else Task.BINARY
        if not (task or guessed).is_classification:
            refuse_words(columns, dtypes)
            if pos_label is not None:
                raise no_positive(task or guessed, columns, pos_label)
            target = cls(tuple(columns), task or guessed, dtypes, stages=tuple(stages))
            target._check_stages()
            return target
        for name, stage in stages:
            if not stage.labels:
                raise DataError.here(
                    f"target stage {name!r} ({type(stage).__name__}) converts classes to numbers.",
                    f"Expected a regression; got a classification of {list(columns)}.",
                    f"leave {name!r} out, or choose a regression objective.",
                )
        classes = [
            classes_of(column, count, schema[column], categories.get(column))
            for column, count in zip(columns, counts, strict=True)
        ]
        task = classification_of(task, columns, classes, numeric)
        if pos_label is not None:
            classes = with_positive(classes, task, columns, pos_label)
        return cls(tuple(columns), task, dtypes, tuple(classes))

    @classmethod
    def unnamed(cls, task: Task, n_classes: int = 2, n_targets: int = 1) -> Self:
        """Return the target of a native model, which does not store its labels: the classes are 0, 1, 2, …."""
        columns = ("target",) if n_targets == 1 else tuple(f"target_{i}" for i in range(n_targets))
        dtype: pl.DataType = pl.Int64() if task.is_classification else pl.Float64()
        classes = tuple(tuple(range(n_classes)) for _ in columns) if task.is_classification else ()
        return cls(columns, task, (dtype,) * n_targets, classes)

    @classmethod
    def unnamed_of(cls, objective: Objective) -> Self | None:
        """Return the target of a native model that ranks, or predicts survival times or quantiles; None for all others."""
        number: pl.DataType = pl.Float64()
        if objective.task is Task.RANKING:
            return cls(("target", "group"), Task.RANKING, (number, pl.Int64()))
        if objective.task is Task.SURVIVAL:
            return cls(("target",), Task.SURVIVAL, (number,), predicts_risk=objective.predicts_risk)
        return (
            cls(("target",), Task.REGRESSION, (number,), quantiles=objective.quantiles) if objective.quantiles else None
        )

    def _check_stages(self) -> None:
        """Raise when the stages return classes, other columns or values that are not numbers, or one has no inverse."""
        for name, stage in self.stages:
            if stage.labels:
                raise DataError.here(
                    f"target stage {name!r} ({type(stage).__name__}) converts the target to classes.",
                    "Expected a classification; the trainer's objective is a regression.",
                    f"leave {name!r} out, or choose a classification objective.",
                )
        after = schema_after(self._forth, self._schema)
        if set(after) != set(self.columns) or not all(dtype.is_numeric() for dtype in after.values()):
            raise SchemaError.here(
                f"the target stages convert {list(self.columns)} to {after}.",
                "Expected one number for each target.",
                "use stages that change a column in place, such as Log or StandardScaler.",
            )
        _ = self.back

    def of_class(self, metric: str) -> str:
        """Return the class that a metric measures, as a suffix of its name; empty when it measures no single class.

        >>> Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),)).of_class("test-f1")
        " of 'yes'"
        """
        if not self.classes or metric.rpartition("-")[2].partition("@")[0].partition(":")[0] not in OF_ONE_CLASS:
            return ""
        if self.task is Task.MULTICLASS:
            return ", mean over classes"
        return f" of {', '.join(repr(classes[1]) for classes in self.classes)}"

    def of_margins(self, margins: Array) -> Array:
        """Return scores from margins, which are not probabilities: the predicted class, and the margins to rank rows."""
        codes = margins.argmax(axis=1) if self.task is Task.MULTICLASS else (margins > 0).astype(np.int64)
        return decisions(codes, margins=margins)

    @property
    def _schema(self) -> pl.Schema:
        return pl.Schema({column: pl.Float64() for column in self.columns})

    @cached_property
    def _forth(self) -> list[Operation]:
        return [operation for name, stage in self.stages for operation in operations_of(name, stage)]

    @cached_property
    def back(self) -> list[Operation]:
        """The operations that transform a regression's scores to the scale of the labels."""
        with at("target stages"):
            return inverse(self.stages, self._schema)

    @cached_property
    def _row_back(self) -> RowFunction | None:
        return row_function(self.back, self._schema)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @property
    def plain(self) -> Self:
        """The same target without stages, for scores that are already on the scale of the labels."""
        return replace(self, stages=()) if self.stages else self

    @property
    def n_outputs(self) -> int:
        """The number of scores per row: of classes in a multiclass task, of quantiles, otherwise of predicted targets."""
        return len(self.classes[0]) if self.task is Task.MULTICLASS else len(self.value_names)

    @property
    def pair(self) -> str:
        """The role of the last column, if it is not a label: "group", "event", or empty."""
        return "group" if self.task is Task.RANKING else "event" if self.event else ""

    @property
    def value_names(self) -> list[str]:
        """The names of the columns of predictions: the targets, or the quantiles of a single target."""
        if len(self.quantiles) > 1:
            return [f"{q:g}" for q in self.quantiles]
        return [self.columns[0]] if self.task.is_paired else list(self.columns)

    @property
    def value_dtypes(self) -> list[pl.DataType]:
        """The types of the columns of predictions."""
        dtypes = (
            self.dtypes if self.task.is_classification else [d if d.is_float() else pl.Float64() for d in self.dtypes]
        )
        n = len(self.value_names)
        return [dtypes[0]] * n if self.quantiles else list(dtypes[:n])

    def encode(self, table: pl.DataFrame) -> Array:
        """Return labels as a model learns them: class codes (int64), or values (float64) after the stages; shape (n,), or
        (n, targets) for several. The array is a writable copy, as PyTorch requires.

        Raises DataError on labels that are missing, were not seen in training, or that a stage cannot transform.
        """
        truth = self.truth(table)
        if not self.stages:
            return truth
        frame = self._frame(truth)
        encoded = frame
        for name, stage in self.stages:
            encoded = (
                apply_all(operations_of(name, stage), encoded.lazy())
                .select(map(col, self.columns))
                .collect()
                .cast(pl.Float64)
            )
            for column in self.columns:
                bad = frame[column].filter(~encoded[column].is_finite().fill_null(False))
                if len(bad):
                    raise DataError(
                        f"The target {column!r} has {counted(len(bad), 'value')} that target stage {name!r} does not accept.",
                        f"Expected values like those of its fit; got {bad.unique().sort().head(5).to_list()!r}.",
                        "drop or correct these rows, or choose another target stage.",
                    )
        return encoded.to_series().to_numpy(writable=True) if encoded.width == 1 else encoded.to_numpy(writable=True)

    def _frame(self, values: Array) -> pl.DataFrame:
        columns = values.reshape(len(values), len(self.columns)).T
        return pl.DataFrame([pl.Series(n, c).cast(pl.Float64) for n, c in zip(self.columns, columns, strict=True)])

    def truth(self, table: pl.DataFrame) -> Array:
        """Return labels as numbers on the scale of predictions: class codes (int64) or the values themselves (float64).

        Shape (n,), or (n, targets) for several; for a ranking (n, 2): relevance and group; for a survival time (n, 2): its
        bounds (see `core.paired_labels`). Raises DataError on labels that are missing or were not seen in training.
        """
        if self.task is Task.RANKING:
            return paired_labels.of_ranking(table, self.columns, self.dtypes[1])
        if self.task is Task.SURVIVAL:
            return paired_labels.of_survival(table, self.columns, event=self.event)
        out = []
        for i, column in enumerate(self.columns):
            series = table[column]
            if self.task.is_classification:
                codes = class_codes(in_type(series, self.dtypes[i]), self.classes[i])
                if codes.null_count():
                    refuse_missing(column, series.fill_nan(None) if series.dtype.is_float() else series)
                    bad = series.filter(codes.is_null()).unique().head(5).to_list()
                    raise DataError(
                        f"The target {column!r} holds labels that training did not see.",
                        f"Expected one of {list(self.classes[i])[:8]!r}; got {bad!r}.",
                        "remove these rows, or train on data that has all classes.",
                    )
                out.append(codes.to_numpy(writable=True))
            else:
                out.append(finite_values(series).to_numpy(writable=True))
        return out[0] if len(out) == 1 else np.stack(out, axis=1)

    def truth_of(self, table: pl.DataFrame) -> Array:
        """As `truth`, of rows that were not trained on: errors name the public call (see `core.errors.at`), and labels of a type that
        cannot be compared with those of the training raise SchemaError."""
        try:
            return self.truth(table.select(map(col, self.columns)))
        except DataError as error:
            raise error.within(place()) from error.__cause__
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            dtypes = {name: table.schema[name] for name in self.columns}
            expected = ", ".join(f"{name}: {dtype}" for name, dtype in zip(self.columns, self.dtypes, strict=True))
            raise SchemaError.here(
                f"the labels {dtypes} cannot be compared with what the model predicts.",
                f"Expected {expected}; got {type(error).__name__}: {' '.join(str(error).split())[:200]}.",
                "convert the labels to the type that they had in training.",
            ) from error

    # -- from scores to labels -------------------------------------------------------------------------------------

    @property
    def prediction_names(self) -> list[str]:
        names = self.value_names
        return ["prediction"] if len(names) == 1 else [f"prediction_{name}" for name in names]

    @property
    def probability_names(self) -> list[str]:
        if len(self.columns) == 1:
            return [named_by("probability", c) for c in self.classes[0]]
        return [
            named_by(f"probability_{column}", c)
            for column, cs in zip(self.columns, self.classes, strict=True)
            for c in cs
        ]

    def values(self, scores: Array) -> Array:
        """Return a regression's scores on the scale of the labels; unchanged without target stages. NaN is missing."""
        if not self.stages:
            return scores
        values: Array = np.stack([column.to_numpy() for column in self._restored(scores)], axis=1)
        return values.reshape(scores.shape)

    def _restored(self, scores: Array) -> list[pl.Series]:
        """Return the columns of scores on the scale of the labels. Quantiles keep their place: stages are increasing."""
        parts = list(scores.reshape(len(scores), self.n_outputs).T) if self.quantiles else [scores]
        frames = [self._frame(part).lazy().with_columns(pl.all().fill_nan(None)) for part in parts]
        restored = [apply_all(self.back, frame).select(map(col, self.columns)).collect() for frame in frames]
        return [column for frame in restored for column in frame.get_columns()]

    def predictions(self, scores: Array) -> pl.DataFrame:
        """Return one column for each target in the type of its labels, from a model's scores (see `Framework.predict`)."""
        if not self.task.is_classification:
            columns: Sequence[Any] = list(scores.reshape(len(scores), self.n_outputs).T)
            if self.stages:
                columns = self._restored(scores)
            named = zip(self.prediction_names, columns, self.value_dtypes, strict=True)
            series = [pl.Series(n, c).cast(d) for n, c, d in named]
            return pl.DataFrame(series)
        out = []
        for name, codes, classes, dtype in zip(
            self.prediction_names, self.codes(scores), self.classes, self.dtypes, strict=True
        ):
            labels = pl.Series(name, list(classes), dtype=dtype)
            out.append(labels.gather(pl.Series(codes.astype(np.int64))).alias(name))
        return pl.DataFrame(out)

    def probabilities(self, scores: Array) -> pl.DataFrame:
        """Return one Float64 column for each class, from a model's scores.

        Raises ParameterError for a regression, and for a model that returns classes instead of probabilities.
        """
        if not self.task.is_classification or not has_probabilities(scores):
            raise ParameterError(
                "predict_proba: this model gives no probabilities.",
                f"Expected a classifier with scores; got a {self.task} model.",
                "call predict, or train with an objective that gives probabilities.",
            )
        scores = (scores if scores.dtype.names is None else scores["probability"]).astype(np.float64)
        if self.task is Task.BINARY:
            positive = (
                scores[:, 1:2] if len(self.columns) == 1 and scores.ndim == 2 and scores.shape[1] == 2 else scores
            )
            positive = positive.reshape(len(scores), len(self.columns))
            scores = np.stack([1.0 - positive, positive], axis=2).reshape(len(scores), 2 * len(self.columns))
        return pl.DataFrame({name: scores[:, i] for i, name in enumerate(self.probability_names)})

    def row_prediction(self, scores: Array) -> dict[str, Any]:
        """Return the `predictions` of one row, as plain Python values."""
        if self.task.is_classification:
            codes = (int(c[0]) for c in self.codes(scores))
            return {n: cs[code] for n, cs, code in zip(self.prediction_names, self.classes, codes, strict=True)}
        values = scores.reshape(-1).tolist()
        if any(d == pl.Float32 for d in self.value_dtypes) or (
            self.stages and (self.quantiles or self._row_back is None)
        ):
            return dict(self.predictions(scores).row(0, named=True))
        if self._row_back is not None and self.stages:
            row: Row = {c: v if v == v else None for c, v in zip(self.columns, values, strict=True)}
            self._row_back(row)
            values = [row[column] for column in self.columns]
        return dict(zip(self.prediction_names, values, strict=True))

    def row_probabilities(self, scores: Array) -> dict[str, float]:
        """Return the `probabilities` of one row."""
        return dict(self.probabilities(scores).row(0, named=True))

    def codes(self, scores: Array) -> list[Array]:
        """Return the predicted class codes of each target, from a model's scores."""
        if scores.dtype.names is not None:
            scores = scores["code"]
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
            "stages": [[name, stage.to_json()] for name, stage in self.stages],
            **({"quantiles": list(self.quantiles)} if self.quantiles else {}),
            **({"event": self.event, "predicts_risk": self.predicts_risk} if self.task is Task.SURVIVAL else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        with at("Target"):
            quantiles = quantiles_of(data.get("quantiles"))
        return cls(
            tuple(data["columns"]),
            Task(data["task"]),
            tuple(dtype_from_json(d) for d in data["dtypes"]),
            tuple(tuple(c) for c in value_from_json(data["classes"])),
            tuple((str(name), registry.stage(s["stage"]).from_json(s)) for name, s in data.get("stages", ())),  # type: ignore[attr-defined]
            quantiles,
            data.get("event", False) is True,
            data.get("predicts_risk", False) is True,
        )._checked()

    def _checked(self) -> Self:
        """Return this target. Raises ValueError when a file combines what cannot go together."""
        n = {Task.RANKING: {2}, Task.SURVIVAL: {2} if self.event else {1, 2}}.get(self.task)
        if len(self.dtypes) != len(self.columns) or (n is not None and len(self.columns) not in n):
            raise ValueError(f"a {self.task} target of {len(self.columns)} columns")
        if self.quantiles and (self.task is not Task.REGRESSION or len(self.columns) > 1):
            raise ValueError("quantiles of something else than one number")
        return self
