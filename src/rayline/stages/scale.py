"""Stages that bring numbers to a common scale."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from rayline.core.operations import Affine, Clip, Operation
from rayline.core.schema import Kind
from rayline.core.stage import Check, ColumnStage, a_bool, param
from rayline.core.statistics import Extremes, Moments, Statistic


@dataclass(frozen=True)
class StandardScaler(ColumnStage):
    """Subtract the mean and divide by the standard deviation (population, ddof=0), as scikit-learn does.

    Missing values stay missing and do not count. A constant column becomes 0. The result is Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    with_mean, with_std
        Whether to centre, and whether to scale.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import StandardScaler
    >>> Preprocessor([("scale", StandardScaler())]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 3.0]}))["x"].round(3).to_list()
    [-1.225, 0.0, 1.225]
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC, Kind.BOOLEAN)
    becomes: ClassVar = Affine

    with_mean: bool = param(True, a_bool())
    with_std: bool = param(True, a_bool())

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Moments]

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        moments: Moments = answers[0]
        if not moments.count:
            raise self.all_null(column)
        self.refuse_infinite(column, moments.mean, moments.m2)
        # As scikit-learn: a variance within the rounding error of the mean is none.
        error = moments.count * sys.float_info.epsilon
        constant = moments.variance <= error * moments.variance + (error * moments.mean) ** 2
        return {"mean": moments.mean, "scale": 1.0 if constant else math.sqrt(moments.variance)}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [Affine(column, learned["mean"] if self.with_mean else 0.0, learned["scale"] if self.with_std else 1.0)]


def _is_range(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and value[0] < value[1]


@dataclass(frozen=True)
class MinMaxScaler(ColumnStage):
    """Map the training range of each column onto `feature_range`, as scikit-learn does.

    Missing values stay missing. A constant column becomes the low end. Values outside of the training range land
    outside of `feature_range` unless `clip` is set. The result is Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    feature_range
        The low and the high end of the result.
    clip
        Whether new values are kept within `feature_range`.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import MinMaxScaler
    >>> Preprocessor([("scale", MinMaxScaler())]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 5.0]}))["x"].to_list()
    [0.0, 0.25, 1.0]
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC, Kind.BOOLEAN)

    feature_range: tuple[float, float] = param((0.0, 1.0), Check("two numbers, the smaller first", _is_range))
    clip: bool = param(False, a_bool())

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Extremes]

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        extremes: Extremes = answers[0]
        if not extremes.count:
            raise self.all_null(column)
        self.refuse_infinite(column, extremes.low, extremes.high)
        return {"low": extremes.low, "high": extremes.high}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        low, high = self.feature_range
        span = learned["high"] - learned["low"]
        operations: list[Operation] = [Affine(column, learned["low"], (span or 1.0) / (high - low), float(low))]
        return [*operations, Clip(column, float(low), float(high))] if self.clip else operations
