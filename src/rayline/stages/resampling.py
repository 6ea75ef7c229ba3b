"""Stages that drop or repeat training rows. In prediction they do nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import polars as pl

from rayline.core.errors import ParameterError, SchemaError, at
from rayline.core.operations.base import Operation
from rayline.core.operations.categorical import CategoryCodes
from rayline.core.operations.expression import Formula, FormulaLike, check, columns_of, formula_to_polars, kind
from rayline.core.operations.polars_to_formula import formula_of
from rayline.core.schema import col
from rayline.core.stage import FitContext, ParameterCheck, Stage, an_int, param
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import ValueCounts, counting
from rayline.core.statistics.multi_column import row_hash

_COPIES = "\x00copies"


@dataclass(frozen=True)
class DropRows(Stage):
    """Drop the training rows for which a condition is true; in prediction every row stays.

    Parameters
    ----------
    columns
        Left out: the condition names its columns.
    where
        A condition as in `Expression`, for example `[">", ["col", "age"], 120]` or `pl.col("age") > 120`. Rows for which it
        is missing stay.

    Raises
    ------
    SchemaError
        In fit, when a column does not exist or the formula is not a condition.
    ParameterError
        When `where` is no formula (see `Expression`), or `columns` is given.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import DropRows
    >>> Preprocessor([("old", DropRows(where=[">", ["col", "age"], 120]))]).fit_transform(pl.DataFrame({"age": [30, 999]})).height
    1
    """

    resamples: ClassVar = True

    where: FormulaLike | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns is not None:
            raise ParameterError(
                "DropRows: columns is not a parameter of it.", "Expected the columns in the formula.", "leave it out."
            )
        if isinstance(self.where, pl.Expr):
            with at("DropRows"):
                object.__setattr__(self, "where", formula_of(self.where))
        with at("DropRows"):
            check(self.where)

    def select(self, schema: Mapping[str, pl.DataType], **how: Any) -> list[str]:
        return []

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        with at("DropRows"):
            result_kind = kind(self.where, context.schema)
        if result_kind not in ("b", "?"):
            raise SchemaError(
                "DropRows: the formula is no condition.",
                f"Expected true or false; got {self.where!r}.",
                "compare something.",
            )
        return {"columns": []}

    def to_operations(self) -> list[Operation]:
        _ = self.state
        return []

    def lower_training(self) -> list[Operation]:
        _ = self.state
        return [FilterRows(self.where)]

    def without(self, columns: Collection[str]) -> Self | None:
        return None if any(name in columns for name in columns_of(self.where)) else self


@dataclass(frozen=True)
class FilterRows(Operation):
    """Drops the rows for which a formula is true."""

    condition: Formula

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return []

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        condition = formula_to_polars(self.condition, table.collect_schema())
        return table.filter(condition.cast(pl.Boolean).fill_null(False).not_())

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {}


@dataclass(frozen=True)
class _Resample(Stage):
    """A stage that repeats or drops rows by their class."""

    resamples: ClassVar = True

    by: str | None = None
    ratio: float = param(
        1.0, ParameterCheck("a number above 0, up to 1", lambda v: type(v) in (int, float) and 0 < v <= 1)
    )
    seed: int = param(0, an_int(0, 1 << 62))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.columns is not None:
            name = type(self).__name__
            raise ParameterError(
                f"{name}: columns is not a parameter of it.", "Expected the class column as by=….", "leave it out."
            )

    def select(self, schema: Mapping[str, pl.DataType], **how: Any) -> list[str]:
        return []

    def _by(self, context: FitContext) -> str:
        return context.class_column_of(self, self.by)

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        return [context.request(ValueCounts, self._by(context))]

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        with counting(f"{type(self).__name__}: column {self._by(context)!r}"):
            table = results[context.request(ValueCounts, self._by(context))].table
        n = table["n"].to_list()
        rates = [self._rate(count, n) for count in n]
        return {
            "columns": [],
            "by": self._by(context),
            "classes": table["value"].to_list(),
            "rates": rates,
            "hashed": context.hashed_columns,
        }

    def _rate(self, count: int, n: Sequence[int]) -> float:
        raise NotImplementedError

    def to_operations(self) -> list[Operation]:
        _ = self.state
        return []

    def lower_training(self) -> list[Operation]:
        state = self.state
        return [RepeatRows(state["by"], list(state["classes"]), list(state["rates"]), list(state["hashed"]), self.seed)]

    def without(self, columns: Collection[str]) -> Self | None:
        return None if any(name in columns for name in self.state["hashed"]) else self


@dataclass(frozen=True)
class Upsample(_Resample):
    """Repeat training rows of the rarer classes until each has `ratio` times as many rows as the most frequent class.

    For a fractional rate, a hash of the content decides which rows are repeated once more. So the result does not depend on
    how the rows are split, and the class sizes are exact only on average. In prediction nothing changes. Rows whose class
    is missing stay unchanged.

    Parameters
    ----------
    columns
        Left out: whole rows are repeated.
    by
        The column of the classes; the first target when omitted.
    ratio
        The number of rows of each class, relative to the most frequent one; above 0, at most 1.
    seed
        The seed of the hash that chooses rows.

    Raises
    ------
    SchemaError
        In fit, when there is no such column.
    ParameterError
        When `ratio` is not above 0 and at most 1, or `columns` is given.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Upsample
    >>> table = pl.DataFrame({"x": [1, 2, 3], "y": ["a", "a", "b"]})
    >>> Preprocessor([("even", Upsample())]).fit_transform(table, target_columns=["y"])["y"].to_list()
    ['a', 'a', 'b', 'b']
    """

    def _rate(self, count: int, n: Sequence[int]) -> float:
        return max(1.0, self.ratio * max(n) / count)


@dataclass(frozen=True)
class Downsample(_Resample):
    """Drop training rows of the more frequent classes until the rarest class has `ratio` times as many rows as each.

    A hash of the content decides which rows stay. So the result does not depend on how the rows are split, equal rows stay
    or are dropped together, and the class sizes are exact only on average. In prediction nothing changes. Rows whose class
    is missing stay.

    Parameters
    ----------
    columns
        Left out: only the class decides.
    by
        The column of the classes; the first target when omitted.
    ratio
        The number of rows of the rarest class, relative to each other class; above 0, at most 1.
    seed
        The seed of the hash that chooses rows.

    Raises
    ------
    SchemaError
        In fit, when there is no such column.
    ParameterError
        When `ratio` is not above 0 and at most 1, or `columns` is given.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Downsample
    >>> table = pl.DataFrame({"x": range(1000), "y": [i % 10 == 0 for i in range(1000)]})
    >>> 150 < Preprocessor([("even", Downsample())]).fit_transform(table, target_columns=["y"]).height < 250
    True
    """

    def _rate(self, count: int, n: Sequence[int]) -> float:
        return min(1.0, min(n) / self.ratio / count)


@dataclass(frozen=True)
class RepeatRows(Operation):
    """Repeats each row by the rate of its class; the fractional part of a rate is assigned to rows by their hash."""

    by: str
    classes: Sequence[Any]
    rates: Sequence[float]
    hashed: Sequence[str]
    seed: int

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        n = len(self.classes)
        rates = pl.lit(pl.Series([*self.rates, 1.0], dtype=pl.Float64))  # rows with other values stay unchanged
        rate = rates.gather(CategoryCodes(self.by, self.classes, n, n).expression(schema))
        share = row_hash([col(name) for name in self.hashed], self.seed).cast(pl.Float64) / 2.0**64
        return [(rate.floor() + (share < rate - rate.floor()).cast(pl.Float64)).cast(pl.Int64).alias(_COPIES)]

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        counted = super().apply(table).filter(pl.col(_COPIES) > 0)
        return counted.with_columns(pl.int_ranges(0, pl.col(_COPIES)).alias(_COPIES)).explode(_COPIES).drop(_COPIES)

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {}
