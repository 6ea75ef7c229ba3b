"""Stages that encode categories by the target, without showing a row its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from rayline.core.errors import DataError, SchemaError
from rayline.core.joint import GroupMoments, fold_of
from rayline.core.operations import Codes, MapCodes, Operation
from rayline.core.schema import Kind, col, kind_of
from rayline.core.stage import Check, Stage, View, a_string, an_int, param
from rayline.core.statistics import Moments, Request


@dataclass(frozen=True)
class TargetEncoder(Stage):
    """Replace each category by the mean of the target among its training rows, shrunk to the mean of all (Float64).

    The training rows themselves get codes from the other inner folds only, so no row's code has seen its own target. The
    inner fold of a row comes from its values without the target: equal rows are in one fold, so a table needs more
    columns than the encoded ones. Categories that fit did not see become the mean of all; missing is a category.

    Parameters
    ----------
    columns
        The columns; all string and categorical ones without free text when omitted.
    target
        The target column, numeric or boolean; the first of fit's `target_columns` when omitted.
    smooth
        How many rows the mean of all counts for, or "auto": by the variance within the category and of all, as
        scikit-learn's empirical Bayes estimate.
    cv
        Inner folds.

    Raises
    ------
    SchemaError
        In fit, without a numeric or boolean target.
    DataError
        In fit, when the target has no values or a column more than a million categories.

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
    elsewhere: ClassVar = {
        **Stage.elsewhere,
        **dict.fromkeys(("shuffle", "random_state"), "leave it out: a row's inner fold comes from its values"),
        "categories": "leave it out: they are learned",
    }

    target: str | None = param(None, a_string(none=True))
    smooth: float | str = param(
        "auto",
        Check('a number of at least 0, or "auto"', lambda v: v == "auto" or (type(v) in (int, float) and v >= 0)),
    )
    cv: int = param(5, an_int(2, 100))

    def requests(self, view: View) -> list[Request]:
        return [self._ask(view, column) for column in view.columns]

    def _ask(self, view: View, column: str) -> Request:
        return view.ask(GroupMoments, self._target(view), column, *_hashed(view), n_folds=self.cv)

    def _target(self, view: View) -> str:
        target = self.target or next(iter(view.targets), None)
        if target is None or target not in view.schema:
            raise SchemaError(
                "TargetEncoder: there is no target.",
                f"Expected a target column; got {target!r}.",
                "pass target_columns to fit, or target=….",
            )
        if kind_of(view.schema[target]) not in (Kind.NUMERIC, Kind.BOOLEAN):
            raise SchemaError.dtype("TargetEncoder", target, "a numeric or boolean target", view.schema[target])
        return target

    def learn(self, view: View, answers: Mapping[Request, Any]) -> dict[str, Any]:
        learned: dict[str, Any] = {}
        for column in view.columns:
            answer: GroupMoments = answers[self._ask(view, column)]
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
            learned[column] = {"categories": keys, "values": [*values, overall], "folds": folds}
        return {"columns": learned, "hashed": _hashed(view)}

    def _codes(self, table: pl.DataFrame) -> tuple[list[Any], list[float], float | None]:
        """The categories, the code of each, and the mean of all."""
        known = table.filter(pl.col("n") > 0)
        groups = known.select("n", "mean", "m2").rows()
        total = Moments.merge_all(Moments(n, 0, mean, m2) for n, mean, m2 in groups)
        if not total.count:
            return [], [], None
        values = []
        for n, mean, m2 in groups:
            if self.smooth == "auto":
                weight = total.variance * n / (total.variance * n + m2 / n) if total.variance > 0 else 1.0
            else:
                weight = n / (n + float(self.smooth)) if n + float(self.smooth) else 1.0
            values.append(weight * mean + (1 - weight) * total.mean)
        if not all(math.isfinite(value) for value in (*values, total.mean)):
            raise DataError(
                "TargetEncoder: the target holds infinite values.", "Expected finite numbers.", "clean the target."
            )
        return known["key"].to_list(), values, total.mean

    def lower(self, where: str) -> list[Operation]:
        made: list[Operation] = []
        for column, own in self.state["columns"].items():
            last = len(own["categories"])
            made.append(MapCodes(Codes(column, own["categories"], last, last, where), own["values"]))
        return made

    def lower_training(self, where: str) -> list[Operation]:
        state = self.state
        made = {column: (own["categories"], own["folds"]) for column, own in state["columns"].items()}
        return [MapByFold(made, list(state["hashed"]), self.cv)] if made else []


def _hashed(view: View) -> list[str]:
    return [name for name in view.schema if name not in view.targets]


@dataclass(frozen=True)
class MapByFold(Operation):
    """Each category becomes its code for the row's inner fold; `codings` holds categories and codes for each column."""

    codings: Mapping[str, tuple[Sequence[Any], Sequence[Sequence[float]]]]
    hashed: Sequence[str]
    n_folds: int

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        fold = fold_of([col(name) for name in self.hashed], self.n_folds)
        made = []
        for column, (categories, folds) in self.codings.items():
            last = len(categories)
            code = Codes(column, categories, last, last).expression(schema).cast(pl.Int64)
            values = pl.lit(pl.Series([value for own in folds for value in own], dtype=pl.Float64))
            made.append(values.gather(fold * (last + 1) + code).alias(column))
        return made

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {column: tuple(dict.fromkeys([column, *self.hashed])) for column in self.codings}
