"""B-spline bases: each number is replaced by the values of smooth basis functions, so that a linear model can fit a curve."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, ParameterError, place
from rayline.core.operations.base import Changes, Operation, Row, RowFunction, Step
from rayline.core.schema import col, map_values
from rayline.core.stage import FitContext, NumberStage, ParameterCheck, an_int, param
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.moments import MinMax
from rayline.core.statistics.quantiles import Quantiles

_BLOCK_ROWS = 1 << 15


def _are_knots(value: Any) -> bool:
    if value in ("uniform", "quantile"):
        return True
    lists = value.values() if isinstance(value, dict) else [value]
    return all(
        isinstance(v, (list, tuple))
        and len(v) > 1
        and all(type(x) in (int, float) and math.isfinite(x) for x in v)
        and all(a < b for a, b in itertools.pairwise(v))
        for v in lists
    )


Extrapolation: TypeAlias = Literal["constant", "linear", "continue", "periodic", "error"]
"""The values of a spline outside its knots."""

SplineMissing: TypeAlias = Literal["keep", "zeros"]
"""The values of a spline of a missing value."""


@dataclass(frozen=True)
class SplineTransformer(NumberStage):
    """Replace each column by its B-spline basis, `column_sp_0`, `column_sp_1`, … (Float64), as scikit-learn does.

    A column with K knots becomes K + degree - 1 columns (K - 1 when periodic) that sum to 1 between the first and the last
    knot. A constant column becomes zeros; so do, with quantiles as knots, the rows of a largest value that so many rows have that
    the last knot is repeated (in scikit-learn, too). Missing values stay missing in each of them, or become zeros.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    n_knots
        The number of knots of each column, for "uniform" and "quantile".
    degree
        The degree of the polynomials; 3 for cubic splines.
    knots
        "uniform" (at equal distances from the smallest to the largest training value), "quantile" (at equal shares of the
        rows; exact for up to 65,536 distinct values, for more see `Quantiles`), ascending numbers for all columns, or a
        dict of such lists for some columns (the others are uniform).
    extrapolation
        The values outside the knots: "constant" (as at the nearest end), "linear", "continue" (the polynomials continue),
        "periodic" (the range from the first to the last knot repeats) or "error".
    include_bias
        Whether to keep the last basis function; without it a linear model has no second intercept.
    handle_missing
        "keep" (missing values stay missing) or "zeros".
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it (missing, or
        zeros with `handle_missing`).

    Raises
    ------
    ParameterError
        When a periodic spline has no more knots than its degree.
    DataError
        In fit, when a column has no values or infinite ones; in transform, on values outside the knots with
        `extrapolation="error"`.
    SchemaError
        In fit, when a new name exists already.

    References
    ----------
    de Boor, "On calculating with B-splines", Journal of Approximation Theory 6 (1972). Eilers and Marx, "Flexible
    smoothing with B-splines and penalties", Statistical Science 11 (1996), for the knots beyond the ends.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import SplineTransformer
    >>> table = pl.DataFrame({"x": [0.0, 0.5, 2.0]})
    >>> Preprocessor([("s", SplineTransformer(n_knots=3, degree=1))]).fit_transform(table).to_dict(as_series=False)
    {'x_sp_0': [1.0, 0.5, 0.0], 'x_sp_1': [0.0, 0.5, 0.0], 'x_sp_2': [0.0, 0.0, 1.0]}
    """

    n_knots: int = param(5, an_int(2, 1000))
    degree: int = param(3, an_int(0, 20))
    knots: Literal["uniform", "quantile"] | Sequence[float] | dict[str, list[float]] = param(
        "uniform", ParameterCheck('"uniform", "quantile", ascending numbers, or a dict of such lists', _are_knots)
    )
    extrapolation: Extrapolation = "constant"
    include_bias: bool = True
    handle_missing: SplineMissing = "keep"

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [Quantiles if self.knots == "quantile" else MinMax]

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        self.refuse_unknown_columns("knots", self.knots, context)
        learned = super().learn(context, results)
        new = [
            name
            for column, state in learned["columns"].items()
            if "knots" in state
            for name in self._names(column, state["knots"])
        ]
        self.refuse_existing_columns(new, context, removed=context.columns)
        return learned

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        knots_of_column = self.knots.get(column) if isinstance(self.knots, dict) else self.knots
        base = (
            self._placed(column, statistics[0])
            if knots_of_column is None or isinstance(knots_of_column, str)
            else np.array(knots_of_column, float)
        )
        if self.extrapolation == "periodic" and len(base) <= self.degree:
            raise ParameterError.value(
                "degree", f"less than the {len(base)} knots", self.degree, where="SplineTransformer"
            )
        return {"knots": self._extended(base).tolist()}

    def learn_empty(self, column: str, dtype: pl.DataType) -> dict[str, Any]:
        return {
            "knots": self._extended(np.linspace(0.0, 1.0, self.n_knots)).tolist()
        }  # the knots do not matter for a column without values

    def _placed(self, column: str, answer: Any) -> npt.NDArray[np.float64]:
        if not answer.count:
            raise self.all_null(column)
        if isinstance(answer, Quantiles):
            shares = 100 * np.linspace(0, 1, self.n_knots) / 100  # rounded as scikit-learn's percentiles are
            base = np.array(answer.quantiles(shares.tolist()))
        else:
            base = np.array([float(answer.low), float(answer.high)])
        low, high = float(base[0]), float(base[-1])
        self.refuse_infinite(column, low, high, high - low)
        if high == low or not math.isfinite(1.0 / (high - low)):  # constant to the precision of float64
            return np.full(self.n_knots, low)
        return base if isinstance(answer, Quantiles) else np.linspace(low, high, self.n_knots)

    def _extended(self, base: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the knots with `degree` more on either side, at the distances of the outermost knots."""
        degree, first, last = self.degree, base[0], base[-1]
        if self.extrapolation == "periodic":
            period = last - first
            return np.concatenate([base[-(degree + 1) : -1] - period, base, base[1 : degree + 1] + period])
        low, high = base[1] - first, last - base[-2]
        before = np.linspace(first - degree * low, first - low, num=degree)
        return np.concatenate([before, base, np.linspace(last + high, last + degree * high, num=degree)])

    def _names(self, column: str, knots: Sequence[float]) -> list[str]:
        n = len(knots) - self.degree - 1 - (self.degree if self.extrapolation == "periodic" else 0)
        return [f"{column}_sp_{i}" for i in range(n if self.include_bias else n - 1)]

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        names = self._names(column, learned["knots"])
        how = (self.degree, self.extrapolation, self.handle_missing == "zeros", place())
        return [BSpline(column, names, list(learned["knots"]), *how)]


def _modulo(x: float, period: float) -> float:
    return x % period if math.isfinite(x) else math.nan


@dataclass(frozen=True)
class BSpline(Operation):
    """Replaces a number by the values of the B-splines over these knots; the source column is dropped."""

    column: str
    outputs: Sequence[str]
    knots: Sequence[float]
    degree: int
    extrapolation: str
    zeros: bool  # for missing values, instead of missing
    stage: str = ""

    @property
    def _ends(self) -> tuple[float, float]:
        return self.knots[self.degree], self.knots[-self.degree - 1]

    @cached_property
    def _n_splines(self) -> int:
        return len(self.knots) - self.degree - 1 - (self.degree if self.extrapolation == "periodic" else 0)

    @cached_property
    def _lines(self) -> tuple[list[float], list[float], list[float], list[float]]:
        """Return values and slopes of all splines at the first and at the last knot."""
        low, high = self._ends
        return self._at(low), self._at(high), self._at(low, slope=True), self._at(high, slope=True)

    def _interval(self, x: float) -> int:
        n = len(self.knots) - self.degree - 1
        return min(max(bisect_right(self.knots, x) - 1, self.degree), n - 1)

    def _at(self, x: float, *, slope: bool = False) -> list[float]:
        """Return all splines at one point, by de Boor's recursion: only degree + 1 of them are not zero."""
        t, degree, last = self.knots, self.degree, self._interval(x)
        h = [1.0] + [0.0] * degree
        for j in range(1, degree + 1):
            before, h[0] = h[:j], 0.0
            for i in range(1, j + 1):
                high, low = t[last + i], t[last + i - j]
                if high == low:
                    h[i] = 0.0
                    continue
                w = before[i - 1] / (high - low)
                if slope and j == degree:
                    h[i - 1], h[i] = h[i - 1] - degree * w, degree * w
                else:
                    h[i - 1], h[i] = h[i - 1] + w * (high - x), w * (x - low)
        result = [0.0] * self._n_splines
        for i in range(degree + 1 if degree or not slope else 0):
            result[(last - degree + i) % self._n_splines] += h[i]
        return result

    # -- one row -------------------------------------------------------------------------------------------------------

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, outputs = self.column, list(self.outputs)
        missing = dict.fromkeys(outputs, 0.0 if self.zeros else None)

        def spline(row: Row) -> None:
            x = row.pop(column)
            if x is None or x != x:
                row.update(missing)
            else:
                values = self._values(float(x))
                row.update((name, v if v == v else None) for name, v in zip(outputs, values, strict=False))

        return spline

    def _values(self, x: float) -> list[float]:
        low, high = self._ends
        if self.extrapolation == "periodic":
            return self._at(low + _modulo(x - low, high - low) if high > low else low)
        if self.extrapolation == "continue" or low <= x <= high:
            return self._at(x)
        if self.extrapolation == "error":
            raise self._refusal([x])
        at_low, at_high, slope_low, slope_high = self._lines
        at, slope, end = (at_low, slope_low, low) if x < low else (at_high, slope_high, high)
        return (
            at
            if self.extrapolation == "constant"
            else [a + (x - end) * s if s else a for a, s in zip(at, slope, strict=True)]
        )

    def _refusal(self, values: Sequence[float]) -> DataError:
        low, high = self._ends
        return DataError(
            f"Preprocessor.transform: stage {self.stage!r} found values of column {self.column!r} beyond its knots.",
            f"Expected {low!r} to {high!r}; got {list(values)!r}.",
            'choose another extrapolation ("constant", "linear"), or clip the column first (Clipper).',
        )

    # -- tables --------------------------------------------------------------------------------------------------------

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps

    def steps(self, schema: Mapping[str, pl.DataType]) -> list[Step]:
        dtype = pl.Struct({name: pl.Float64() for name in self.outputs})
        structs = map_values(col(self.column).cast(pl.Float64), self._structs, dtype)
        temporary = f"{self.column}\x00splines"
        fields = [col(temporary).struct.field(name) for name in self.outputs]
        return [Step([structs.alias(temporary)], [self.column]), Step(fields, [temporary])]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({name: pl.Float64() for name in self.outputs}, [self.column])

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.outputs, (self.column,))

    def _structs(self, values: pl.Series) -> pl.Series:
        missing = values.is_null() | values.is_nan().fill_null(True)
        x = values.fill_null(math.nan).to_numpy().astype(np.float64)
        x = np.where(missing.to_numpy(), self._ends[0], x)
        starts = range(0, max(len(x), 1), _BLOCK_ROWS)
        matrix = np.concatenate([self._matrix(x[start : start + _BLOCK_ROWS]) for start in starts])
        matrix[missing.to_numpy()] = 0.0 if self.zeros else math.nan
        columns = [pl.Series(name, matrix[:, i]).fill_nan(None) for i, name in enumerate(self.outputs)]
        return pl.DataFrame(columns).to_struct() if columns else pl.Series([{}] * len(x))

    def _matrix(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        low, high = self._ends
        with np.errstate(all="ignore"):
            if self.extrapolation == "periodic":
                return self._inside(low + np.mod(x - low, high - low) if high > low else np.full_like(x, low))
            if self.extrapolation == "continue":
                return self._inside(x)
            inside = (low <= x) & (x <= high)
            if self.extrapolation == "error" and not inside.all():
                raise self._refusal(np.unique(x[~inside])[:5].tolist())
            matrix = self._inside(np.clip(x, low, high))
            at_low, at_high, slope_low, slope_high = (np.array(v) for v in self._lines)
            for outside, at, slope, end in ((x < low, at_low, slope_low, low), (x > high, at_high, slope_high, high)):
                if outside.any():
                    beyond = (x[outside] - end)[:, None] * slope
                    matrix[outside] = at if self.extrapolation == "constant" else np.where(slope != 0, at + beyond, at)
            return matrix

    def _inside(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Evaluate `_at` for many points: the same steps in the same order."""
        t, degree = np.array(self.knots), self.degree
        n = len(t) - degree - 1
        last = np.clip(np.searchsorted(t, x, side="right") - 1, degree, n - 1)
        h = [np.ones_like(x), *(np.zeros_like(x) for _ in range(degree))]
        for j in range(1, degree + 1):
            before, h[0] = h[:j], np.zeros_like(x)
            for i in range(1, j + 1):
                high, low = t[last + i], t[last + i - j]
                same = high == low
                w = before[i - 1] / np.where(same, 1.0, high - low)
                h[i - 1] = np.where(same, h[i - 1], h[i - 1] + w * (high - x))
                h[i] = np.where(same, 0.0, w * (x - low))
        matrix = np.zeros((len(x), self._n_splines))
        rows = np.arange(len(x))
        for i in range(degree + 1):
            matrix[rows, (last - degree + i) % self._n_splines] += h[i]
        return matrix
