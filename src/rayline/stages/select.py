"""Stages that drop or keep columns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from rayline.core.operations.base import Drop, Operation
from rayline.core.stage import FitContext, Stage
from rayline.core.statistics.base import StatisticRequest


@dataclass(frozen=True)
class DropColumns(Stage):
    """Drop columns. Their values, missing ones too, are not read.

    Parameters
    ----------
    columns
        Names or a Polars selector.

    Raises
    ------
    ParameterError
        When `columns` are neither names nor a selector.
    SchemaError
        In fit, when a column does not exist.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import DropColumns
    >>> Preprocessor([("drop", DropColumns(["id"]))]).fit_transform(pl.DataFrame({"id": [7], "x": [1.0]})).columns
    ['x']
    """

    lossy_reason: ClassVar = "the columns that it removes, which are restored without values"

    needs_columns: ClassVar[bool] = True
    by_column: ClassVar[bool] = True

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        return {"columns": list(context.columns)}

    def to_operations(self) -> list[Operation]:
        return [Drop(list(self.state["columns"]))]


@dataclass(frozen=True)
class SelectColumns(Stage):
    """Keep these columns and drop all others that the table had in fit; target columns stay. Missing values stay as they are.

    Parameters
    ----------
    columns
        Names or a Polars selector.

    Raises
    ------
    ParameterError
        When `columns` are neither names nor a selector.
    SchemaError
        In fit, when a column does not exist.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import SelectColumns
    >>> Preprocessor([("keep", SelectColumns(["x"]))]).fit_transform(pl.DataFrame({"id": [7], "x": [1.0]})).columns
    ['x']
    """

    lossy_reason: ClassVar = "the columns that it removes, which are restored without values"

    needs_columns: ClassVar[bool] = True
    by_column: ClassVar[bool] = True

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        kept = {*context.columns, *context.targets}
        return {"columns": list(context.columns), "dropped": [name for name in context.schema if name not in kept]}

    def to_operations(self) -> list[Operation]:
        return [Drop(list(self.state["dropped"]))]

    def without(self, columns: Collection[str]) -> Self | None:
        rest = {name: [c for c in self.state[name] if c not in columns] for name in ("columns", "dropped")}
        return self.fitted(rest)
