"""Stages that validate values: invalid ones raise an error, become missing, or are logged.

Rows are never dropped: every input row gets a result. To predict only the valid rows of a batch, keep the action "error"
and pass `on_error="null"` or "collect" to `InferencePipeline.transform`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import polars as pl

from rayline.core.errors import DataError, counted, place, shorten
from rayline.core.operations.base import ColumnOperation, Operation, Row, RowFunction
from rayline.core.schema import Kind, col
from rayline.core.stage import ColumnStage
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.counts import ValueCounts
from rayline.core.statistics.moments import MinMax

LOG = logging.getLogger("rayline.checks")
"""The logger of the action "warn"."""


CheckAction: TypeAlias = Literal["error", "missing", "warn"]
"""What happens to a value that breaks a rule."""

MissingAction: TypeAlias = Literal["error", "warn"]
"""What happens at a missing value."""


@dataclass(frozen=True)
class RequireValues(ColumnOperation):
    """Validates values by a rule: invalid ones raise DataError, become missing or are logged.

    Rules: "known", "range" (low, high), "categories". Actions: "error", "missing", "warn".
    """

    stays: ClassVar = True  # values that were made missing stay missing
    rule: str
    allowed: Sequence[Any]
    action: str
    stage: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column)
        if schema[self.column].is_float():
            x = x.fill_nan(None)
        if self.rule == "known":
            good = x.is_not_null()
        elif self.rule == "range":
            low, high = self.allowed
            good = pl.lit(True)
            if low is not None:
                good = good & (x >= low)
            if high is not None:
                good = good & (x <= high)
            good = good | x.is_null()
        else:
            good = x.cast(pl.String).is_in(pl.Series(self.allowed, dtype=pl.String).implode()) | x.is_null()
        if self.action == "missing":
            return [pl.when(good).then(x).alias(self.column)]
        checked = pl.struct(good=good, value=x).map_batches(
            self._refuse, return_dtype=schema[self.column], is_elementwise=True
        )
        return [checked.alias(self.column)]

    def _refuse(self, rows: pl.Series) -> pl.Series:
        bad = rows.struct.field("value").filter(~rows.struct.field("good"))
        if len(bad):
            self._report(bad.unique(maintain_order=True).head(5).to_list(), len(bad), len(rows))
        return rows.struct.field("value")

    def _report(self, values: Sequence[Any], n_bad: int, n_rows: int) -> None:
        got = ", ".join(map(repr, values))
        if self.action == "error":
            raise DataError(
                f"Preprocessor.transform: stage {self.stage!r} refuses values of column {self.column!r}.",
                f"Expected {self._expected()}; got {got}.",
                'correct the data, or set action="missing" and impute afterwards.',
            )
        text = "stage %r: %d of %d values of column %r are %s, expected %s"
        LOG.warning(text, self.stage, n_bad, n_rows, self.column, got, self._expected())

    def _expected(self) -> str:
        if self.rule == "range":
            low, high = self.allowed
            if low is None or high is None:
                return f"values of at most {high}" if low is None else f"values of at least {low}"
            return f"values from {low} to {high}"
        if self.rule == "known":
            return "a value in every row"
        return f"one of {counted(len(self.allowed), 'category')} seen in fit, {shorten(self.allowed)}"

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, good, action = self.column, self._test(), self.action

        def require(row: Row) -> None:
            x = row[column]
            if not good(x):
                if action == "missing":
                    row[column] = None
                else:
                    self._report([x], 1, 1)

        return require

    def _test(self) -> Callable[[Any], bool]:
        if self.rule == "known":
            return lambda x: x is not None
        if self.rule == "range":
            low, high = self.allowed
            return lambda x: x is None or ((low is None or x >= low) and (high is None or x <= high))
        known = {*self.allowed, None}
        return lambda x: x in known


@dataclass(frozen=True)
class CheckMissing(ColumnStage):
    """Raise an error when a column has missing values (null or NaN), or log them.

    Parameters
    ----------
    columns
        Columns of any type; all when omitted.
    action
        "error", or "warn": the values pass, and their number is logged to `rayline.checks`.

    Raises
    ------
    DataError
        In transform, on a missing value with `action="error"`.
    ParameterError
        On an unknown `action`, such as "missing".

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import CheckMissing
    >>> Preprocessor([("known", CheckMissing())]).fit_transform(pl.DataFrame({"x": [1.0]}))["x"].to_list()
    [1.0]
    """

    kinds: ClassVar = tuple(Kind)

    action: MissingAction = "error"

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [RequireValues(column, "known", [], self.action, place())]


@dataclass(frozen=True)
class CheckRange(ColumnStage):
    """Raise an error for numbers outside a range, make them missing, or log them; missing values pass.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    low, high
        The range, ends included. When both are omitted, the range of the training rows.
    action
        "error", "missing", or "warn": the values pass, and their number is logged to `rayline.checks`.

    Raises
    ------
    DataError
        In transform, on a value outside the range with `action="error"`; in fit, when the range must be learned from a
        column without values.
    ParameterError
        On an unknown `action`, and on ends that are no numbers.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import CheckRange
    >>> stage = CheckRange(low=0, action="missing")
    >>> Preprocessor([("range", stage)]).fit_transform(pl.DataFrame({"x": [1.0, -1.0]}))["x"].to_list()
    [1.0, None]
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC,)

    @property
    def lossy_reason(self) -> str:  # type: ignore[override]
        return "" if self.action != "missing" else "values out of range that became missing"

    low: float | None = None
    high: float | None = None
    action: CheckAction = "error"

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [MinMax] if self.low is None and self.high is None else []

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        if not statistics:
            return {"low": self.low, "high": self.high}
        if not statistics[0].count:
            raise self.all_null(column)
        return {"low": statistics[0].low, "high": statistics[0].high}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [RequireValues(column, "range", [learned["low"], learned["high"]], self.action, place())]


@dataclass(frozen=True)
class CheckCategories(ColumnStage):
    """Raise an error for categories that fit did not see, make them missing, or log them; missing values pass.

    Parameters
    ----------
    columns
        String and categorical columns; all of them without free text when omitted.
    action
        "error", "missing", or "warn": the values pass, and their number is logged to `rayline.checks`.

    Raises
    ------
    DataError
        In transform, on a new category with `action="error"`.
    ParameterError
        On an unknown `action`.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import CheckCategories
    >>> p = Preprocessor([("known", CheckCategories(action="missing"))]).fit(pl.DataFrame({"c": ["a", "b"]}))
    >>> p.transform(pl.DataFrame({"c": ["b", "z"]}))["c"].to_list()
    ['b', None]
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = (Kind.CATEGORY, Kind.TEXT)

    action: CheckAction = "error"

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        return {"categories": statistics[0].table["value"].to_list()}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [RequireValues(column, "categories", learned["categories"], self.action, place())]
