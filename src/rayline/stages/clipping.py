"""Stages that clip numbers or compare them with a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from rayline.core.errors import DataError
from rayline.core.operations.base import ClipColumn, Operation
from rayline.core.operations.expression import Assign, Formula
from rayline.core.schema import Kind
from rayline.core.stage import ColumnStage, NumberStage, a_number, param
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.quantiles import Quantiles


@dataclass(frozen=True)
class Binarizer(ColumnStage):
    """Replace numbers above the threshold by 1.0 and all others by 0.0, as scikit-learn does; missing values stay missing.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    threshold
        The largest value that becomes 0.

    Raises
    ------
    ParameterError
        When `threshold` is no number.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Binarizer
    >>> Preprocessor([("late", Binarizer(threshold=15))]).fit_transform(pl.DataFrame({"x": [3, 20, None]}))["x"].to_list()
    [0.0, 1.0, None]
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC, Kind.BOOLEAN)

    threshold: float = 0.0

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        x = ["number", ["col", column]]
        above: Formula = ["+", [">", x, float(self.threshold)], 0]
        return [Assign({column: above})]


@dataclass(frozen=True)
class Clipper(NumberStage):
    """Clip values to bounds: quantiles of the training rows (winsorising), or given numbers.

    Missing values stay missing. The result is Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    lower_quantile, upper_quantile
        The quantiles (from 0 to 1) that become the bounds; None for no such bound.
    low, high
        The bounds as numbers; they take precedence over the quantiles.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a column has no values, or the lower bound is above the upper one.
    ParameterError
        When a quantile is outside 0 to 1, or a bound is no number.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Clipper
    >>> Preprocessor([("clip", Clipper(low=0, high=3))]).fit_transform(pl.DataFrame({"x": [-1, 2, 9]}))["x"].to_list()
    [0.0, 2.0, 3.0]
    """

    lossy_reason: ClassVar = "values beyond the bounds"

    lower_quantile: float | None = param(0.01, a_number(0, 1, none=True))
    upper_quantile: float | None = param(0.99, a_number(0, 1, none=True))
    low: float | None = None
    high: float | None = None

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        needs_quantiles = (self.low is None and self.lower_quantile is not None) or (
            self.high is None and self.upper_quantile is not None
        )
        return [Quantiles] if needs_quantiles else []

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        if statistics and not statistics[0].count:
            raise self.all_null(column)
        low = (
            self.low
            if self.low is not None or self.lower_quantile is None
            else statistics[0].quantile(self.lower_quantile)
        )
        high = (
            self.high
            if self.high is not None or self.upper_quantile is None
            else statistics[0].quantile(self.upper_quantile)
        )
        bounds = {"low": None if low is None else float(low), "high": None if high is None else float(high)}
        if low is not None and high is not None and not low <= high:
            raise DataError(
                f"Clipper: the bounds of column {column!r} cross.",
                f"Expected low <= high; got {bounds}.",
                "change them.",
            )
        return bounds

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [ClipColumn(column, learned["low"], learned["high"])]
