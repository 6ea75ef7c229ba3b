"""Stages that encode categories by the target, without showing a row its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from rayline.core.errors import DataError, SchemaError, shorten
from rayline.core.operations.base import Drop, Operation
from rayline.core.operations.categorical import CategoryCodes, MapCodes
from rayline.core.schema import Kind, col, kind_of
from rayline.core.stage import FitContext, ParameterCheck, Stage, a_string, an_int, one_of, param
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.multi_column import GroupClasses, GroupMoments, fold_of

MAX_CLASSES = 1_000
"""Classes of a target, each of which gives a column."""


@dataclass(frozen=True)
class TargetEncoder(Stage):
    """Replace each category by the mean of the target among its training rows, shrunk to the mean of all (Float64).

    Of a target with two classes it is the share of the second class. With more classes each has a column of its own,
    `column_class`, with its share; the source column goes away.

    The training rows themselves get codes from the other inner folds only, so no row's code has seen its own target. The
    inner fold of a row comes from its values without the target: equal rows are in one fold, so a table needs more
    columns than the encoded ones. Categories that fit did not see become the mean of all; missing is a category.

    Parameters
    ----------
    columns
        The columns; all string and categorical ones without free text when omitted.
    target
        The target column; the first of fit's `target_columns` when omitted.
    target_type
        "continuous" (numbers: their mean), "binary", "multiclass" (whatever the type: shares of the classes), or "auto":
        numbers and booleans are averaged, strings are classes.
    smooth
        How many rows the mean of all counts for, or "auto": by the variance within the category and of all, as
        scikit-learn's empirical Bayes estimate.
    cv
        Inner folds.

    Raises
    ------
    SchemaError
        In fit, without a target, or with one of another type.
    DataError
        In fit, when the target has no values, one class, more than 1,000 or not two where it should, or a column more
        than a million categories.

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
        **dict.fromkeys(("shuffle", "random_state"), "leave it out: a row's inner fold comes from its values"),
        "categories": "leave it out: they are learned",
    }

    target: str | None = param(None, a_string(none=True))
    smooth: float | str = param(
        "auto",
        ParameterCheck(
            'a number of at least 0, or "auto"', lambda v: v == "auto" or (type(v) in (int, float) and v >= 0)
        ),
    )
    cv: int = param(5, an_int(2, 100))
    target_type: str = param("auto", one_of("auto", "continuous", "binary", "multiclass"))

    def required_statistics(self, view: FitContext) -> list[StatisticRequest]:
        return [self._ask(view, column) for column in view.columns]

    def _ask(self, view: FitContext, column: str) -> StatisticRequest:
        target = self._target(view)
        statistic = GroupMoments if self._is_mean(view, target) else GroupClasses
        return view.ask(statistic, target, column, *_hashed(view), n_folds=self.cv)

    def _target(self, view: FitContext) -> str:
        target = self.target or next(iter(view.targets), None)
        if target is None or target not in view.schema:
            raise SchemaError(
                "TargetEncoder: there is no target.",
                f"Expected a target column; got {target!r}.",
                "pass target_columns to fit, or target=….",
            )
        return target

    def _is_mean(self, view: FitContext, target: str) -> bool:
        kind = kind_of(view.schema[target])
        is_number = kind in (Kind.NUMERIC, Kind.BOOLEAN)
        if self.target_type == "continuous" and not is_number:
            raise SchemaError.dtype("TargetEncoder", target, "a numeric or boolean target", view.schema[target])
        if not is_number and kind is not Kind.CATEGORY:
            raise SchemaError.dtype("TargetEncoder", target, "a target of numbers or classes", view.schema[target])
        return self.target_type == "continuous" or (self.target_type == "auto" and is_number)

    def learn(self, view: FitContext, answers: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        learned: dict[str, Any] = {}
        for column in view.columns:
            answer = answers[self._ask(view, column)]
            if isinstance(answer, GroupMoments):
                learned[column] = self._learned(answer)
                continue
            classes = self._classes(answer, self._target(view))
            if len(classes) == 2:
                learned[column] = self._learned(answer.moments(classes[1]))
                continue
            names = [f"{column}_{str(label).lower() if isinstance(label, bool) else label}" for label in classes]
            each = [self._learned(answer.moments(label)) for label in classes]
            learned[column] = {
                "categories": each[0]["categories"],
                "classes": {
                    name: {k: own[k] for k in ("values", "folds")} for name, own in zip(names, each, strict=True)
                },
            }
        new = [name for own in learned.values() for name in own.get("classes", ())]
        self.refuse_taken(new, view, gone=view.columns)
        return {"columns": learned, "hashed": _hashed(view)}

    def _classes(self, answer: GroupClasses, target: str) -> list[Any]:
        classes = answer.classes
        least, most = (2, 2) if self.target_type == "binary" else (2, MAX_CLASSES)
        if not least <= len(classes) <= most:
            raise DataError(
                f"TargetEncoder: the target {target!r} has {len(classes)} classes.",
                f"Expected {'2' if most == 2 else f'{least} to {most}'}; got {shorten(classes)}.",
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
            own_keys, own_values, own = self._codes(answer.by_key(without_fold=fold))
            known = dict(zip(own_keys, own_values, strict=True))
            rest = overall if own is None else own  # all rows are in one fold: nothing is known but their mean
            folds.append([*(known.get(key, rest) for key in keys), rest])
        return {"categories": keys, "values": [*values, overall], "folds": folds}

    def _codes(self, table: pl.DataFrame) -> tuple[list[Any], list[float], float | None]:
        """The categories, the code of each, and the mean of all."""
        known = table.filter(pl.col("n") > 0)
        if not known.height:
            return [], [], None
        n, mean, m2 = (known[name].cast(pl.Float64).to_numpy() for name in ("n", "mean", "m2"))
        with np.errstate(all="ignore"):  # infinite values: refused below
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
        return known["key"].to_list(), values.tolist(), float(overall)

    def to_operations(self, where: str) -> list[Operation]:
        made: list[Operation] = []
        for column, own in self.state["columns"].items():
            last = len(own["categories"])
            codes = CategoryCodes(column, own["categories"], last, last, where)
            if "classes" in own:
                made += [MapCodes(codes, each["values"], output=name) for name, each in own["classes"].items()]
            else:
                made.append(MapCodes(codes, own["values"]))
        return [*made, *self._drop()]

    def without(self, columns: Collection[str]) -> Self | None:
        return None if any(name in columns for name in self.state["hashed"]) else self  # they decide on the inner folds

    def lower_training(self, where: str) -> list[Operation]:
        state = self.state
        made = {
            name: (column, own["categories"], each["folds"])
            for column, own in state["columns"].items()
            for name, each in own.get("classes", {column: own}).items()
        }
        return [MapByFold(made, list(state["hashed"]), self.cv), *self._drop()] if made else []

    def _drop(self) -> list[Operation]:
        gone = [column for column, own in self.state["columns"].items() if "classes" in own]
        return [Drop(gone)] if gone else []


def _hashed(view: FitContext) -> list[str]:
    return [name for name in view.schema if name not in view.targets]


@dataclass(frozen=True)
class MapByFold(Operation):
    """Each category becomes its code for the row's inner fold; `codings`: column, categories and codes for each output."""

    codings: Mapping[str, tuple[str, Sequence[Any], Sequence[Sequence[float]]]]
    hashed: Sequence[str]
    n_folds: int

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        fold = fold_of([col(name) for name in self.hashed], self.n_folds)
        made = []
        for output, (column, categories, folds) in self.codings.items():
            last = len(categories)
            code = CategoryCodes(column, categories, last, last).expression(schema).cast(pl.Int64)
            values = pl.lit(pl.Series([value for own in folds for value in own], dtype=pl.Float64))
            made.append(values.gather(fold * (last + 1) + code).alias(output))
        return made

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {output: tuple(dict.fromkeys([column, *self.hashed])) for output, (column, *_) in self.codings.items()}
