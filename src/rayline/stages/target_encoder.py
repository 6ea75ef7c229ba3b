"""Target encoding with cross-fitting: the code of a training row never uses the row's own target."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import polars as pl

from rayline.core.errors import DataError, SchemaError, place, shorten
from rayline.core.operations.base import Drop, Operation
from rayline.core.operations.categorical import CategoryCodes, MapCodes, gather
from rayline.core.schema import Kind, col, kind_of
from rayline.core.stage import FitContext, ParameterCheck, Stage, an_int, param
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import counting
from rayline.core.statistics.multi_column import GroupClasses, GroupMoments, fold_of
from rayline.core.text_analysis import named_by

MAX_CLASSES = 1_000
"""Classes of a target, each of which gives a column."""

TargetType: TypeAlias = Literal["auto", "continuous", "binary", "multiclass"]
"""The kind of the target that the categories are encoded by."""


@dataclass(frozen=True)
class TargetEncoder(Stage):
    """Replace each category by the mean of the target among its training rows, shrunk to the mean of all rows (Float64).

    For a target with two classes the code is the share of the second class. With more classes each class gets a column
    `column_class` with its share, and the source column is dropped.

    The training rows themselves get codes from the other inner folds only, so the code of a row never uses its own target.
    The inner fold of a row is a hash of its values without the target: equal rows are in the same fold, so the table needs
    columns besides the encoded ones. Categories that fit did not see get the mean of all rows. Missing values form one
    category.

    Parameters
    ----------
    columns
        The columns; all string and categorical ones without free text when omitted.
    target
        The target column; the first of fit's `target_columns` when omitted.
    target_type
        "continuous" (the mean of numbers), "binary" or "multiclass" (the shares of the classes, for any type), or "auto":
        numbers and booleans are averaged, strings are classes.
    smooth
        The weight of the mean of all rows, as a number of rows; or "auto": scikit-learn's empirical Bayes estimate from
        the variances within the category and over all rows.
    cv
        The number of inner folds.

    Raises
    ------
    SchemaError
        In fit, without a target, or when the target has a type that `target_type` does not allow.
    DataError
        In fit, when the target has no values, infinite values, only one class or more than 1,000 ("binary": not exactly
        two), or a column has more than a million categories.
    ParameterError
        When `smooth` is negative, `cv` is outside 2 to 100, or on an unknown `target_type`.

    References
    ----------
    Micci-Barreca, "A preprocessing scheme for high-cardinality categorical attributes", SIGKDD Explorations 3 (2001).

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import TargetEncoder
    >>> table = pl.DataFrame({"c": ["a", "a", "b", "b"], "x": [1, 2, 3, 4], "y": [1, 1, 0, 1]})
    >>> p = Preprocessor([("mean", TargetEncoder(smooth=0.0))]).fit(table, target_columns=["y"])
    >>> p.transform(table)["c"].to_list()
    [1.0, 1.0, 0.5, 0.5]
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = (Kind.CATEGORY, Kind.TEXT, Kind.NUMERIC, Kind.BOOLEAN, Kind.DATETIME)
    unsupported_params: ClassVar = {
        **Stage.unsupported_params,
        **dict.fromkeys(("shuffle", "random_state"), "leave it out: a row's inner fold is a hash of its values"),
        "categories": "leave it out: they are learned",
    }

    target: str | None = None
    smooth: float | Literal["auto"] = param(
        "auto",
        ParameterCheck(
            'a number of at least 0, or "auto"', lambda v: v == "auto" or (type(v) in (int, float) and v >= 0)
        ),
    )
    cv: int = param(5, an_int(2, 100))
    target_type: TargetType = "auto"

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        return [self._request(context, column) for column in context.columns]

    def _request(self, context: FitContext, column: str) -> StatisticRequest:
        target = context.target_of(self, self.target)
        statistic = GroupMoments if self._is_mean(context, target) else GroupClasses
        return context.request(statistic, target, column, *self._hashed(context), n_folds=self.cv)

    def _hashed(self, context: FitContext) -> list[str]:
        targets = (*context.targets, context.target_of(self, self.target))
        return [name for name in context.hashed_columns if name not in targets]

    def _is_mean(self, context: FitContext, target: str) -> bool:
        kind = kind_of(context.schema[target])
        is_number = kind in (Kind.NUMERIC, Kind.BOOLEAN)
        if self.target_type == "continuous" and not is_number:
            raise SchemaError.dtype(
                target, "a numeric or boolean target", context.schema[target], where="TargetEncoder"
            )
        if not is_number and kind is not Kind.CATEGORY:
            raise SchemaError.dtype(
                target, "a target of numbers or classes", context.schema[target], where="TargetEncoder"
            )
        return self.target_type == "continuous" or (self.target_type == "auto" and is_number)

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        learned: dict[str, Any] = {}
        for column in context.columns:
            with counting(f"TargetEncoder: column {column!r}"):
                learned[column] = self._learn(context, column, results[self._request(context, column)])
        new = [name for codes in learned.values() for name in codes.get("classes", ())]
        self.refuse_existing_columns(new, context, removed=context.columns)
        return {"columns": learned, "hashed": self._hashed(context)}

    def _learn(self, context: FitContext, column: str, answer: GroupMoments | GroupClasses) -> dict[str, Any]:
        if isinstance(answer, GroupMoments):
            return self._learned(answer)
        classes = self._classes(answer, context.target_of(self, self.target))
        if len(classes) == 2:
            return self._learned(answer.moments(classes[1]))
        names = [named_by(column, label) for label in classes]
        each = [self._learned(answer.moments(label)) for label in classes]
        codes = {name: {k: codes[k] for k in ("values", "folds")} for name, codes in zip(names, each, strict=True)}
        return {"categories": each[0]["categories"], "classes": codes}

    def _classes(self, answer: GroupClasses, target: str) -> list[Any]:
        classes = answer.classes
        low, high = (2, 2) if self.target_type == "binary" else (2, MAX_CLASSES)
        if not low <= len(classes) <= high:
            raise DataError(
                f"TargetEncoder: the target {target!r} has {len(classes)} classes.",
                f"Expected {'2' if high == 2 else f'{low} to {high}'}; got {shorten(classes)}.",
                "check the target, or set target_type.",
            )
        return classes

    def _learned(self, answer: GroupMoments) -> dict[str, Any]:
        keys, values, overall = self._codes(answer.by_key())
        if overall is None:
            raise DataError(
                "TargetEncoder: the target has no values.",
                "Expected at least one label.",
                "check the target column.",
            )
        folds = []
        for fold in range(self.cv):
            fold_keys, fold_values, fold_mean = self._codes(answer.by_key(without_fold=fold))
            codes = dict(zip(fold_keys, fold_values, strict=True))
            rest = overall if fold_mean is None else fold_mean  # if all rows are in one fold, only their mean is left
            folds.append([*(codes.get(key, rest) for key in keys), rest])
        return {"categories": keys, "values": [*values, overall], "folds": folds}

    def _codes(self, table: pl.DataFrame) -> tuple[list[Any], list[float], float | None]:
        """Return the categories, the code of each, and the mean of all rows."""
        groups = table.filter(pl.col("n") > 0)
        if not groups.height:
            return [], [], None
        n, mean, m2 = (groups[name].cast(pl.Float64).to_numpy() for name in ("n", "mean", "m2"))
        with np.errstate(all="ignore"):  # infinite values raise an error below
            count = n.sum()
            overall = (n * mean).sum() / count
            variance = (m2.sum() + (n * (mean - overall) ** 2).sum()) / count
            if self.smooth == "auto":
                weight = variance * n / (variance * n + m2 / n) if variance > 0 else np.ones_like(n)
            else:
                weight = n / (n + float(self.smooth))
            values = weight * mean + (1 - weight) * overall
        if not (np.isfinite(values).all() and np.isfinite(overall)):
            raise DataError(
                "TargetEncoder: the target holds infinite values.", "Expected finite numbers.", "clean the target."
            )
        return groups["key"].to_list(), values.tolist(), float(overall)

    def to_operations(self) -> list[Operation]:
        operations: list[Operation] = []
        for column, encoding in self.state["columns"].items():
            last = len(encoding["categories"])
            codes = CategoryCodes(column, encoding["categories"], last, last, place())
            if "classes" in encoding:
                operations += [
                    MapCodes(codes, each["values"], output=name) for name, each in encoding["classes"].items()
                ]
            else:
                operations.append(MapCodes(codes, encoding["values"]))
        return [*operations, *self._drop()]

    def without(self, columns: Collection[str]) -> Self | None:
        return None if any(name in columns for name in self.state["hashed"]) else self  # they decide on the inner folds

    def lower_training(self) -> list[Operation]:
        state = self.state
        codings = {
            name: (column, encoding["categories"], each["folds"])
            for column, encoding in state["columns"].items()
            for name, each in encoding.get("classes", {column: encoding}).items()
        }
        return [MapByFold(codings, list(state["hashed"]), self.cv), *self._drop()] if codings else []

    def _drop(self) -> list[Operation]:
        replaced = [column for column, encoding in self.state["columns"].items() if "classes" in encoding]
        return [Drop(replaced)] if replaced else []


@dataclass(frozen=True)
class MapByFold(Operation):
    """Replaces each category by its code for the row's inner fold.

    `codings` maps each output to its source column, the categories, and their codes for each fold.
    """

    codings: Mapping[str, tuple[str, Sequence[Any], Sequence[Sequence[float]]]]
    hashed: Sequence[str]
    n_folds: int

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        fold = fold_of([col(name) for name in self.hashed], self.n_folds)
        columns = []
        for output, (column, categories, folds) in self.codings.items():
            last = len(categories)
            code = CategoryCodes(column, categories, last, last).expression(schema).cast(pl.Int64)
            values = pl.Series([value for fold_values in folds for value in fold_values], dtype=pl.Float64)
            columns.append(gather(values, fold * (last + 1) + code).alias(output))
        return columns

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {output: tuple(dict.fromkeys([column, *self.hashed])) for output, (column, *_) in self.codings.items()}
