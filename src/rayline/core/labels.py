"""Labels: the classes and the task that they make, and what is wrong with some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, ParameterError, RaylineError, SchemaError, counted, place
from rayline.core.schema import (
    category_values,
    is_category,
)
from rayline.core.statistics.counts import ValueCounts, counting
from rayline.core.task import Task as Task  # noqa: PLC0414  # its old place

Array = npt.NDArray[Any]


def refuse_unusable(
    columns: Sequence[str], schema: Mapping[str, pl.DataType], counts: Sequence[ValueCounts | None]
) -> None:
    """Raise on labels that are lists or missing."""
    for column in columns:
        if isinstance(schema[column], pl.List):
            raise SchemaError.here(
                f"the target {column!r} holds lists ({schema[column]}), and a label is one value.",
                "Expected strings, booleans or numbers.",
                "make a 0/1 column of each label (polars: .list.contains), and pass them all in target_columns.",
            )
    for column, count in zip(columns, counts, strict=True):
        if count is not None and count.n_null:
            raise DataError.here(
                f"the target {column!r} has {counted(count.n_null, 'missing value')}.",
                "Expected a label in every row.",
                f"drop these rows, None and NaN alike: table.dropna(subset=[{column!r}]) in pandas, the same in ds.map_batches.",
            )


def refuse_words(columns: Sequence[str], dtypes: Sequence[pl.DataType]) -> None:
    """Raise DataError on labels of a regression that are no numbers."""
    numeric = [c for c, dtype in zip(columns, dtypes, strict=True) if dtype.is_numeric() or dtype == pl.Boolean]
    if numeric and len(numeric) < len(columns):
        raise _mixed(columns, numeric)
    for column, dtype in zip(columns, dtypes, strict=True):
        if not (dtype.is_numeric() or dtype == pl.Boolean):
            raise DataError.here(
                f"the target {column!r} holds {dtype}, and the trainer's objective is a regression.",
                "Expected numbers.",
                "choose a classification objective, or convert the target.",
            )


def classes_of(
    column: str, count: ValueCounts | None, dtype: pl.DataType, given: Sequence[Any] | None
) -> tuple[Any, ...]:
    """Return the classes of a target in their order: those that a stage gives, or those that were counted."""
    if count is None:
        raise RaylineError(f"Target.learn: the classes of {column!r} were not counted.")
    with counting(f"{place()}: the target {column!r}"):
        labels = labels_of(count.table["value"], dtype)
    if category_values(dtype) is not None:
        labels = labels.sort()  # they were counted as text
    classes = tuple(labels if given is None else given)
    if len(classes) < 2:
        raise DataError.here(
            f"the target {column!r} has {'one class only' if classes else 'no labels'}: {list(classes)!r}.",
            "Expected at least two classes.",
            "check the split (stratify=…) or the column's values.",
        )
    return classes


def classification_of(
    implied: Task | None, columns: Sequence[str], classes: Sequence[Sequence[Any]], numeric: Sequence[str]
) -> Task:
    """Return the task of targets with these classes; `implied` is that of the trainer's arguments.

    Raises DataError when the classes are not those of the task.
    """
    place = max(range(len(columns)), key=lambda i: len(classes[i]))
    n_classes = len(classes[place])
    task = implied or (Task.MULTICLASS if n_classes > 2 else Task.BINARY)
    if len(columns) > len(numeric) and any(
        c in numeric and len(labels) > 2 for c, labels in zip(columns, classes, strict=True)
    ):
        raise _mixed(columns, numeric)
    if n_classes > 2 and task is Task.BINARY:
        raise DataError.here(
            f"the target {columns[place]!r} has {n_classes} classes, and the trainer's objective is binary.",
            f"Expected two classes; got {list(classes[place][:6])!r}.",
            "choose a multiclass objective, or merge classes.",
        )
    if len(columns) > 1 and task is Task.MULTICLASS:
        raise DataError.here(
            f"{len(columns)} targets with more than two classes each.",
            "Expected one multiclass target, several binary ones, or several numbers.",
            "train one model for each target.",
        )
    return task


def _mixed(columns: Sequence[str], numeric: Sequence[str]) -> DataError:
    """Return the error for numbers and classes as targets of one model."""
    others = [column for column in columns if column not in numeric]
    return DataError.here(
        f"the targets are of different kinds: {list(numeric)} are numbers, {others} have classes.",
        "Expected several numbers, or several targets with two classes, for one model.",
        "train one model for each target, on the table without the others (docs/targets.md shows how).",
    )


def with_positive(
    classes: Sequence[tuple[Any, ...]], task: Task, columns: Sequence[str], pos_label: Any
) -> list[tuple[Any, ...]]:
    """Return the classes of each target with the positive one last."""
    if task is not Task.BINARY:
        raise no_positive(task, columns, pos_label)
    positive = pos_label if isinstance(pos_label, Mapping) else dict.fromkeys(columns, pos_label)
    if strange := [name for name in positive if name not in columns]:
        raise ParameterError.unknown(strange, columns, "target", where=f"{place()}: pos_label")
    return [_positive_last(c, labels, positive) for c, labels in zip(columns, classes, strict=True)]


def no_positive(task: Task, columns: Sequence[str], pos_label: Any) -> ParameterError:
    kind = "a regression" if task is Task.REGRESSION else "a classification with more than two classes"
    return ParameterError.here(
        f"pos_label={pos_label!r} names a positive class, and the target {list(columns)} is {kind}.",
        "Expected a target with two classes.",
        "leave pos_label out, or choose an objective of two classes.",
    )


def _positive_last(column: str, classes: tuple[Any, ...], positive: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the classes with the positive one last: it is then class 1 for every framework and metric."""
    if column not in positive:
        return classes
    label = positive[column]
    if label not in classes:
        raise ParameterError.value("pos_label", f"one of the classes {list(classes)!r} of {column!r}", label)
    return (*(c for c in classes if c != label), next(c for c in classes if c == label))


def class_codes(labels: pl.Series, classes: Sequence[Any]) -> pl.Series:
    """Return the place of each label among the classes (Int64); null for others."""
    are_places = labels.dtype.is_integer() and list(classes) == list(range(len(classes)))
    if are_places and len(labels) and not labels.null_count() and labels.min() >= 0 and labels.max() < len(classes):  # type: ignore[operator]
        return labels.cast(pl.Int64)
    values = pl.Series(list(classes), dtype=labels.dtype)
    return labels.replace_strict(values, range(len(values)), default=None, return_dtype=pl.Int64)


def refuse_missing(column: str, labels: pl.Series) -> None:
    if labels.null_count():
        raise DataError(
            f"The target {column!r} has {counted(labels.null_count(), 'missing value')}.",
            "Expected a label in every row.",
            "drop these rows first.",
        )


def labels_of(texts: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Return counted labels in their original type: where numbers or booleans were declared categories, that of the values."""
    return texts if category_values(dtype) is None else in_type(texts, plain_type(dtype))


def in_type(series: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Return labels in the type of the classes; null where they have no such value, as 0.5 of integers or 2 of booleans."""
    if is_category(series.dtype):
        series = series.cast(pl.String)
    dtype_before = series.dtype
    if dtype == pl.Boolean and dtype_before != dtype:
        values = ["false", "true"] if dtype_before == pl.String else [0, 1]
        return series.replace_strict(
            pl.Series(values, dtype=dtype_before, strict=False), [False, True], default=None, return_dtype=dtype
        )
    if dtype.is_integer() and (dtype_before.is_float() or dtype_before.is_decimal()):
        series = series.set(series != series.round(), None)
    return series.cast(dtype, strict=False)


def finite_values(series: pl.Series) -> pl.Series:
    """Return the labels of a regression. Raises DataError on labels that are missing, infinite, or texts of no number."""
    texts = series.cast(pl.String) if is_category(series.dtype) else series
    values = texts.cast(pl.Float64, strict=False).fill_nan(None)
    refuse_missing(series.name, texts.fill_nan(None) if texts.dtype.is_float() else texts)
    bad = texts.filter(~values.is_finite().fill_null(value=False))
    if len(bad):
        raise DataError(
            f"The target {series.name!r} has {counted(len(bad), 'value')} that {'is' if len(bad) == 1 else 'are'} not finite.",
            f"Expected a finite number in every row; got {bad.unique(maintain_order=True).head(5).to_list()!r}.",
            "drop or correct these rows first.",
        )
    return values


def plain_type(dtype: pl.DataType) -> pl.DataType:
    values = category_values(dtype)
    if values is not None and (values.is_numeric() or values == pl.Boolean):
        return values
    return pl.String() if is_category(dtype) else dtype
