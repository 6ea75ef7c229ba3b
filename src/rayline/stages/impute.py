"""Stages that fill in missing values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from rayline.core.errors import ParameterError
from rayline.core.operations import Fill, Operation
from rayline.core.schema import Kind, kind_of
from rayline.core.stage import ColumnStage, Stage, anything, one_of, param
from rayline.core.statistics import Moments, Quantiles, Statistic, ValueCounts


@dataclass(frozen=True)
class SimpleImputer(ColumnStage):
    """Replace missing values (null and NaN) of each column by one value learned from it, or by a constant.

    Parameters
    ----------
    columns
        The columns; when omitted all numeric ones for "mean" and "median", all numeric, string and boolean ones for
        "most_frequent", and those of the constant's type for "constant".
    strategy
        "mean" and "median" (numeric, the result is Float64), "most_frequent" (the smallest of several commonest
        values) or "constant". A median is exact up to 65,536 distinct values; beyond that see `Quantiles`.
    fill_value
        The constant. None means 0 for numbers and "missing" for strings.

    Raises
    ------
    DataError
        In fit, when a column has no values to learn from.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import SimpleImputer
    >>> Preprocessor([("impute", SimpleImputer())]).fit_transform(pl.DataFrame({"x": [1.0, None, 3.0]}))["x"].to_list()
    [1.0, 2.0, 3.0]
    """

    kinds: ClassVar = (Kind.NUMERIC, Kind.CATEGORY, Kind.TEXT, Kind.BOOLEAN)
    becomes: ClassVar = Fill

    strategy: str = param("mean", one_of("mean", "median", "most_frequent", "constant"))
    fill_value: Any = param(None, anything())

    def select(self, schema: Mapping[str, pl.DataType], **how: Any) -> list[str]:
        chosen = Stage.select(self, schema, **how)
        wanted = self._wanted()
        fitting = [column for column in chosen if kind_of(schema[column]) in wanted]
        if self.columns is not None and len(fitting) < len(chosen):
            wrong = next(column for column in chosen if column not in fitting)
            raise ParameterError(
                f"{how['where']} (SimpleImputer): column {wrong!r} holds {schema[wrong]}, and strategy={self.strategy!r} cannot fill it.",
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

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        by_strategy: dict[str, list[type[Statistic]]] = {"mean": [Moments], "median": [Quantiles], "most_frequent": [ValueCounts]}
        return by_strategy.get(self.strategy, [])

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        value = self._value(dtype, *answers)
        if value is None:
            raise self.all_null(column)
        as_float = self.strategy in ("mean", "median") or (isinstance(value, float) and dtype.is_integer())
        if as_float:
            self.refuse_infinite(column, float(value))
        return {"value": float(value) if as_float else value, "dtype": pl.Float64() if as_float else None}

    def _value(self, dtype: pl.DataType, *answers: Any) -> Any:
        if self.strategy == "mean":
            return answers[0].mean if answers[0].count else None
        if self.strategy == "median":
            return answers[0].quantile(0.5)
        if self.strategy == "most_frequent":
            return answers[0].most_frequent()
        if self.fill_value is not None:
            return self.fill_value
        return {Kind.CATEGORY: "missing", Kind.BOOLEAN: False}.get(kind_of(dtype), 0.0 if dtype.is_float() else 0)

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [Fill(column, learned["value"], learned["dtype"])]
