"""Stages that scale numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar, Literal, TypeAlias

import polars as pl

from rayline.core.errors import ParameterError
from rayline.core.operations.base import Affine, ClipColumn, Drop, Operation
from rayline.core.operations.expression import Assign, Formula
from rayline.core.schema import Kind
from rayline.core.stage import FitContext, NumberStage, ParameterCheck, Stage, param
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.moments import MinMax, Moments
from rayline.core.statistics.quantiles import Quantiles

RowNorm: TypeAlias = Literal["l2", "l1", "max"]
"""The norm of a row that becomes 1."""


@dataclass(frozen=True)
class StandardScaler(NumberStage):
    """Subtract the mean and divide by the standard deviation (population, ddof=0), as scikit-learn does.

    Missing values stay missing and are ignored in fit. A constant column becomes 0. The result is Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    with_mean, with_std
        Whether to centre, and whether to scale.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.
    ParameterError
        When `with_mean` or `with_std` is neither True nor False.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import StandardScaler
    >>> Preprocessor([("scale", StandardScaler())]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 3.0]}))["x"].round(3).to_list()
    [-1.225, 0.0, 1.225]
    """

    column_operation: ClassVar = Affine

    with_mean: bool = True
    with_std: bool = True

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Moments]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        moments: Moments = statistics[0]
        if not moments.count:
            raise self.all_null(column)
        self.refuse_infinite(column, moments.mean, moments.m2)
        # As in scikit-learn, a column whose variance is within the rounding error of the mean is constant.
        error = moments.count * sys.float_info.epsilon
        spread = math.sqrt(moments.variance)
        constant = spread <= math.hypot(
            math.sqrt(error) * spread, error * moments.mean
        )  # squares of 1e200 would overflow
        return {"mean": moments.mean, "scale": 1.0 if constant else _divisor(spread)}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Affine(column, learned["mean"] if self.with_mean else 0.0, learned["scale"] if self.with_std else 1.0)]


def _divisor(scale: float) -> float:
    """Return the divisor for a column of this scale: 1 if the scale is 0, or so small that 1 / scale overflows."""
    return scale if scale and math.isfinite(1.0 / scale) else 1.0


def _is_range(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and value[0] < value[1]


@dataclass(frozen=True)
class MinMaxScaler(NumberStage):
    """Map the training range of each column onto `feature_range`, as scikit-learn does.

    Missing values stay missing. A constant column becomes the lower end. Values outside the training range are mapped
    outside `feature_range` unless `clip` is set. The result is Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    feature_range
        The lower and the upper end of the result.
    clip
        Whether to clip new values to `feature_range`.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.
    ParameterError
        When the first number of `feature_range` is not below the second.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import MinMaxScaler
    >>> Preprocessor([("scale", MinMaxScaler())]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 5.0]}))["x"].to_list()
    [0.0, 0.25, 1.0]
    """

    @property
    def column_operation(self) -> type[Operation] | None:  # type: ignore[override]
        return None if self.clip else Affine

    feature_range: tuple[float, float] = param((0.0, 1.0), ParameterCheck("two numbers, the smaller first", _is_range))
    clip: bool = False

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [MinMax]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        extremes: MinMax = statistics[0]
        if not extremes.count:
            raise self.all_null(column)
        self.refuse_infinite(column, extremes.low, extremes.high, float(extremes.high) - float(extremes.low))
        return {"low": extremes.low, "high": extremes.high}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        low, high = self.feature_range
        span = learned["high"] - learned["low"]
        operations: list[Operation] = [Affine(column, learned["low"], _divisor(span) / (high - low), float(low))]
        return [*operations, ClipColumn(column, float(low), float(high))] if self.clip else operations


@dataclass(frozen=True)
class MaxAbsScaler(NumberStage):
    """Divide each column by its largest absolute value, as scikit-learn does.

    Missing values stay missing. The result is Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    clip
        Whether to clip new values to the range from -1 to 1.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.
    ParameterError
        When `clip` is neither True nor False.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import MaxAbsScaler
    >>> Preprocessor([("scale", MaxAbsScaler())]).fit_transform(pl.DataFrame({"x": [-4.0, 2.0]}))["x"].to_list()
    [-1.0, 0.5]
    """

    @property
    def column_operation(self) -> type[Operation] | None:  # type: ignore[override]
        return None if self.clip else Affine

    clip: bool = False

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [MinMax]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        extremes: MinMax = statistics[0]
        if not extremes.count:
            raise self.all_null(column)
        scale = float(max(abs(extremes.low), abs(extremes.high)))
        self.refuse_infinite(column, scale)
        return {"scale": _divisor(scale)}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        operations: list[Operation] = [Affine(column, 0.0, learned["scale"])]
        return [*operations, ClipColumn(column, -1.0, 1.0)] if self.clip else operations


def _is_quantile_range(value: Any) -> bool:
    return _is_range(value) and value[0] >= 0 and value[1] <= 100


@dataclass(frozen=True)
class RobustScaler(NumberStage):
    """Subtract the median and divide by the range between two quantiles, as scikit-learn does.

    Missing values stay missing and are ignored in fit. The result is Float64. The quantiles are exact for up to 65,536
    distinct values in a column; for more see `Quantiles`.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    with_centering, with_scaling
        Whether to subtract the median, and whether to divide by the range.
    quantile_range
        The two quantiles, in percent.
    unit_variance
        Whether to scale the range so that normally distributed columns get variance 1.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite quantiles.
    ParameterError
        When `quantile_range` does not ascend within 0 to 100, or with `unit_variance` includes an end.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import RobustScaler
    >>> Preprocessor([("scale", RobustScaler())]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 3.0]}))["x"].to_list()
    [-1.0, 0.0, 1.0]
    """

    column_operation: ClassVar = Affine

    with_centering: bool = True
    with_scaling: bool = True
    quantile_range: tuple[float, float] = param(
        (25.0, 75.0), ParameterCheck("two percentages, the smaller first", _is_quantile_range)
    )
    unit_variance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.quantile_range
        if self.unit_variance and not 0 < low < high < 100:
            raise ParameterError.value(
                "quantile_range",
                "percentages within 0 and 100, as unit_variance needs",
                (low, high),
                where="RobustScaler",
            )

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Quantiles]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        quantiles: Quantiles = statistics[0]
        if not quantiles.count:
            raise self.all_null(column)
        low, middle, high = quantiles.quantiles([self.quantile_range[0] / 100, 0.5, self.quantile_range[1] / 100])
        self.refuse_infinite(column, low, middle, high, high - low)
        scale = 1.0 if high - low < 10 * sys.float_info.epsilon else high - low
        if self.unit_variance:
            normal = NormalDist()
            scale /= normal.inv_cdf(self.quantile_range[1] / 100) - normal.inv_cdf(self.quantile_range[0] / 100)
        return {"center": middle, "scale": scale}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        shift = learned["center"] if self.with_centering else 0.0
        return [Affine(column, shift, learned["scale"] if self.with_scaling else 1.0)]


@dataclass(frozen=True)
class Normalizer(Stage):
    """Divide each row by its norm over the columns, as scikit-learn does; rows of zeros stay unchanged.

    Missing values stay missing and count as 0 in the norm. The results are Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    norm
        "l2", "l1" or "max".

    Raises
    ------
    ParameterError
        On an unknown `norm`.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Normalizer
    >>> Preprocessor([("n", Normalizer())]).fit_transform(pl.DataFrame({"x": [3.0], "y": [4.0]})).row(0)
    (0.6, 0.8)
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC, Kind.BOOLEAN)
    by_column: ClassVar = True

    norm: RowNorm = "l2"

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        return {"columns": list(context.columns)}

    def to_operations(self) -> list[Operation]:
        columns = list(self.state["columns"])
        if not columns:
            return []
        size = "\x00norm"
        l2, largest = self.norm == "l2", self.norm == "max"
        steps: list[Operation] = [Assign({size: 0.0})]
        # A few columns per step: a formula over hundreds of columns would be nested too deeply for the query engine.
        for start in range(0, len(columns), 1 if largest else 8):
            total: Formula = ["col", size]
            for column in columns[start : start + (1 if largest else 8)]:
                x: Formula = ["abs", ["fill", ["number", ["col", column]], 0.0]]
                total = ["max", total, x] if largest else ["+", total, ["*", x, x] if l2 else x]
            steps.append(Assign({size: total}))
        length: Formula = ["sqrt", ["col", size]] if l2 else ["col", size]
        divided = {c: ["/", ["col", c], ["col", size]] for c in columns}
        return [
            *steps,
            Assign({size: length}),
            Assign({size: ["if", ["==", ["col", size], 0.0], 1.0, ["col", size]]}),
            Assign(divided),
            Drop([size]),
        ]
