"""The quantile transform, which maps a column onto a uniform or normal distribution."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl

from rayline.core.errors import needing
from rayline.core.operations.base import ColumnOperation, Operation, Row, RowFunction
from rayline.core.operations.numeric import Numbers, map_numbers
from rayline.core.schema import col
from rayline.core.stage import NumberStage, an_int, param
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.quantiles import Quantiles

OutputDistribution: TypeAlias = Literal["uniform", "normal"]
"""The distribution of the transformed values."""


@dataclass(frozen=True)
class Interpolate(ColumnOperation):
    """Piecewise linear interpolation with steps: `at` at each point; between two, from `right` of one to `left` of the next.

    Points are ascending. Outside of them the result is `at` of the first or the last point.
    """

    points: Sequence[float]
    left: Sequence[float]
    at: Sequence[float]
    right: Sequence[float]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [map_numbers(col(self.column), self._map)]

    def _map(self, x: Numbers) -> Numbers:
        points, left, at, right = (
            np.asarray(v, dtype=np.float64) for v in (self.points, self.left, self.at, self.right)
        )
        x = np.clip(x, points[0], points[-1])
        place = np.searchsorted(points, x)
        before = np.maximum(place - 1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            between = right[before] + (x - points[before]) / (points[place] - points[before]) * (
                left[place] - right[before]
            )
        return np.where(points[place] == x, at[place], between)

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, points, left, at, right = (
            self.column,
            list(self.points),
            list(self.left),
            list(self.at),
            list(self.right),
        )

        def interpolate(row: Row) -> None:
            x = row[column]
            if x is None:
                return
            x = min(max(float(x), points[0]), points[-1])
            place = bisect_left(points, x)
            if points[place] == x:
                row[column] = at[place]
            else:
                before = place - 1
                share = (x - points[before]) / (points[place] - points[before])
                row[column] = right[before] + share * (left[place] - right[before])

        return interpolate

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        knots: dict[float, float] = {}
        for point, left, right in zip(self.points, self.left, self.right, strict=True):
            knots |= {left: point, right: point}
        values = list(knots.values())
        return [Interpolate(self.column, list(knots), values, values, values)]


def _special() -> Any:
    """Import and return SciPy's functions of the normal distribution."""
    with needing("QuantileTransformer(output_distribution='normal')", "scipy", "sklearn"):
        from scipy import special
    return special


def _normal_quantile() -> tuple[Any, float, float]:
    """Return the normal quantile function and the bounds to which its results are clipped."""
    ndtri = _special().ndtri
    return ndtri, float(ndtri(1e-7 - np.spacing(1))), float(ndtri(1 - (1e-7 - np.spacing(1))))


@dataclass(frozen=True)
class NormalQuantile(ColumnOperation):
    """Replaces a probability from 0 to 1 by the normal quantile, clipped to ±5.2 as in scikit-learn."""

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [map_numbers(col(self.column), self._map)]

    def _map(self, x: Numbers) -> Numbers:
        ndtri, low, high = _normal_quantile()
        clipped: Numbers = np.clip(ndtri(x), low, high)
        return clipped

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, (ndtri, low, high) = (
            self.column,
            _normal_quantile(),
        )  # the same function of one number gives the same bits

        def normal(row: Row) -> None:
            if row[column] is not None:
                row[column] = min(max(float(ndtri(row[column])), low), high)

        return normal

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [NormalShare(self.column)]


@dataclass(frozen=True)
class NormalShare(ColumnOperation):
    """The inverse of `NormalQuantile`: replaces a normal quantile by its probability."""

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [map_numbers(col(self.column), self._map)]

    def _map(self, x: Numbers) -> Numbers:
        share = _special().ndtr(x)
        return np.where(share < 1e-7, 0.0, np.where(share > 1 - 1e-7, 1.0, share))  # the quantiles were clipped there


@dataclass(frozen=True)
class QuantileTransformer(NumberStage):
    """Map each column onto a uniform or normal distribution by its quantiles, as scikit-learn does without subsampling.

    Missing values stay missing. The result is Float64. The quantiles are exact for up to 65,536 distinct values in a
    column; for more see `Quantiles`.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    n_quantiles
        The number of quantiles to learn (at most the number of rows).
    output_distribution
        "uniform" or "normal".
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.
    MissingExtraError
        For "normal", when SciPy is not installed.
    ParameterError
        When `n_quantiles` is below 2, or on an unknown distribution.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import QuantileTransformer
    >>> Preprocessor([("q", QuantileTransformer())]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 100.0]}))["x"].to_list()
    [0.0, 0.5, 1.0]
    """

    n_quantiles: int = param(1000, an_int(2))
    output_distribution: OutputDistribution = "uniform"

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Quantiles]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        quantiles: Quantiles = statistics[0]
        if not quantiles.count:
            raise self.all_null(column)
        n_rows = quantiles.count + quantiles.n_null  # as in scikit-learn, which counts missing values here
        references = np.linspace(0, 1, max(1, min(self.n_quantiles, n_rows)))
        landmarks = np.maximum.accumulate(np.array(quantiles.quantiles(references.tolist())))
        low, high = float(landmarks[0]), float(landmarks[-1])
        self.refuse_infinite(column, low, high, high - low)
        points, first = np.unique(landmarks, return_index=True)
        last = np.append(first[1:], len(landmarks)) - 1
        left, right = references[first], references[last]
        at = (left + right) / 2
        if len(points) == 1:  # a constant becomes 0, as do smaller values; larger values become 1
            points, left, at, right = (
                np.array([points[0], np.nextafter(points[0], np.inf)]),
                *[np.array([0.0, 1.0])] * 3,
            )
        at[0], at[-1] = 0.0, 1.0
        return {"points": points.tolist(), "left": left.tolist(), "at": at.tolist(), "right": right.tolist()}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        operations: list[Operation] = [
            Interpolate(column, learned["points"], learned["left"], learned["at"], learned["right"])
        ]
        return [*operations, NormalQuantile(column)] if self.output_distribution == "normal" else operations
