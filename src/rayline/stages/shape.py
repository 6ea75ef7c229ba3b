"""Stages that change the shape of a distribution: logarithms, power transforms, quantile maps, clipping, thresholds."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from rayline.core.errors import DataError, MissingExtraError
from rayline.core.expression import Assign, Formula
from rayline.core.operations import Affine, Clip, Drop, Operation, Row, RowFunction
from rayline.core.schema import Kind, col
from rayline.core.stage import ColumnStage, View, a_bool, a_number, an_int, one_of, param
from rayline.core.statistics import AtMost, Extremes, Quantiles, Request, Statistic


@dataclass(frozen=True)
class _NumberStage(ColumnStage):
    """A stage for numeric columns, which come out as Float64; missing values stay missing."""

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC, Kind.BOOLEAN)


@dataclass(frozen=True)
class Log(_NumberStage):
    """Replace x by ln(x + offset); missing stays missing, and a value at or below -offset is refused.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    offset
        What is added first; 1 by default, so that counts of 0 become 0.

    Raises
    ------
    DataError
        In fit, when a value is too small. A smaller one that comes later becomes missing.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Log
    >>> Preprocessor([("log", Log(offset=0))]).fit_transform(pl.DataFrame({"x": [1.0, 10.0]}))["x"].round(3).to_list()
    [0.0, 2.303]
    """

    offset: float = param(1.0, a_number())

    def requests(self, view: View) -> list[Request]:
        return [request for column in view.columns for request in self._asked(view, column)]

    def _asked(self, view: View, column: str) -> tuple[Request, Request]:
        return view.ask(Extremes, column), view.ask(AtMost, column, bound=-float(self.offset))

    def learn(self, view: View, answers: Mapping[Request, Any]) -> dict[str, Any]:
        for column in view.columns:
            extremes, beyond = (answers[request] for request in self._asked(view, column))
            _refuse_below(self, column, extremes.low, -self.offset, beyond.count)
        return {"columns": {column: {} for column in view.columns}}

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        raise NotImplementedError  # see learn

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        x = ["+", ["col", column], float(self.offset)]
        return [Assign({column: ["if", [">", x, 0], ["log", x], None]})]

    def invert(self, where: str, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        back = {c: ["-", ["exp", ["col", c]], float(self.offset)] for c in self.state["columns"]}
        return [Assign(back)] if back else []


@dataclass(frozen=True)
class Binarizer(_NumberStage):
    """Replace numbers by 1.0 where they are above the threshold, and 0.0 where not; missing stays missing.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    threshold
        The largest value that becomes 0.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Binarizer
    >>> Preprocessor([("late", Binarizer(threshold=15))]).fit_transform(pl.DataFrame({"x": [3, 20, None]}))["x"].to_list()
    [0.0, 1.0, None]
    """

    threshold: float = param(0.0, a_number())

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        return {}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        x = ["number", ["col", column]]
        above: Formula = ["+", [">", x, float(self.threshold)], 0]
        return [Assign({column: above})]


@dataclass(frozen=True)
class Clipper(_NumberStage):
    """Keep values within bounds: quantiles of the training rows (winsorising), or given numbers. The result is Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    lower_quantile, upper_quantile
        The quantiles that become the bounds; None for no such bound.
    low, high
        Bounds as numbers; they come before the quantiles.

    Raises
    ------
    DataError
        In fit, when a column has no values.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Clipper
    >>> Preprocessor([("clip", Clipper(low=0, high=3))]).fit_transform(pl.DataFrame({"x": [-1, 2, 9]}))["x"].to_list()
    [0.0, 2.0, 3.0]
    """

    loses: ClassVar = "what was beyond the bounds"

    lower_quantile: float | None = param(0.01, a_number(0, 1, none=True))
    upper_quantile: float | None = param(0.99, a_number(0, 1, none=True))
    low: float | None = param(None, a_number(none=True))
    high: float | None = param(None, a_number(none=True))

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        given = (self.low is not None or self.lower_quantile is None) and (
            self.high is not None or self.upper_quantile is None
        )
        return [] if given else [Quantiles]

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        if answers and not answers[0].count:
            raise self.all_null(column)
        low = (
            self.low
            if self.low is not None or self.lower_quantile is None
            else answers[0].quantile(self.lower_quantile)
        )
        high = (
            self.high
            if self.high is not None or self.upper_quantile is None
            else answers[0].quantile(self.upper_quantile)
        )
        bounds = {"low": None if low is None else float(low), "high": None if high is None else float(high)}
        if low is not None and high is not None and not low <= high:
            raise DataError(
                f"Clipper: the bounds of column {column!r} cross.",
                f"Expected low <= high; got {bounds}.",
                "change them.",
            )
        return bounds

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [Clip(column, learned["low"], learned["high"])]


@dataclass(frozen=True)
class PowerTransformer(_NumberStage):
    """Make each column more normal by the power transform with the most likely λ, as scikit-learn does.

    λ maximises the likelihood of the column's distribution (see `Quantiles`) to the last bits: of exactly the rows up to
    65,536 distinct values, of the sketch beyond. There λ was off by 1e-8 to 2e-6 on 1,000,000 values (normal, log-normal,
    uniform, Student's t with 4 degrees), and the results by at most 1e-6, in the far tails of the last by 2e-4.
    scikit-learn's search stops at about 1e-7, where the likelihood is flat to rounding; λ agrees with its own to that,
    and has never less likelihood. Missing stays missing.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    method
        "yeo-johnson", or "box-cox" (positive values only).
    standardize
        Whether the result gets mean 0 and variance 1.

    Raises
    ------
    DataError
        In fit, when a column has no values, infinite ones, or for "box-cox" any that is not positive.

    References
    ----------
    Yeo and Johnson, "A new family of power transformations to improve normality or symmetry", Biometrika 87 (2000).
    Kouider and Chen, "Concavity of Box-Cox log-likelihood function", Statistics & Probability Letters 25 (1995).
    Marchand et al., "SecureFedYJ: a safe feature Gaussianization protocol for federated learning", NeurIPS (2022), for
    the concavity under Yeo-Johnson.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import PowerTransformer
    >>> Preprocessor([("p", PowerTransformer())]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 9.0]}))["x"].round(2).to_list()
    [-1.11, -0.2, 1.31]
    """

    method: str = param("yeo-johnson", one_of("yeo-johnson", "box-cox"))
    standardize: bool = param(True, a_bool())

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Quantiles]

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        values, n = answers[0].points()
        if not len(values):
            raise self.all_null(column)
        self.refuse_infinite(column, float(values[0]), float(values[-1]))
        if self.method == "box-cox":
            _refuse_below(self, column, float(values[0]), 0.0, int(n[values <= 0].sum()))
        power = self._most_likely(values, n) if len(values) > 1 else 1.0
        with np.errstate(all="ignore"):
            result = self._powered(values, power)
            mean = float(np.average(result, weights=n))
        unit = float(np.abs(result - mean).max())  # squares of results beyond 1e154 would be infinite
        self.refuse_infinite(column, mean, unit)
        scale = unit * math.sqrt(np.average(((result - mean) / (unit or 1.0)) ** 2, weights=n))
        return {"lambda": power, "mean": mean, "scale": scale if scale > 1e-12 * abs(mean) else 1.0}

    def _powered(self, x: Any, power: float) -> Any:
        if self.method == "box-cox":
            return np.log(x) if power == 0 else np.expm1(power * np.log(x)) / power
        result = np.empty_like(x)
        low, high = -np.log1p(-x[x < 0]), np.log1p(x[x >= 0])
        result[x >= 0] = high if power == 0 else np.expm1(power * high) / power
        result[x < 0] = low if power == 2 else -np.expm1((2 - power) * -low) / (2 - power)
        return result

    def _most_likely(self, x: Any, n: Any) -> float:
        """λ of the largest likelihood: where its derivative is 0.

        The log-likelihood is concave in λ for both methods, so the derivative has one zero, and bisection of its sign
        finds it to the last bits. (A search of the likelihood itself stops where that is flat to rounding, at 1e-8.)
        """
        box_cox = self.method == "box-cox"
        sign = np.ones_like(x) if box_cox else np.where(x < 0, -1.0, 1.0)
        log = np.log(x) if box_cox else np.log1p(np.abs(x))
        total = n.sum()
        if sign[0] == sign[-1]:  # λ is then the same in any unit: in that of the geometric mean nothing cancels
            log = log - (log @ n) / total
        jacobian = (sign * log) @ n

        def slope(power: float) -> float:
            with np.errstate(all="ignore"):
                t = np.where(sign > 0, power, 2.0 - power) * log
                # y = ±log·φ(t) and dy/dλ = log²·φ'(t), with φ(t) = (e^t - 1) / t
                y = sign * log * _phi(t)
                change = log * log * _phi_slope(t)
                deviation = y - (y @ n) / total
                variance = (deviation * deviation) @ n / total
                result = jacobian - ((deviation * change) @ n) / variance
            return float(result)

        return _zero_of_falling(slope)

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        operations = self._powers(column, float(learned["lambda"]))
        return [*operations, Affine(column, learned["mean"], learned["scale"])] if self.standardize else operations

    def _powers(self, column: str, power: float) -> list[Operation]:
        """x becomes expm1(power · ln x) / power, to the last bits also where x is near 1 or the power near 0.

        In small steps: nested, the formula would repeat its parts many times.
        """
        x: Formula = ["col", column]
        log, t, u = ("\x00log", "\x00exponent", "\x00power")
        steps: list[dict[str, Formula]] = [{column: ["number", x]}]
        if self.method == "box-cox":
            steps += [{log: ["if", [">", x, 0], ["log", x], None]}, {t: ["*", ["col", log], power]}]
        else:
            steps.append({log: ["log1p", ["abs", x]]})
            steps.append({t: ["*", ["col", log], ["if", [">=", x, 0], power, 2.0 - power]]})
        steps.append({u: ["exp", ["col", t]]})
        # As Kahan does it: the rounding of u is in the numerator and in its logarithm, and cancels.
        near = ["if", ["==", ["col", u], 1.0], ["col", t], ["/", ["*", ["-", ["col", u], 1.0], ["col", t]], ["log", ["col", u]]]]
        steps.append({u: ["if", ["<", ["abs", ["col", t]], 0.5], near, ["-", ["col", u], 1.0]]})
        above: Formula = ["/", ["col", u], power] if power else ["col", log]
        below: Formula = ["*", -1.0, ["/", ["col", u], 2.0 - power] if power != 2 else ["col", log]]
        steps.append({column: above if self.method == "box-cox" else ["if", [">=", x, 0], above, below]})
        return [*(Assign(step) for step in steps), Drop([log, t, u])]

    def invert(self, where: str, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        back: list[Operation] = []
        for column, learned in self.state["columns"].items():
            if self.standardize:
                back += Affine(column, learned["mean"], learned["scale"]).inverse(schema) or []
            x, power = ["col", column], float(learned["lambda"])
            made: Formula = _from_box_cox(x, power)
            if self.method == "yeo-johnson":
                below = ["-", 1.0, _from_box_cox(["*", -1.0, x], 2.0 - power)]
                made = ["if", [">=", x, 0], ["-", _from_box_cox(x, power), 1.0], below]
            back.append(Assign({column: made}))
        return back


def _from_box_cox(y: Formula, power: float) -> Formula:
    """(y · power + 1) ** (1 / power), to the last bits also where the power is near 0.

    Beyond what the transform can give (which predictions may be) the nearest end: 0 or infinity.
    """
    return ["exp", y] if power == 0 else ["exp", ["/", ["log1p", ["max", ["*", y, power], -1.0]], power]]


def _phi(t: Any) -> Any:
    """(e^t - 1) / t, which is 1 at 0."""
    return np.where(t == 0, 1.0, np.expm1(t) / np.where(t == 0, 1.0, t))


def _phi_slope(t: Any) -> Any:
    """The derivative of `_phi`, by its series near 0, where the quotient cancels."""
    series = np.zeros_like(t)
    for k in range(12, -1, -1):
        series = series * t + (k + 1) / math.factorial(k + 2)
    safe = np.where(t == 0, 1.0, t)
    return np.where(np.abs(t) < 0.25, series, (np.exp(t) * (t - 1.0) + 1.0) / (safe * safe))


def _zero_of_falling(slope: Callable[[float], float]) -> float:
    """Where a falling function crosses 0: widen the bracket, then halve it until it holds no other float.

    Where the powers overflow the slope is NaN; that is too far out on the side that is being tried.
    """
    low, high = -2.0, 2.0
    while slope(low) < 0 and low > -1024:
        low *= 2
    while slope(high) > 0 and high < 1024:
        high *= 2
    while True:
        middle = low / 2 + high / 2
        if not low < middle < high:
            return middle
        found = slope(middle)
        below = found > 0 if found == found else middle < 0
        low, high = (middle, high) if below else (low, middle)


@dataclass(frozen=True)
class Interpolate(Operation):
    """x becomes the value at x of lines between points; at a point `at`, between two `right` of one to `left` of the next.

    Points are ascending. Outside of them x takes `at` of the first or the last.
    """

    column: str
    points: Sequence[float]
    left: Sequence[float]
    at: Sequence[float]
    right: Sequence[float]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).cast(pl.Float64).map_batches(self._map, return_dtype=pl.Float64, is_elementwise=True)]

    def _map(self, values: pl.Series) -> pl.Series:
        points, left, at, right = (
            np.asarray(v, dtype=np.float64) for v in (self.points, self.left, self.at, self.right)
        )
        missing = values.is_null()
        x = np.clip(values.fill_null(points[0]).to_numpy(), points[0], points[-1])
        place = np.searchsorted(points, x)
        before = np.maximum(place - 1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            between = right[before] + (x - points[before]) / (points[place] - points[before]) * (
                left[place] - right[before]
            )
        result = pl.Series(values.name, np.where(points[place] == x, at[place], between))
        return result.zip_with(~missing, pl.Series([None], dtype=pl.Float64)) if missing.any() else result

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

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        knots: dict[float, float] = {}
        for point, left, right in zip(self.points, self.left, self.right, strict=True):
            knots |= {left: point, right: point}
        values = list(knots.values())
        return [Interpolate(self.column, list(knots), values, values, values)]


@dataclass(frozen=True)
class NormalQuantile(Operation):
    """A share from 0 to 1 becomes the normal quantile, kept within ±5.2 as in scikit-learn."""

    column: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).map_batches(self._map, return_dtype=pl.Float64, is_elementwise=True)]

    def _map(self, values: pl.Series) -> pl.Series:
        try:
            from scipy.special import ndtri
        except ImportError as error:
            raise MissingExtraError.of(
                "QuantileTransformer(output_distribution='normal')", "scipy", "sklearn"
            ) from error
        low, high = ndtri(1e-7 - np.spacing(1)), ndtri(1 - (1e-7 - np.spacing(1)))
        result = pl.Series(values.name, np.clip(ndtri(values.fill_null(0.5).to_numpy()), low, high))
        return result.zip_with(values.is_not_null(), pl.Series([None], dtype=pl.Float64))

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        from scipy.special import ndtri  # the same function of one number gives the same bits

        column, low, high = self.column, float(ndtri(1e-7 - np.spacing(1))), float(ndtri(1 - (1e-7 - np.spacing(1))))

        def normal(row: Row) -> None:
            if row[column] is not None:
                row[column] = min(max(float(ndtri(row[column])), low), high)

        return normal

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [NormalShare(self.column)]


@dataclass(frozen=True)
class NormalShare(Operation):
    """The way back from a normal quantile: the share of the normal distribution below it."""

    column: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).cast(pl.Float64).map_batches(self._map, return_dtype=pl.Float64, is_elementwise=True)]

    def _map(self, values: pl.Series) -> pl.Series:
        try:
            from scipy.special import ndtr
        except ImportError as error:
            raise MissingExtraError.of(
                "QuantileTransformer(output_distribution='normal')", "scipy", "sklearn"
            ) from error
        share = ndtr(values.fill_null(0.0).to_numpy())
        share = np.where(share < 1e-7, 0.0, np.where(share > 1 - 1e-7, 1.0, share))  # the ends were cut there
        result = pl.Series(values.name, share)
        return result.zip_with(values.is_not_null(), pl.Series([None], dtype=pl.Float64))

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}


@dataclass(frozen=True)
class QuantileTransformer(_NumberStage):
    """Map each column onto a uniform or normal distribution by its quantiles, as scikit-learn does without subsampling.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    n_quantiles
        Landmarks (at most the number of values).
    output_distribution
        "uniform" or "normal".

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import QuantileTransformer
    >>> Preprocessor([("q", QuantileTransformer())]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 100.0]}))["x"].to_list()
    [0.0, 0.5, 1.0]
    """

    n_quantiles: int = param(1000, an_int(2))
    output_distribution: str = param("uniform", one_of("uniform", "normal"))

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Quantiles]

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        quantiles: Quantiles = answers[0]
        if not quantiles.count:
            raise self.all_null(column)
        n_rows = quantiles.count + quantiles.n_null  # as scikit-learn, which counts missing values here
        references = np.linspace(0, 1, max(1, min(self.n_quantiles, n_rows)))
        landmarks = np.maximum.accumulate(np.array(quantiles.quantiles(references.tolist())))
        self.refuse_infinite(column, float(landmarks[0]), float(landmarks[-1]))
        points, first = np.unique(landmarks, return_index=True)
        last = np.append(first[1:], len(landmarks)) - 1
        left, right = references[first], references[last]
        at = (left + right) / 2
        if len(points) == 1:  # a constant is 0, and so is what is below it; what is above is 1
            points, left, at, right = np.array([points[0], np.nextafter(points[0], np.inf)]), *[np.array([0.0, 1.0])] * 3
        at[0], at[-1] = 0.0, 1.0
        return {"points": points.tolist(), "left": left.tolist(), "at": at.tolist(), "right": right.tolist()}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        operations: list[Operation] = [
            Interpolate(column, learned["points"], learned["left"], learned["at"], learned["right"])
        ]
        return [*operations, NormalQuantile(column)] if self.output_distribution == "normal" else operations


def _refuse_below(stage: ColumnStage, column: str, low: float | None, bound: float, n_rows: int) -> None:
    if low is None:
        raise stage.all_null(column)
    if low <= bound:
        raise DataError(
            f"{type(stage).__name__}: column {column!r} has {n_rows:,} {'row' if n_rows == 1 else 'rows'} whose logarithm does not exist.",
            f"Expected values above {bound:g}; the smallest is {low:g}.",
            "shift the column (offset=…), use Yeo-Johnson, or clip it first (Clipper).",
        )
