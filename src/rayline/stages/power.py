"""Logarithms and power transforms, which make a skewed column more normal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import polars as pl

from rayline.core.errors import DataError
from rayline.core.operations.base import Affine, Drop, Operation
from rayline.core.operations.expression import Assign, Formula
from rayline.core.stage import ColumnStage, FitContext, NumberStage
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.moments import MinMax
from rayline.core.statistics.quantiles import Quantiles
from rayline.core.statistics.row_counts import CountBelow

PowerMethod: TypeAlias = Literal["yeo-johnson", "box-cox"]
"""The family of power functions."""


@dataclass(frozen=True)
class Log(NumberStage):
    """Replace x by ln(x + offset), as Float64 (NumPy's log1p for an offset of 1); missing values stay missing.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    offset
        The number to add first; 1 by default, so that counts of 0 become 0.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a value is at or below -offset, or a column has no values. In transform such a value becomes missing.
    ParameterError
        When `offset` is no number.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Log
    >>> Preprocessor([("log", Log(offset=0))]).fit_transform(pl.DataFrame({"x": [1.0, 10.0]}))["x"].round(3).to_list()
    [0.0, 2.303]
    """

    offset: float = 1.0

    def column_requests(self, column: str, context: FitContext) -> list[StatisticRequest]:
        return [context.request(MinMax, column), context.request(CountBelow, column, bound=-float(self.offset))]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        extremes, beyond = statistics
        _refuse_below(self, column, extremes.low, -self.offset, beyond.count)
        return {}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        x = ["+", ["col", column], float(self.offset)]
        return [Assign({column: ["if", [">", x, 0], ["log", x], None]})]

    def invert(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        transformed = [column for column, learned in self.state["columns"].items() if "empty" not in learned]
        back = {c: ["-", ["exp", ["col", c]], float(self.offset)] for c in transformed}
        return [*self.invert_empty(schema), *([Assign(back)] if back else [])]


@dataclass(frozen=True)
class PowerTransformer(NumberStage):
    """Make each column more normal by the power transform with the most likely λ, as scikit-learn does.

    λ maximises the likelihood of the column's distribution (see `Quantiles`) to the last bits: of the exact values for up
    to 65,536 distinct ones, of the sketch beyond. With the sketch of 1,000,000 values (normal, log-normal, uniform,
    Student's t with 4 degrees of freedom) the error of λ was 1e-8 to 2e-6, and that of the results at most 1e-6 (2e-4 in the
    far tails of Student's t). scikit-learn's search stops at about 1e-7, where rounding makes the likelihood flat; λ agrees
    with it to that precision, and never has a lower likelihood. A column on one side of zero is computed relative to its
    geometric mean, so λ and the results are correct even for values far from zero with a small spread (years), where
    scikit-learn's λ differs. Missing values stay missing. The result is Float64.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    method
        "yeo-johnson", or "box-cox" (positive values only).
    standardize
        Whether to scale the result to mean 0 and variance 1.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a column has no values, infinite ones, or for "box-cox" any that is not positive; without
        `standardize` also when the results overflow, or are all the same to the last digits.
    ParameterError
        On another method than these two.

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

    method: PowerMethod = "yeo-johnson"
    standardize: bool = True

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Quantiles]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        values, n = statistics[0].points()
        if not len(values):
            raise self.all_null(column)
        self.refuse_infinite(column, float(values[0]), float(values[-1]))
        if self.method == "box-cox":
            _refuse_below(self, column, float(values[0]), 0.0, int(n[values <= 0].sum()))
        center = self._center(values, n)
        sign, log = self._logarithms(values, center)
        power = self._most_likely(sign, log, n) if len(values) > 1 else 1.0
        if not self.standardize:  # then the scale of the center would not be removed again
            center = None
            sign, log = self._logarithms(values, center)
        with np.errstate(all="ignore"):
            result = sign * log * _phi(np.where(sign > 0, power, 2.0 - power) * log)
            mean = float(np.average(result, weights=n))
            unit = float(np.abs(result - mean).max())  # squares of results beyond 1e154 would be infinite
        if not math.isfinite(unit):
            raise self._collapsed(column, power, "are too large for float64")
        scale = unit * math.sqrt(np.average(((result - mean) / (unit or 1.0)) ** 2, weights=n))
        if len(values) > 1 and scale <= 1e-12 * abs(mean):
            raise self._collapsed(column, power, "are all the same to the last digits of float64")
        centered = {} if center is None else {"center": center}
        usable = scale > 0 and math.isfinite(1.0 / scale)
        return {"lambda": power, "mean": mean, "scale": scale if usable else 1.0, **centered}

    def _collapsed(self, column: str, power: float, what: str) -> DataError:
        return DataError(
            f"{type(self).__name__}: with λ = {power:g}, the most likely one, the results of column {column!r} {what}.",
            "Expected distinguishable results.",
            "leave standardize=True, or scale the column first (StandardScaler): its values are far from zero for their spread.",
        )

    def _center(self, x: Any, n: Any) -> float | None:
        """The geometric mean of a column on one side of zero (of 1 + |x| for Yeo-Johnson, less 1, with its sign).

        Divided by it the column has the same λ, and the same results once they are standardized; and powers of numbers
        near 1 neither overflow nor vanish, however far from zero the column is.
        """
        if self.method == "box-cox":
            return float(np.exp(np.average(np.log(x), weights=n)))
        if x[0] < 0 <= x[-1]:
            return None
        return math.copysign(float(np.expm1(np.average(np.log1p(np.abs(x)), weights=n))), x[0])

    def _logarithms(self, x: Any, center: float | None) -> tuple[Any, Any]:
        """The sign of each value, and the logarithm that is taken to a power."""
        if self.method == "box-cox":
            return np.ones_like(x), np.log(x) if center is None else np.log1p((x - center) / center)
        sign = np.where(x < 0, -1.0, 1.0)
        c = abs(center or 0.0)
        return sign, np.log1p((np.abs(x) - c) / (1.0 + c))

    def _most_likely(self, sign: Any, log: Any, n: Any) -> float:
        """λ of the largest likelihood: where its derivative is 0.

        The log-likelihood is concave in λ for both methods, so the derivative has one zero, and bisection of its sign
        finds it to the last bits. (A search of the likelihood itself stops where that is flat to rounding, at 1e-8.)
        """
        total = n.sum()
        jacobian = (sign * log) @ n

        def slope(power: float) -> float:
            with np.errstate(all="ignore"):
                t = np.where(sign > 0, power, 2.0 - power) * log
                # y = ±log·φ(t) and dy/dλ = log²·φ'(t), with φ(t) = (e^t - 1) / t
                y = sign * log * _phi(t)
                change = log * log * _phi_slope(t)
                deviation = y - (y @ n) / total
                size = np.abs(deviation).max() or 1.0  # squares beyond 1e154 would be infinite
                deviation, change = deviation / size, change / size
                variance = (deviation * deviation) @ n / total
                result = jacobian - ((deviation * change) @ n) / variance
            return float(result)

        middle = 0.0 if sign[0] > 0 else 2.0 if sign[-1] < 0 else 1.0  # where no side overflows
        return _zero_of_falling(slope, middle, 1.0 / max(float(np.abs(log).max()), 1e-300))

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        operations = self._powers(column, float(learned["lambda"]), learned.get("center"))
        return [*operations, Affine(column, learned["mean"], learned["scale"])] if self.standardize else operations

    def _powers(self, column: str, power: float, center: float | None) -> list[Operation]:
        """x becomes expm1(power · ln x) / power, to the last bits also where x is near 1 or the power near 0.

        In small steps: nested, the formula would repeat its parts many times. What is between them has a name of its own for each
        column, so that all columns take each step together.
        """
        x: Formula = ["col", column]
        log, t, u = (f"{column}\x00{name}" for name in ("log", "exponent", "power"))
        steps: list[dict[str, Formula]] = [{column: ["number", x]}]
        if self.method == "box-cox":
            of_x: Formula = ["log", x] if center is None else ["log1p", ["/", ["-", x, center], center]]
            steps += [{log: ["if", [">", x, 0], of_x, None]}, {t: ["*", ["col", log], power]}]
        else:
            steps.append({log: _log1p_from(x, center) if center else ["log1p", ["abs", x]]})
            steps.append({t: ["*", ["col", log], ["if", [">=", x, 0], power, 2.0 - power]]})
        steps.append({u: ["exp", ["col", t]]})
        # As Kahan does it: the rounding of u is in the numerator and in its logarithm, and cancels.
        near = [
            "if",
            ["==", ["col", u], 1.0],
            ["col", t],
            ["/", ["*", ["-", ["col", u], 1.0], ["col", t]], ["log", ["col", u]]],
        ]
        steps.append({u: ["if", ["<", ["abs", ["col", t]], 0.5], near, ["-", ["col", u], 1.0]]})
        above: Formula = ["/", ["col", u], power] if power else ["col", log]
        below: Formula = ["*", -1.0, ["/", ["col", u], 2.0 - power] if power != 2 else ["col", log]]
        if self.method == "yeo-johnson" and center:
            factor, offset = _other_side(center, power)
            if center > 0:
                below = ["+", ["*", below, factor], offset]
            else:
                above = ["+", ["*", above, factor], offset]
        steps.append({column: above if self.method == "box-cox" else ["if", [">=", x, 0], above, below]})
        return [*(Assign(step) for step in steps), Drop([log, t, u])]

    def _unpowered(self, y: Formula, power: float, center: float | None) -> Formula:
        """The formula that leads back from a power."""
        if self.method == "box-cox":
            return _from_box_cox(y, power) if center is None else ["*", center, _from_box_cox(y, power)]
        if not center:
            below = ["-", 1.0, _from_box_cox(["*", -1.0, y], 2.0 - power)]
            return ["if", [">=", y, 0], ["-", _from_box_cox(y, power), 1.0], below]
        sign, c = math.copysign(1.0, center), abs(center)
        powers = (power, 2.0 - power) if sign > 0 else (2.0 - power, power)
        factor, offset = _other_side(center, power)
        inverted: Formula = ["-", ["*", 1.0 + c, _from_box_cox(["*", sign, y], powers[0])], 1.0]
        other: Formula = 0.0  # the whole other side has become one number
        if factor:
            other = ["-", 1.0, _from_box_cox(["*", -sign, ["/", ["-", y, offset], factor]], powers[1])]
        return ["if", [">=", ["*", sign, y], sign * offset], ["*", sign, inverted], ["*", sign, other]]

    def invert(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        back = self.invert_empty(schema)
        for column, learned in self.state["columns"].items():
            if "empty" in learned:
                continue
            if self.standardize:
                back += Affine(column, learned["mean"], learned["scale"]).inverse(schema) or []
            power, center = float(learned["lambda"]), learned.get("center")
            back.append(Assign({column: self._unpowered(["col", column], power, center)}))
        return back


def _log1p_from(x: Formula, center: float) -> Formula:
    """ln(1 + |x|), of values on the side of the center less the center's."""
    sign, c = math.copysign(1.0, center), abs(center)
    formula = ["log1p", ["/", ["-", ["*", sign, x] if sign < 0 else x, c], 1.0 + c]]
    return (
        ["if", [">=", x, 0], formula, ["log1p", ["abs", x]]] if sign > 0 else ["if", ["<", x, 0], formula, ["log1p", x]]
    )


def _other_side(center: float, power: float) -> tuple[float, float]:
    """What the power of a value on the other side of zero is multiplied by and moved by, to be in the center's unit too."""
    sign, unit = math.copysign(1.0, center), math.log1p(abs(center))
    side_power = power if sign > 0 else 2.0 - power
    t = min(-side_power * unit, 700.0)  # larger values are treated as infinite
    return math.exp(t), sign * (math.expm1(t) / side_power if side_power else -unit)


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


def _zero_of_falling(slope: Callable[[float], float], center: float, unit: float) -> float:
    """Find the zero of a decreasing function: widen the bracket, then halve it until it holds no other float.

    It looks within ±1024 units of the center. Where the powers overflow the slope is NaN; that is too far out on the side that is being tried.
    """
    step, max_distance = max(2.0, 2 * unit), max(1024.0, 1024 * unit)
    below, above = step, step
    while slope(center - below) < 0 and below < max_distance:
        below *= 2
    while slope(center + above) > 0 and above < max_distance:
        above *= 2
    low, high = center - below, center + above
    while True:
        middle = low / 2 + high / 2
        if not low < middle < high:
            return middle
        at_middle = slope(middle)
        is_low = at_middle > 0 if at_middle == at_middle else middle < center
        low, high = (middle, high) if is_low else (low, middle)


def _refuse_below(stage: ColumnStage, column: str, low: float | None, bound: float, n_rows: int) -> None:
    if low is None:
        raise stage.all_null(column)
    if low <= bound:
        raise DataError(
            f"{type(stage).__name__}: column {column!r} has {n_rows:,} {'row' if n_rows == 1 else 'rows'} whose logarithm does not exist.",
            f"Expected values above {bound:g}; the smallest is {low:g}.",
            "shift the column (offset=…), use Yeo-Johnson, or clip it first (Clipper).",
        )
