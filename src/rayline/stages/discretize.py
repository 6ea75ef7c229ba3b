"""Discretization of numbers into bins."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import polars as pl

from rayline.core.errors import place
from rayline.core.operations.base import Changes, ColumnOperation, Operation, Row, RowFunction
from rayline.core.operations.categorical import CategoryCodes, LargestCategory, MapValues, OneHot
from rayline.core.operations.numeric import Numbers, map_numbers
from rayline.core.schema import col
from rayline.core.stage import FitContext, NumberStage, ParameterCheck, Stage, param
from rayline.core.statistics.base import Statistic, StatisticRequest
from rayline.core.statistics.moments import MinMax
from rayline.core.statistics.quantiles import Quantiles


def _are_edges(value: Any) -> bool:
    if value is None:
        return True
    lists = value.values() if isinstance(value, dict) else [value]
    return all(
        isinstance(v, (list, tuple)) and len(v) > 1 and all(a < b for a, b in itertools.pairwise(v)) for v in lists
    )


def _are_bins(value: Any) -> bool:
    numbers = list(value.values()) if isinstance(value, dict) else [value]
    return all(type(n) is int and 2 <= n <= 65_536 for n in numbers)


BinEncoding: TypeAlias = Literal["ordinal", "onehot"]
"""The output of a bin: its number, or a column of its own."""

BinStrategy: TypeAlias = Literal["quantile", "uniform", "kmeans"]
"""How the edges of the bins are chosen."""

QuantileMethod: TypeAlias = Literal["averaged_inverted_cdf", "linear"]
"""NumPy's names of the computation of a quantile between two values."""


@dataclass(frozen=True)
class KBinsDiscretizer(NumberStage):
    """Replace numbers by the index of their bin, as scikit-learn does; missing values stay missing.

    A value on an edge belongs to the bin above it. Values outside the training range belong to the first or the last bin.

    Parameters
    ----------
    columns
        Numeric columns; all of them when omitted.
    n_bins
        The number of bins for all columns, or a dict for some (the others get 5).
    encode
        "ordinal" (0.0, 1.0, …; Float64) or "onehot" (UInt8 columns `column_bin0` …; missing values become zeros).
    strategy
        "quantile" (bins with equal numbers of rows), "uniform" (bins of equal width) or "kmeans" (each value belongs to the
        bin of the nearest of `n_bins` centres). "quantile" and "kmeans" are exact for up to 65,536 distinct values; for
        more see `Quantiles`.
    quantile_method
        How to compute a quantile between two values, by NumPy's names: "averaged_inverted_cdf" (their mean if it falls
        exactly between them, otherwise one of them) or "linear".
    edges
        Fixed edges, for all columns or as a dict for some; nothing is learned for these columns.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it missing.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.
    ParameterError
        When a number of bins is outside 2 to 65,536, edges do not ascend; in fit, when a dict names a column that the stage
        does not work on.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import KBinsDiscretizer
    >>> Preprocessor([("b", KBinsDiscretizer(n_bins=2))]).fit_transform(pl.DataFrame({"x": [1.0, 2.0, 3.0, 9.0]}))["x"].to_list()
    [0.0, 0.0, 1.0, 1.0]
    """

    lossy_reason: ClassVar = "the position within the bin: its middle is restored"

    unsupported_params: ClassVar = {**Stage.unsupported_params, "sample_weight": "weights belong to training"}

    n_bins: int | dict[str, int] = param(5, ParameterCheck("an integer from 2 to 65536, or a dict of such", _are_bins))
    encode: BinEncoding = "ordinal"
    strategy: BinStrategy = "quantile"
    edges: Sequence[float] | dict[str, list[float]] | None = param(
        None, ParameterCheck("ascending numbers, a dict of such lists, or None", _are_edges)
    )
    quantile_method: QuantileMethod = "averaged_inverted_cdf"

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [MinMax if self.strategy == "uniform" else Quantiles]

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        self.refuse_unknown_columns("edges", self.edges, context)
        self.refuse_unknown_columns("n_bins", self.n_bins, context)
        learned = super().learn(context, results)
        names = [name for binning in learned["columns"].values() for name in binning.get("outputs", ())]
        self.refuse_existing_columns(names, context, removed=context.columns)
        return learned

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        edges_of_column = self.edges.get(column) if isinstance(self.edges, dict) else self.edges
        edges = (
            [float(e) for e in edges_of_column] if edges_of_column is not None else self._learned(column, statistics[0])
        )
        outputs = [f"{column}_bin{i}" for i in range(len(edges) - 1)] if self.encode == "onehot" else []
        return {"edges": edges, "outputs": outputs}

    def _learned(self, column: str, answer: Any) -> list[float]:
        if not answer.count:
            raise self.all_null(column)
        n = self.n_bins.get(column, 5) if isinstance(self.n_bins, dict) else self.n_bins
        if self.strategy == "uniform":
            self.refuse_infinite(column, float(answer.low), float(answer.high), float(answer.high) - float(answer.low))
            edges = np.linspace(float(answer.low), float(answer.high), n + 1).tolist()
        elif self.strategy == "kmeans":
            values, weights = answer.points()
            self.refuse_infinite(column, float(values[0]), float(values[-1]), float(values[-1]) - float(values[0]))
            with np.errstate(over="ignore"):  # values near the largest float64 are cut after one step
                edges = [float(values[0]), *_between_means(values, weights, n), float(values[-1])]
        else:
            places = (np.linspace(0, 100, n + 1) / 100).tolist()  # rounded as NumPy's percentiles: they decide ties
            values, weights = answer.points()
            edges = answer.quantiles(places) if self.quantile_method == "linear" else _steps(values, weights, places)
        self.refuse_infinite(column, *edges)
        # As scikit-learn: bins of no width are left out, and a constant column has one bin.
        kept = [edges[0], *(b for a, b in itertools.pairwise(edges) if b - a > 1e-8)]
        return kept if len(kept) > 1 else [edges[0], edges[0]]

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        operations: list[Operation] = [Bin(column, list(learned["edges"])[1:-1])]
        if self.encode == "onehot":
            n = len(learned["outputs"])
            operations.append(
                OneHot(CategoryCodes(column, [float(i) for i in range(n)], -1, -1, place()), list(learned["outputs"]))
            )
        return operations

    def invert(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        back = self.invert_empty(schema)
        for column, state in self.state["columns"].items():
            if "empty" in state:
                continue
            bins, edges = list(map(float, range(len(state["edges"]) - 1))), state["edges"]
            if self.encode == "onehot":
                back.append(LargestCategory(column, list(state["outputs"]), bins, None, pl.Float64()))
            back.append(MapValues(column, bins, [(a + b) * 0.5 for a, b in itertools.pairwise(edges)], pl.Float64()))
        return back


def _steps(values: Any, weights: Any, places: Sequence[float]) -> list[float]:
    """Return quantiles without interpolation: a value, or the mean of two if the quantile is exactly between them."""
    ends = np.cumsum(weights)
    last = len(values) - 1
    probabilities = []
    for share in places:
        at = share * float(ends[-1])
        whole = round(at)
        low = min(int(np.searchsorted(ends, whole if at == whole else math.ceil(at))), last)
        high = min(int(np.searchsorted(ends, at, side="right")), last) if at == whole else low
        probabilities.append(float(values[low]) if low == high else float(values[low] + values[high]) / 2)
    return probabilities


def _between_means(values: Any, weights: Any, n: int) -> list[float]:
    """Edges between the centres of Lloyd's algorithm, which begins with centres at equal distances as scikit-learn does.

    In one dimension a cluster is a run of the sorted values, so a step is a search of n edges in running sums. A cluster
    without values takes the row that is farthest from its centre. The number of a cluster says who gets a value in the
    middle between two; so the centres keep their order, and may cross.
    """
    if len(values) <= n:  # each value is a centre
        return [float(edge) for edge in values[1:] / 2 + values[:-1] / 2]
    mean = float((values * weights).sum() / weights.sum())
    x = values - mean
    sums, counts = np.append(0.0, np.cumsum(x * weights)), np.append(0, np.cumsum(weights))
    edges = np.linspace(values[0], values[-1], n + 1)
    centres = (
        edges[1:] + edges[:-1]
    ) / 2 - mean  # rounded as theirs: both ends are as far from their centres, to rounding
    tolerance = 1e-4 * float((x**2 * weights).sum() / counts[-1])
    before: Any = None
    for _ in range(300):
        owners, cuts = _clusters(x, centres)
        size, total = np.zeros(n), np.zeros(n)
        size[owners], total[owners] = np.diff(counts[cuts]), np.diff(sums[cuts])
        owner = np.repeat(owners, np.diff(cuts))  # of each value
        empty = np.flatnonzero(size == 0)
        if len(empty):
            distance = (x - centres[owner]) ** 2
            order = np.argsort(-distance, kind="stable")[: len(empty)]
            rows: Any = np.repeat(order, np.minimum(weights[order], len(empty)))[: len(empty)] if distance.max() else []
            for cluster, row in zip(empty, rows, strict=False):
                size[owner[row]] -= 1
                total[owner[row]] -= x[row]
                size[cluster], total[cluster] = 1, x[row]
        moved = np.where(size > 0, total / np.maximum(size, 1), centres)
        shift, centres = float(((moved - centres) ** 2).sum()), moved
        if shift <= tolerance or (before is not None and np.array_equal(before, owner)):
            break
        before = owner
    centres = np.sort(centres) + mean
    return [float(edge) for edge in (centres[1:] + centres[:-1]) / 2]


def _clusters(x: Any, centres: Any) -> tuple[Any, Any]:
    """The clusters from left to right, and where among the ascending values each begins, and the last ends."""
    different, owners = np.unique(centres, return_index=True)
    middles = different[1:] / 2 + different[:-1] / 2
    first, behind = (np.searchsorted(x, middles, side=side) for side in ("left", "right"))
    return owners, np.concatenate([[0], np.where(owners[:-1] < owners[1:], behind, first), [len(x)]])


@dataclass(frozen=True)
class Bin(ColumnOperation):
    """Replaces x by the number of inner edges at or below it, as float64; missing values stay missing."""

    inner: Sequence[float]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [map_numbers(col(self.column), self._bins)]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({self.column: pl.Float64()})

    def _bins(self, x: Numbers) -> Numbers:
        return np.searchsorted(np.asarray(self.inner, dtype=np.float64), x, side="right").astype(np.float64)

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, inner = self.column, list(self.inner)

        def place(row: Row) -> None:
            if row[column] is not None:
                row[column] = float(bisect_right(inner, float(row[column])))

        return place
