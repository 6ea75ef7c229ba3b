"""Nearest-neighbour stages, which search a bounded sample that depends only on the content of the rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, ParameterError
from rayline.core.operations.base import Changes, Drop, Fill, Operation, Row, RowFunction
from rayline.core.operations.categorical import CategoryCodes
from rayline.core.schema import Kind, col
from rayline.core.stage import FitContext, ParameterCheck, Stage, an_int, no_values, param
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import ValueCounts, counting
from rayline.core.statistics.moments import Moments
from rayline.core.statistics.multi_column import row_hash
from rayline.core.statistics.row_sample import RowSample

Matrix = npt.NDArray[np.float64]
_CELLS = 1 << 20  # distances that are held at a time

NeighborWeights: TypeAlias = Literal["uniform", "distance"]
"""The weights of the donors of a missing value."""


@dataclass(frozen=True)
class KNNImputer(Stage):
    """Replace missing values by the column's mean over the nearest training rows that have a value, as scikit-learn does.

    The distance is Euclidean over the columns that both rows have, scaled up for missing ones; scale the columns first when
    their units differ. All columns become Float64.

    Neighbours are searched in a sample of at most `max_donors` distinct training rows, chosen by a hash of their values. If
    the data has no more rows than that, the result is scikit-learn's (the choice among equally distant neighbours may
    differ). Otherwise it is an estimate from the sample, whose cost and size do not grow with the data.

    Parameters
    ----------
    columns
        Numeric columns, which also define the distance; all of them when omitted.
    n_neighbors
        The number of neighbours to average.
    weights
        "uniform", or "distance": neighbours are weighted by 1 / distance.
    max_donors
        The maximum number of sampled rows.
    keep_empty_features
        How to treat a column without any value in fit: None raises DataError, False drops it, True keeps it filled with 0.

    Raises
    ------
    DataError
        In fit, when a column has no values or infinite ones.
    ParameterError
        When `n_neighbors` or `max_donors` is outside 1 to 1,000 and 1 to 100,000.

    References
    ----------
    Troyanskaya et al., "Missing value estimation methods for DNA microarrays", Bioinformatics 17 (2001).

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import KNNImputer
    >>> table = pl.DataFrame({"x": [1.0, 1.1, 9.0, 9.2], "y": [2.0, None, 7.0, 8.0]})
    >>> Preprocessor([("impute", KNNImputer(n_neighbors=1))]).fit_transform(table)["y"].to_list()
    [2.0, 2.0, 7.0, 8.0]
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC, Kind.BOOLEAN)
    lossy_reason: ClassVar = "which values were missing"
    unsupported_params: ClassVar = {
        **Stage.unsupported_params,
        "add_indicator": "put a MissingIndicator before it",
        "missing_values": "null and NaN are missing; turn other values into null first (CheckRange, Expression)",
        "metric": "leave it out: distances are Euclidean",
    }

    n_neighbors: int = param(5, an_int(1, 1000))
    weights: NeighborWeights = "uniform"
    max_donors: int = param(2000, an_int(1, 100_000))
    _: KW_ONLY
    keep_empty_features: bool | None = None

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        if not context.columns:
            return []
        return [self._request(context), *(context.request(Moments, column) for column in context.columns)]

    def _request(self, context: FitContext) -> StatisticRequest:
        return context.request(RowSample, *sorted(context.columns), size=self.max_donors)

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        columns = sorted(context.columns)  # in the order in which rows are hashed and distances added up
        if not columns:
            return {"columns": [], "donors": [], "copies": [], "means": []}
        empty: list[str] = []
        for column in columns:
            moments: Moments = results[context.request(Moments, column)]
            if not moments.count:
                if self.keep_empty_features is None:
                    raise no_values(type(self), column)
                empty.append(column)
                continue
            if not np.isfinite([moments.mean, moments.m2]).all():
                raise DataError(
                    f"KNNImputer: column {column!r} holds infinite values, or values too large for float64.",
                    "Expected finite numbers.",
                    f"clip {column!r} first (Clipper).",
                )
        donors = results[self._request(context)].rows()
        filled = [column for column in columns if column not in empty]
        return {
            "columns": filled,
            "donors": [donors[str(i)].to_list() for i, column in enumerate(columns) if column in filled],
            "copies": [min(n, self.n_neighbors) for n in donors["n"]],
            "means": [results[context.request(Moments, column)].mean for column in filled],
            **({"empty": empty} if empty else {}),
        }

    def to_operations(self) -> list[Operation]:
        state = self.state
        empty = list(state.get("empty", ()))
        of_empty: list[Operation] = (
            [Fill(c, 0.0, pl.Float64()) for c in empty] if self.keep_empty_features else [Drop(empty)]
        )
        if not empty:
            of_empty = []
        if not state["columns"]:
            return of_empty
        copies = state["copies"]
        donors = [np.repeat(np.array(values, dtype=np.float64), copies).tolist() for values in state["donors"]]
        how = (self.n_neighbors, self.weights == "distance")
        return [FillFromNeighbours(list(state["columns"]), donors, list(state["means"]), *how), *of_empty]


@dataclass(frozen=True)
class FillFromNeighbours(Operation):
    """Replaces missing values by the mean of the nearest donors that have a value; every column becomes float64."""

    columns: Sequence[str]
    donors: Sequence[Sequence[float | None]]  # the values of each column; missing is None or NaN
    means: Sequence[float]  # for rows that have nothing in common with any donor
    n_neighbors: int
    by_distance: bool

    @cached_property
    def _donors(self) -> Matrix:
        return np.array(self.donors, dtype=np.float64)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_donors"}

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # several columns at once, see apply

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        names = [f"\x00{name}" for name in self.columns]
        fields = [col(c).cast(pl.Float64).alias(n) for c, n in zip(self.columns, names, strict=True)]
        dtype = pl.Struct(dict.fromkeys(names, pl.Float64()))
        filled = pl.struct(fields).map_batches(self._structs, return_dtype=dtype, is_elementwise=True)
        filled_table = table.with_columns(filled.alias("\x00filled")).unnest("\x00filled")
        return filled_table.with_columns(pl.col(n).alias(c) for c, n in zip(self.columns, names, strict=True)).drop(
            names
        )

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes(dict.fromkeys(self.columns, pl.Float64()))

    def _structs(self, rows: pl.Series) -> pl.Series:
        fields = rows.struct.unnest()
        matrix = fields.fill_null(np.nan).to_numpy().astype(np.float64)
        filled = self._filled(matrix) if len(matrix) else matrix
        return pl.DataFrame(filled, schema=fields.columns, orient="row").fill_nan(None).to_struct(rows.name)

    def _filled(self, matrix: Matrix) -> Matrix:
        result = matrix.copy()
        todo = np.flatnonzero(np.isnan(matrix).any(axis=1))
        step = max(_CELLS // max(self._donors.shape[1], 1), 1)
        for start in range(0, len(todo), step):
            rows = todo[start : start + step]
            distances = distances_to(matrix[rows], self._donors)
            for j in range(matrix.shape[1]):
                gaps = np.flatnonzero(np.isnan(matrix[rows, j]))
                has = np.flatnonzero(self._donors[j] == self._donors[j])
                if len(gaps):
                    result[rows[gaps], j] = self._means(
                        distances[np.ix_(gaps, has)], self._donors[j][has], self.means[j]
                    )
        return result

    def _means(self, distances: Matrix, values: Matrix, otherwise: float) -> Matrix:
        if not len(values):
            return np.full(len(distances), otherwise)
        n = min(self.n_neighbors, len(values))
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :n]  # NaN comes last
        near = np.take_along_axis(distances, nearest, axis=1)
        weights = np.ones_like(near)
        if self.by_distance:
            with np.errstate(divide="ignore"):
                weights = 1.0 / near
            same = np.isinf(weights)
            weights = np.where(np.any(same, axis=1, keepdims=True), same.astype(np.float64), weights)
        weights = np.where(np.isnan(near), 0.0, weights)
        total = weights.sum(axis=1)
        # `distance` of nothing but infinitely far rows has no weight at all: as with nothing in common.
        means = (values[nearest] * weights).sum(axis=1) / np.where(total > 0, total, 1.0)
        return np.where(total > 0, means, otherwise)

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        columns = list(self.columns)

        def fill(row: Row) -> None:
            values = [row[name] for name in columns]
            if any(x is None or x != x for x in values):
                matrix = np.array([[np.nan if x is None else float(x) for x in values]])
                values = [None if x != x else x for x in self._filled(matrix)[0].tolist()]
            row.update((name, None if x is None else float(x)) for name, x in zip(columns, values, strict=True))

        return fill

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {name: (name, *(other for other in self.columns if other != name)) for name in self.columns}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return []  # what was filled stays filled


def distances_to(rows: Matrix, donors: Matrix) -> Matrix:
    """Euclidean distances over the columns that both have, scaled up for the others; NaN where there are none.

    Column by column: a product of matrices would round differently with the number of rows.
    """
    n_columns, n_donors = donors.shape
    total, shared = np.zeros((len(rows), n_donors)), np.zeros((len(rows), n_donors))
    with np.errstate(all="ignore"):
        for j in range(n_columns):
            difference = rows[:, j][:, None] - donors[j][None, :]
            known = ~np.isnan(difference)
            total += np.where(known, difference * difference, 0.0)
            shared += known
        return np.where(shared > 0, np.sqrt(total * (n_columns / shared)), np.nan)


@dataclass(frozen=True)
class SMOTE(Stage):
    """Add synthetic training rows of the rarer classes until each has `ratio` times as many rows as the most frequent class.

    In the chosen columns, a synthetic row is a random point on the line from a row to one of its `n_neighbors` nearest
    neighbours of the same class; all other columns are copied from the row. Integers are rounded. Rows with a missing value
    in one of the columns are repeated unchanged. In prediction nothing changes.

    Neighbours are searched in a sample of at most `max_donors` distinct complete rows of each class, chosen by a hash of
    their values. If a class has no more rows than that, this is SMOTE itself; otherwise an approximation whose cost does not
    grow with the data. Random numbers are a hash of the row and the seed, so neither the order of the rows nor how they are
    split changes the result, and the class sizes are exact only on average. Scale the columns first when their units differ.

    Parameters
    ----------
    columns
        Numeric columns to interpolate, which also define the distance; all of them when omitted.
    by
        The column of the classes; the first target when omitted.
    ratio
        The number of rows of each class, relative to the most frequent one; above 0, at most 1.
    n_neighbors
        The number of neighbours to choose from.
    max_donors
        The maximum number of sampled rows of each class.
    seed
        The seed of the random choices.

    Raises
    ------
    SchemaError
        In fit, when there is no such column.
    DataError
        In fit, when a class that needs more rows has infinite values.
    ParameterError
        When `ratio` is not above 0 and at most 1, or `n_neighbors` and `max_donors` are outside 1 to 1,000 and 2 to 100,000.

    References
    ----------
    Chawla et al., "SMOTE: Synthetic minority over-sampling technique", JAIR 16 (2002).

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import SMOTE
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0, 8.0, 9.0], "y": ["a", "a", "a", "a", "b", "b"]})
    >>> more = Preprocessor([("smote", SMOTE())]).fit_transform(table, target_columns=["y"])
    >>> more["y"].to_list(), more.filter(pl.col("y") == "b")["x"].is_between(8, 9).all()
    (['a', 'a', 'a', 'a', 'b', 'b', 'b', 'b'], True)
    """

    kinds: ClassVar = (Kind.NUMERIC,)
    accepts: ClassVar = (Kind.NUMERIC,)
    resamples: ClassVar = True
    unsupported_params: ClassVar = {
        **Stage.unsupported_params,
        "k_neighbors": "it is n_neighbors here",
        "sampling_strategy": "it is ratio here",
        "random_state": "it is seed here",
    }

    by: str | None = None
    ratio: float = param(
        1.0, ParameterCheck("a number above 0, up to 1", lambda v: type(v) in (int, float) and 0 < v <= 1)
    )
    n_neighbors: int = param(5, an_int(1, 1000))
    max_donors: int = param(1000, an_int(2, 100_000))
    seed: int = param(0, an_int(0, 1 << 62))

    def _by(self, context: FitContext) -> str:
        return context.class_column_of(self, self.by)

    def _mixed(self, context: FitContext) -> list[str]:
        columns = sorted(column for column in context.columns if column != self._by(context))
        if not columns:
            raise ParameterError.value(
                "columns", "at least one numeric column besides the classes", list(context.columns), where="SMOTE"
            )
        return columns

    def required_statistics(self, context: FitContext) -> list[StatisticRequest]:
        return [context.request(ValueCounts, self._by(context)), self._request(context)]

    def _request(self, context: FitContext) -> StatisticRequest:
        return context.request(RowSample, self._by(context), *self._mixed(context), grouped=True, size=self.max_donors)

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        by, columns = self._by(context), self._mixed(context)
        with counting(f"{type(self).__name__}: column {by!r}"):
            table = results[context.request(ValueCounts, by)].table
        max_count = max(table["n"].to_list(), default=0)
        classes: list[Any] = []
        rates, donors = [], []
        for value, n in table.select("value", "n").rows():
            rate = max(1.0, self.ratio * max_count / n)
            if rate > 1.0:
                class_rows = results[self._request(context)].rows(value).drop("n").drop_nulls()
                if not all(class_rows[name].is_finite().all() for name in class_rows.columns):
                    raise DataError(
                        f"SMOTE: class {value!r} of {by!r} holds infinite values.",
                        "Expected finite numbers.",
                        "clip them first (Clipper).",
                    )
                classes.append(value)
                rates.append(rate)
                donors.append([class_rows[str(i)].to_list() for i in range(len(columns))])
        hashed = context.hashed_columns
        return {"columns": columns, "by": by, "classes": classes, "rates": rates, "donors": donors, "hashed": hashed}

    def to_operations(self) -> list[Operation]:
        _ = self.state
        return []

    def lower_training(self) -> list[Operation]:
        s = self.state
        if not s["classes"]:
            return []
        how = (list(s["hashed"]), self.n_neighbors, self.seed)
        return [Synthesize(list(s["columns"]), s["by"], list(s["classes"]), list(s["rates"]), list(s["donors"]), *how)]

    def without(self, columns: Collection[str]) -> Self | None:
        return None if any(name in columns for name in self.state["hashed"]) else self


@dataclass(frozen=True)
class Synthesize(Operation):
    """Each row is followed by as many rows between it and its neighbours as the rate of its class says."""

    columns: Sequence[str]
    by: str
    classes: Sequence[Any]
    rates: Sequence[float]
    donors: Sequence[Sequence[Sequence[float]]]  # for each class the values of each column
    hashed: Sequence[str]
    n_neighbors: int
    seed: int

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # rows are added, see apply

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {}

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        schema = table.collect_schema()
        n = len(self.classes)
        code = CategoryCodes(self.by, self.classes, n, n).expression(schema)
        rate = pl.lit(pl.Series([*self.rates, 1.0], dtype=pl.Float64)).gather(code)  # other classes: as they are
        key = row_hash([col(name) for name in self.hashed], self.seed)
        share = key.cast(pl.Float64) / 2.0**64
        copies = (rate.floor() + (share < rate - rate.floor()).cast(pl.Float64)).cast(pl.Int64)
        temporary_columns = ("\x00copy", "\x00class", "\x00key")
        repeated = (
            table.with_columns(
                pl.int_ranges(0, copies).alias(temporary_columns[0]),
                code.alias(temporary_columns[1]),
                key.alias(temporary_columns[2]),
            )
            .explode(temporary_columns[0])
            .with_columns(pl.col(temporary_columns[0]).fill_null(0))
        )
        names = [f"\x00{name}" for name in self.columns]
        fields = [col(c).cast(pl.Float64).alias(m) for c, m in zip(self.columns, names, strict=True)]
        dtype = pl.Struct(dict.fromkeys(names, pl.Float64()))
        mixed = pl.struct(*temporary_columns, *fields).map_batches(
            self._structs, return_dtype=dtype, is_elementwise=True
        )
        mixed_table = repeated.with_columns(mixed.alias("\x00mixed")).unnest("\x00mixed")
        is_new = pl.col(temporary_columns[0]) > 0
        results = []
        for column, name in zip(self.columns, names, strict=True):
            value = pl.col(name).round() if schema[column].is_integer() else pl.col(name)
            new = value.cast(schema[column], strict=False)
            results.append(pl.when(is_new).then(new).otherwise(col(column)).alias(column))
        return mixed_table.with_columns(results).drop(*temporary_columns, *names)

    def _structs(self, rows: pl.Series) -> pl.Series:
        fields = rows.struct.unnest()
        matrix = fields.drop(fields.columns[:3]).fill_null(np.nan).to_numpy().astype(np.float64)
        copies, classes = fields[fields.columns[0]].to_numpy(), fields[fields.columns[1]].to_numpy()
        keys = fields[fields.columns[2]].to_numpy()
        for number, donors in enumerate(self.donors):
            todo = np.flatnonzero((copies > 0) & (classes == number) & ~np.isnan(matrix).any(axis=1))
            known = np.array(donors, dtype=np.float64)
            step = max(_CELLS // max(known.shape[1], 1), 1)
            for start in range(0, len(todo), step):
                part = todo[start : start + step]
                matrix[part] = self._mixed(matrix[part], known, keys[part], copies[part])
        return pl.DataFrame(matrix, schema=fields.columns[3:], orient="row").fill_nan(None).to_struct(rows.name)

    def _mixed(self, rows: Matrix, donors: Matrix, keys: Any, copies: Any) -> Matrix:
        distances = distances_to(rows, donors)
        distances = np.where(distances > 0, distances, np.inf)  # the row itself is no neighbour
        order = np.argsort(distances, axis=1, kind="stable")[:, : self.n_neighbors]
        n_near = np.isfinite(np.take_along_axis(distances, order, axis=1)).sum(axis=1)
        which, place = (_uniform(keys, copies, draw) for draw in (1, 2))
        chosen = order[np.arange(len(rows)), np.minimum((which * n_near).astype(np.int64), np.maximum(n_near - 1, 0))]
        mixed = rows + place[:, None] * (donors.T[chosen] - rows)
        return np.where((n_near > 0)[:, None], mixed, rows)


def _uniform(keys: Any, copies: Any, draw: int) -> Matrix:
    """A number from 0 to 1 for each key and copy (SplitMix64)."""
    with np.errstate(over="ignore"):
        x = keys + (copies.astype(np.uint64) * np.uint64(2) + np.uint64(draw)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    share: Matrix = ((x ^ (x >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53
    return share
