"""Stages that fill in missing values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import polars as pl

from rayline.core.data_types import Label
from rayline.core.errors import DataError, ParameterError, SchemaError, place
from rayline.core.operations.base import Changes, Drop, Fill, Operation, Row, RowFunction
from rayline.core.operations.categorical import CategoryCodes, gather
from rayline.core.schema import Kind, col, is_category, kind_of
from rayline.core.stage import (
    ColumnStage,
    FitContext,
    ParameterCheck,
    Stage,
    no_values,
    param,
)
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.counts import ValueCounts, counting
from rayline.core.statistics.moments import Moments
from rayline.core.statistics.multi_column import GroupMoments, PairCounts
from rayline.core.statistics.quantiles import Quantiles
from rayline.core.statistics.row_counts import MissingCount

ImputeStrategy: TypeAlias = Literal["mean", "median", "most_frequent", "constant"]
"""What `SimpleImputer` puts in place of missing values."""

GroupStrategy: TypeAlias = Literal["mean", "median", "most_frequent"]
"""What `GroupImputer` puts in place of missing values."""

IndicatedColumns: TypeAlias = Literal["missing-only", "all"]
"""The columns that `MissingIndicator` marks."""


@dataclass(frozen=True)
class SimpleImputer(ColumnStage):
    """Replace the missing values (null and NaN) of each column by one value learned from it, or by a constant, as scikit-learn
    does.

    Parameters
    ----------
    columns
        The columns. When omitted: all numeric ones for "mean" and "median"; all numeric, string and boolean ones for
        "most_frequent"; those of the constant's type for "constant".
    strategy
        "mean" or "median" (numeric; the result is Float64), "most_frequent" (the smallest of several most frequent
        values) or "constant". A median is exact for up to 65,536 distinct values; for more see `Quantiles`.
    fill_value
        The constant. None means 0 for numbers and "missing" for strings.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it filled (with
        `fill_value` for "constant", otherwise with 0, "missing" or False).

    Raises
    ------
    DataError
        In fit, when a column has no values to learn from, or a mean or median that is infinite.
    ParameterError
        On an unknown strategy; in fit, when the strategy cannot fill a column of this type.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import SimpleImputer
    >>> Preprocessor([("impute", SimpleImputer())]).fit_transform(pl.DataFrame({"x": [1.0, None, 3.0]}))["x"].to_list()
    [1.0, 2.0, 3.0]
    """

    kinds: ClassVar = (Kind.NUMERIC, Kind.CATEGORY, Kind.TEXT, Kind.BOOLEAN)
    column_operation: ClassVar = Fill
    unsupported_params: ClassVar = {
        **Stage.unsupported_params,
        "add_indicator": "put a MissingIndicator before it",
        "missing_values": "null and NaN are missing; turn other values into null first (CheckRange, Expression)",
    }

    lossy_reason: ClassVar = "which values were missing"

    strategy: ImputeStrategy = "mean"
    fill_value: Label | None = None
    _: KW_ONLY
    keep_empty_features: bool | None = None

    def select(self, schema: Mapping[str, pl.DataType], **how: Any) -> list[str]:
        chosen = Stage.select(self, schema, **how)
        wanted = self._wanted()
        fitting = [column for column in chosen if kind_of(schema[column]) in wanted]
        if self.columns is not None and len(fitting) < len(chosen):
            wrong = next(column for column in chosen if column not in fitting)
            raise ParameterError(
                f"{place()} (SimpleImputer): column {wrong!r} holds {schema[wrong]}, and strategy={self.strategy!r} cannot fill it.",
                f"Expected {' or '.join(sorted(wanted))} columns.",
                "use strategy='most_frequent', or 'constant' with a value of the column's type.",
            )
        return fitting

    def _wanted(self) -> set[Kind]:
        if self.strategy in ("mean", "median"):
            return {Kind.NUMERIC, Kind.BOOLEAN} if self.columns is not None else {Kind.NUMERIC}
        if self.strategy == "constant" and self.fill_value is not None:
            if isinstance(self.fill_value, bool):
                return {Kind.BOOLEAN}
            return {Kind.CATEGORY} if isinstance(self.fill_value, str) else {Kind.NUMERIC}
        return {Kind.NUMERIC, Kind.CATEGORY, Kind.BOOLEAN}

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        by_strategy: dict[str, list[type[Statistic]]] = {
            "mean": [Moments],
            "median": [Quantiles],
            "most_frequent": [ValueCounts],
        }
        return by_strategy.get(self.strategy, [MissingCount] if self.keep_empty_features is False else [])

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        value = self._value(dtype, *statistics)
        if value is None or (statistics and isinstance(statistics[0], MissingCount) and not statistics[0].count):
            raise self.all_null(column)
        as_float = self.strategy in ("mean", "median") or (isinstance(value, float) and dtype.is_integer())
        if as_float:
            self.refuse_infinite(column, float(value))
        return {"value": float(value) if as_float else value, "dtype": pl.Float64() if as_float else None}

    def _value(self, dtype: pl.DataType, *statistics: Any) -> Any:
        if self.strategy == "mean":
            return statistics[0].mean if statistics[0].count else None
        if self.strategy == "median":
            return statistics[0].quantile(0.5)
        if self.strategy == "most_frequent":
            return statistics[0].most_frequent()
        return self._constant(dtype)

    def _constant(self, dtype: pl.DataType) -> Any:
        if self.fill_value is not None:
            return self.fill_value
        return {Kind.CATEGORY: "missing", Kind.BOOLEAN: False}.get(kind_of(dtype), 0.0 if dtype.is_float() else 0)

    def learn_empty(self, column: str, dtype: pl.DataType) -> dict[str, Any]:
        as_float = self.strategy in ("mean", "median")
        value = self._constant(dtype) if self.strategy == "constant" else self.replace(fill_value=None)._constant(dtype)
        return {"value": 0.0 if as_float else value, "dtype": pl.Float64() if as_float else None}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Fill(column, learned["value"], learned["dtype"])]


@dataclass(frozen=True)
class MissingIndicator(ColumnStage):
    """Add a 0/1 column (UInt8) `column_missing` that marks the missing values of a column, as scikit-learn
    does; the column stays.

    Parameters
    ----------
    columns
        Columns of any type; all when omitted.
    features
        "missing-only": only for columns that had missing values in fit; "all": for all columns.

    Raises
    ------
    SchemaError
        In fit, when a new name exists already.
    ParameterError
        When `features` is neither "missing-only" nor "all".

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import MissingIndicator
    >>> Preprocessor([("gaps", MissingIndicator())]).fit_transform(pl.DataFrame({"x": [1.0, None]}))["x_missing"].to_list()
    [0, 1]
    """

    kinds: ClassVar = tuple(Kind)
    keep_input: ClassVar = True

    features: IndicatedColumns = "missing-only"

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [MissingCount] if self.features == "missing-only" else []

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        learned = super().learn(context, results)
        self.refuse_existing_columns(
            [f"{c}_missing" for c, column in learned["columns"].items() if column["marked"]], context
        )
        return learned

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        return {"marked": not statistics or statistics[0].n_null > 0}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [IsMissing(column, f"{column}_missing")] if learned["marked"] else []


@dataclass(frozen=True)
class IsMissing(Operation):
    """Sets `output` to 1 (UInt8) where the column is missing, otherwise to 0."""

    column: str
    output: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column)
        missing = x.is_null() | x.is_nan().fill_null(False) if schema[self.column].is_float() else x.is_null()
        return [missing.cast(pl.UInt8).alias(self.output)]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({self.output: pl.UInt8()})

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        def mark(row: Row) -> None:
            x = row[self.column]
            row[self.output] = int(x is None or x != x)

        return mark

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output: (self.column,)}


@dataclass(frozen=True)
class GroupImputer(Stage):
    """Replace missing values (null and NaN) by the mean, median or most frequent value of the rows in the same group, as
    `groupby(by).transform("mean")` of pandas finds it.

    Groups that fit did not see, and groups without any value, get the value over all rows.

    Parameters
    ----------
    columns
        The columns to fill; all numeric ones when omitted.
    by
        The column whose values are the groups; missing values form one group.
    strategy
        "mean" or "median" (numeric; the result is Float64), or "most_frequent" (the smallest of several).
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it filled (with 0,
        "missing" or False).

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones, or for "median" and "most_frequent" more than a million pairs
        of group and value.
    SchemaError
        In fit, when the column `by` does not exist, or a mean or median is required of a column of text.
    ParameterError
        Without `by`, and on an unknown strategy.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import GroupImputer
    >>> table = pl.DataFrame({"g": ["a", "a", "b", "b"], "x": [1.0, None, 5.0, None]})
    >>> Preprocessor([("impute", GroupImputer(by="g"))]).fit_transform(table)["x"].to_list()
    [1.0, 1.0, 5.0, 5.0]
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC, Kind.BOOLEAN, Kind.CATEGORY)
    by_column: ClassVar = True

    lossy_reason: ClassVar = "which values were missing"

    by: str = param(
        "", ParameterCheck("the name of the column that has the groups", lambda v: isinstance(v, str) and bool(v))
    )
    strategy: GroupStrategy = "mean"
    _: KW_ONLY
    keep_empty_features: bool | None = None

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        return [self._request(context, column) for column in self._chosen(context)]

    def _chosen(self, context: FitContext) -> list[str]:
        if self.by not in context.schema or self.by in context.targets:
            raise SchemaError.missing(
                [self.by], [n for n in context.schema if n not in context.targets], where="GroupImputer"
            )
        chosen = [column for column in context.columns if column != self.by]
        wrong = [c for c in chosen if self.strategy != "most_frequent" and kind_of(context.schema[c]) is Kind.CATEGORY]
        if wrong:
            raise SchemaError.dtype(
                wrong[0], f"numbers for strategy={self.strategy!r}", context.schema[wrong[0]], where="GroupImputer"
            )
        return chosen

    def _request(self, context: FitContext, column: str) -> StatisticRequest:
        return (
            context.request(GroupMoments, column, self.by)
            if self.strategy == "mean"
            else context.request(PairCounts, self.by, column)
        )

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        learned: dict[str, Any] = {}
        dropped: list[str] = []
        for column in self._chosen(context):
            answer, dtype = results[self._request(context, column)], context.schema[column]
            with counting(f"GroupImputer: column {column!r} by {self.by!r}"):
                groups, values, overall = (
                    self._means(answer) if self.strategy == "mean" else self._commonest(answer, dtype)
                )
            if overall is None and self.keep_empty_features is None:
                raise no_values(type(self), column)
            if overall is None and not self.keep_empty_features:
                dropped.append(column)
                continue
            if overall is None:
                overall = {Kind.CATEGORY: "missing", Kind.BOOLEAN: False}.get(kind_of(dtype), 0)
            if any(isinstance(v, float) and not math.isfinite(v) for v in (*values, overall)):
                raise DataError(
                    f"GroupImputer: column {column!r} holds infinite values.",
                    "Expected finite numbers.",
                    "clip it first.",
                )
            as_float = self.strategy != "most_frequent"
            learned[column] = {
                "groups": groups,
                "values": values,
                "overall": overall,
                "dtype": pl.Float64() if as_float else None,
            }
        return {"columns": learned, **({"dropped": dropped} if dropped else {})}

    def _means(self, answer: GroupMoments) -> tuple[list[Any], list[Any], Any]:
        table = answer.by_key().filter(pl.col("n") > 0)
        total = Moments.merge_all(Moments(n, 0, mean, m2) for n, mean, m2 in table.select("n", "mean", "m2").rows())
        return table["key"].to_list(), table["mean"].to_list(), total.mean if total.count else None

    def _commonest(self, answer: PairCounts, dtype: pl.DataType) -> tuple[list[Any], list[Any], Any]:
        table = answer.groups.rename({"first": "key", "second": "value"}) if answer.groups is not None else None
        if table is None:
            return [], [], None
        present = table.filter(pl.col("value").is_not_null())
        if present.schema["value"].is_float():
            present = present.filter(pl.col("value").is_not_nan())
        if not present.height:
            return [], [], None
        present = present.sort("key", "value", nulls_last=True)
        by_group = [
            (key[0], self._middle(part))
            for key, part in present.partition_by("key", as_dict=True, maintain_order=True).items()
        ]
        overall = self._middle(present.group_by("value").agg(pl.col("n").sum()).sort("value"))
        return [key for key, _ in by_group], [value for _, value in by_group], overall

    def _middle(self, table: pl.DataFrame) -> Any:
        if self.strategy == "most_frequent":
            return table.filter(pl.col("n") == pl.col("n").max())["value"][0]
        values, ends = table["value"].cast(pl.Float64).to_list(), table["n"].cum_sum()
        count = int(ends[-1])
        low, high = (values[int(ends.search_sorted(p, side="right"))] for p in ((count - 1) // 2, count // 2))
        return low if low == high else (low + high) / 2

    def to_operations(self) -> list[Operation]:
        return [
            FillByGroup(column, self.by, fill["groups"], fill["values"], fill["overall"], fill["dtype"])
            for column, fill in self.state["columns"].items()
        ] + ([Drop(list(self.state["dropped"]))] if self.state.get("dropped") else [])


@dataclass(frozen=True)
class FillByGroup(Operation):
    """Replaces missing values by the value of their group, or by `overall` where the group is unknown."""

    column: str
    by: str
    groups: Sequence[Any]
    values: Sequence[Any]
    overall: Any
    dtype: pl.DataType | None = None

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        dtype = self.dtype or (pl.String() if is_category(schema[self.column]) else schema[self.column])
        n = len(self.groups)
        codes = CategoryCodes(self.by, self.groups, n, n).expression(schema)
        values = gather(pl.Series([*self.values, self.overall], dtype=dtype), codes)
        x = col(self.column).cast(dtype)
        return [(x.fill_nan(None) if dtype.is_float() else x).fill_null(values).alias(self.column)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        n, column, by = len(self.groups), self.column, self.by
        lookup, values = CategoryCodes(by, self.groups, n, n).lookup(), [*self.values, self.overall]
        as_float = (self.dtype or schema[column]).is_float()

        def fill(row: Row) -> None:
            x = row[column]
            if x is None or x != x:
                x = values[lookup(row[by])]
            row[column] = float(x) if as_float else x

        return fill

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column, self.by)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return []  # filled values stay filled
