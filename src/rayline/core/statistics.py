"""Statistics: mergeable summaries of columns, the only thing that a fit ever asks of the data.

A statistic is a monoid: `empty`, `merge` (associative and commutative), and `of` a batch. So it does not matter
how the rows are split, in which order the parts arrive, or whether they come from this process, from Ray blocks or
from the other folds of a cross validation. States hold sufficient values, never finished ones: a variance cannot be
merged, a sum of squared deviations can.

Some statistics also know what they become when the column is changed in a simple way (`filled`, `affine`). A stage
that reads such a column needs no second scan: its statistic is computed from that of the raw column.

In float columns NaN is a missing value, exactly like null, everywhere in Rayline.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.distinct import Gate
from rayline.core.errors import DataError
from rayline.core.frequent import Frequent
from rayline.core.schema import col

MAX_CATEGORIES = 1_000_000
"""Distinct values of one column that are counted exactly (about 100 MB); more become a sketch (13 MB)."""

MAX_BUCKETS = 1 << 16
"""Buckets of a quantile sketch; while a column has no more distinct values than this its quantiles are exact."""


class TooManyValuesError(DataError):
    """A column has more distinct values than are counted, and who asked needs each of them."""

    @classmethod
    def of(cls, where: str) -> Self:
        return cls(
            f"{where} has too many distinct values to count.",
            f"Expected at most {MAX_CATEGORIES:,}; got more.",
            "lump the rare ones first (RareCategories), hash the column (HashEncoder) or drop it (DropColumns).",
        )


class Request(NamedTuple):
    """A question to the data: this statistic of these columns. Two stages that ask the same share the answer."""

    statistic: type[Statistic]
    columns: tuple[str, ...]
    options: tuple[tuple[str, Any], ...] = ()
    prefix: str = ""
    """Empty for columns of the raw table, otherwise the digest of the fitted stages to apply before looking."""


class Statistic(ABC):
    """A mergeable summary of a batch of rows. Subclasses are frozen and say either `expressions` or `query`."""

    __slots__ = ()

    streams: ClassVar[bool] = False
    """Whether the state is small and the same in any order of the rows, to the bit: then one query looks at all rows."""

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        """Aggregates of one value each; the engine evaluates those of all statistics in one pass."""
        return []

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        """A query, for statistics that are a table themselves; evaluated in the same pass.

        A statistic that `streams` groups the rows. With the option `by`, a list of columns, all rows come at once: it
        groups by these columns too, and bounds what it holds (see `is_beyond`).
        """
        return None

    @classmethod
    @abstractmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        """The state from the values of `expressions`, in order, or from the one table of `query`."""

    @classmethod
    @abstractmethod
    def empty(cls, **options: Any) -> Self:
        """The state of no rows: the identity of `merge`."""

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """The state of the rows of both."""

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        """The state of the rows of all; a subclass may do better than one by one."""
        return functools.reduce(lambda a, b: a.merge(b), states, cls.empty(**options))

    @property
    def is_beyond(self) -> bool:
        """Whether there was more than a query of all rows may hold, so that the rows must be looked at part by part."""
        return False

    @classmethod
    def merge_folds(cls, states: Mapping[int, Self], folds: Sequence[Sequence[int]], **options: Any) -> list[Self]:
        """The state of each fold from those of the cells: of the cells that it names, as often as it names them.

        Cells without a state have no rows. A subclass may do better than fold by fold.
        """
        return [cls.merge_all([states[cell] for cell in sorted(fold) if cell in states], **options) for fold in folds]


@dataclass(frozen=True, slots=True)
class Moments(Statistic):
    """Count, mean and squared deviations of a numeric column.

    Merged as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances" (1979).
    """

    count: int = 0
    n_null: int = 0
    mean: float = 0.0
    m2: float = 0.0  # sum of squared deviations from the mean

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = missing_as_null(columns[0])
        return [x.count(), x.null_count(), x.mean(), x.var(ddof=0)]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        count, n_null, mean, variance = values
        return cls(count, n_null, mean, variance * count) if count else cls(0, n_null)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        count, n_null = self.count + other.count, self.n_null + other.n_null
        if not self.count or not other.count:
            one = self if self.count else other
            return type(self)(count, n_null, one.mean, one.m2) if count else type(self)(0, n_null)
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        m2 = self.m2 + other.m2 + delta * delta * (self.count * other.count / count)
        return type(self)(count, n_null, mean, m2)

    @property
    def variance(self) -> float:
        """Population variance (ddof=0), as scikit-learn's StandardScaler uses it; 0.0 of no values."""
        return self.m2 / self.count if self.count else 0.0

    def filled(self, value: float) -> Self:
        """The moments after the missing values became `value`."""
        known = type(self)(self.count, 0, self.mean, self.m2)
        return known.merge(type(self)(self.n_null, 0, float(value), 0.0)) if self.n_null else known

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """The moments after x became (x - shift) / scale + offset."""
        if not self.count:
            return self
        return type(self)(
            self.count, self.n_null, (self.mean - shift) * (1.0 / scale) + offset, self.m2 / (scale * scale)
        )


@dataclass(frozen=True, slots=True)
class Extremes(Statistic):
    """Smallest and largest value of a numeric column; None of no values."""

    count: int = 0
    n_null: int = 0
    low: Any = None
    high: Any = None

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = missing_as_null(columns[0])
        return [x.count(), x.null_count(), x.min(), x.max()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls(*values)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        lows = [v for v in (self.low, other.low) if v is not None]
        highs = [v for v in (self.high, other.high) if v is not None]
        return type(self)(
            self.count + other.count,
            self.n_null + other.n_null,
            min(lows, default=None),
            max(highs, default=None),
        )

    def filled(self, value: Any) -> Self:
        """The extremes after the missing values became `value`."""
        known = type(self)(self.count, 0, self.low, self.high)
        return known.merge(type(self)(self.n_null, 0, value, value)) if self.n_null else known

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """The extremes after x became (x - shift) / scale + offset."""
        if self.low is None:
            return self
        ends = [(v - shift) * (1.0 / scale) + offset for v in (self.low, self.high)]
        return type(self)(self.count, self.n_null, min(ends), max(ends))


@dataclass(frozen=True, slots=True)
class RowCount(Statistic):
    """How many rows there are."""

    streams: ClassVar[bool] = True

    count: int = 0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        return [pl.len()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls(*values)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count)


@dataclass(frozen=True, slots=True)
class AtMost(Statistic):
    """How many values of a numeric column are at most `bound`."""

    count: int = 0
    n_null: int = 0
    bound: float = 0.0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = missing_as_null(columns[0])
        return [(x <= options["bound"]).sum(), x.null_count()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        count, n_null = values
        return cls(count, n_null, options["bound"])

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls(bound=options["bound"])

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.n_null + other.n_null, self.bound)

    def filled(self, value: float) -> Self:
        """The count after the missing values became `value`."""
        return type(self)(self.count + self.n_null * (value <= self.bound), 0, self.bound)


@dataclass(frozen=True, slots=True)
class Missing(Statistic):
    """How many values of a column of any type are missing."""

    streams: ClassVar[bool] = True

    count: int = 0
    n_null: int = 0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        return [columns[0].count(), columns[0].null_count()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls(*values)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.n_null + other.n_null)


@dataclass(frozen=True, eq=False)
class ValueCounts(Statistic):
    """How often each value of a column occurs, exactly, up to `MAX_CATEGORIES` distinct values; then a sketch.

    The sketch (`Frequent`) knows the frequent values, approximately. Stages that need every value refuse it.
    With the option `elements` the values are the elements of a list column.
    """

    streams: ClassVar[bool] = True

    n_null: int = 0
    counts: pl.DataFrame = field(default_factory=lambda: _NO_VALUES)  # columns "value" (without null) and "n"
    sketch: Frequent | None = None  # more distinct values than MAX_CATEGORIES: what has become of the counts

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        by = options.get("by", ())
        values = table.select(*by, value=columns[0])
        if options.get("elements"):
            values = values.explode("value")
        if "by" in options:
            values = values.with_columns(Gate(MAX_CATEGORIES).of(pl.col("value")))
        return values.group_by(*by, "value").agg(n=pl.len().cast(pl.Int64))

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        table: pl.DataFrame = values[0]
        if table.schema["value"] in (pl.Categorical, pl.Enum):
            table = table.with_columns(pl.col("value").cast(pl.String))
        missing = table["value"].is_null()
        if table.schema["value"].is_float():
            missing |= table["value"].is_nan().fill_null(False)
        return cls._limited(int(table.filter(missing)["n"].sum()), table.filter(~missing))

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        n_null = sum(state.n_null for state in states)
        if any(state.sketch for state in states):
            return cls(n_null, _NO_VALUES, functools.reduce(Frequent.merge, [state._sketched() for state in states]))
        tables = [state.counts for state in states if state.counts.height]
        if len(tables) < 2:
            typed = [s.counts for s in states if s.counts.schema["value"] != pl.Null]
            return cls(n_null, (tables or typed or [_NO_VALUES])[0])
        try:
            table = pl.concat(tables, how="vertical_relaxed").group_by("value").agg(pl.col("n").sum())
        except (pl.exceptions.SchemaError, pl.exceptions.InvalidOperationError) as error:
            kinds = sorted({str(t.schema["value"]) for t in tables})
            raise DataError(
                "A column holds values of more than one type.",
                f"Expected one type; got {kinds}.",
                "cast the column first.",
            ) from error
        return cls._limited(n_null, table)

    @classmethod
    def merge_folds(cls, states: Mapping[int, Self], folds: Sequence[Sequence[int]], **options: Any) -> list[Self]:
        tables = {cell: state.counts for cell, state in states.items() if state.counts.height}
        if any(state.sketch for state in states.values()) or len({t.schema["value"] for t in tables.values()}) != 1:
            return super().merge_folds(states, folds, **options)
        # One table with a column of counts for each cell: it is grouped and sorted once, and not for each fold.
        columns = [table.rename({"n": str(cell)}) for cell, table in tables.items()]
        wide = pl.concat(columns, how="diagonal").group_by("value").agg(pl.all().sum()).sort("value")
        found = []
        for fold in folds:
            times = Counter(fold)
            n = pl.sum_horizontal(pl.lit(0, pl.Int64), *(pl.col(str(cell)) * times[cell] for cell in tables))
            n_null = sum(state.n_null * times[cell] for cell, state in states.items())
            found.append(cls._limited(n_null, wide.select("value", n=n).filter(pl.col("n") > 0)))
        return found

    @classmethod
    def _limited(cls, n_null: int, table: pl.DataFrame) -> Self:
        if table.height <= MAX_CATEGORIES:
            return cls(n_null, table)
        return cls(n_null, _NO_VALUES, Frequent.of(table["value"], table["n"]))

    @property
    def is_beyond(self) -> bool:
        return self.sketch is not None

    def _sketched(self) -> Frequent:
        return self.sketch or Frequent.of(self.counts["value"], self.counts["n"])

    def merge(self, other: Self) -> Self:
        return self.merge_all([self, other])

    @functools.cached_property
    def table(self) -> pl.DataFrame:
        """The values and their counts in the order of the values: the same whatever the batches were.

        Raises
        ------
        DataError
            When there were more than `MAX_CATEGORIES` distinct values.
        """
        if self.sketch is not None:
            raise TooManyValuesError.of("A column")
        return self.counts.sort("value")

    @property
    def count(self) -> int:
        """Values that are not missing."""
        return self.sketch.total if self.sketch is not None else int(self.table["n"].sum())

    def most_frequent(self) -> Any:
        """The commonest value, the smallest of several; None of no values."""
        table = self.table
        return table.filter(pl.col("n") == pl.col("n").max())["value"].min() if table.height else None

    def filled(self, value: Any) -> Self:
        """The counts after the missing values became `value`."""
        dtype = self.counts.schema["value"]
        becomes_float = isinstance(value, float) and not dtype.is_float() and dtype != pl.Null
        known = self.counts.cast({"value": pl.Float64}) if becomes_float else self.counts  # the mean of integers
        if not self.n_null:
            return type(self)(0, known, self.sketch)
        series = pl.Series([value], dtype=None if dtype == pl.Null else known.schema["value"])
        more = pl.DataFrame({"value": series, "n": pl.Series([self.n_null], dtype=pl.Int64)})
        return self.merge_all([type(self)(0, known, self.sketch), type(self)(0, more)])

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """The counts after x became (x - shift) / scale + offset, to the bit: values that then are equal count together."""
        if self.sketch is not None:
            raise TooManyValuesError.of("A scaled column")
        x = pl.col("value").cast(pl.Float64)
        x = x - shift if shift else x
        x = x * (1.0 / scale) if scale != 1.0 else x
        table = self.counts.select(value=x + offset if offset else x, n="n").group_by("value").agg(pl.col("n").sum())
        return type(self)(self.n_null, table)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ValueCounts):
            return NotImplemented
        mine, theirs = self.counts.sort("value").rows(), other.counts.sort("value").rows()
        return (self.n_null, self.sketch, mine) == (other.n_null, other.sketch, theirs)

    __hash__ = None  # type: ignore[assignment]  # a table has no hash


@dataclass(frozen=True, eq=False)
class Quantiles(Statistic):
    """The distribution of a numeric column, for medians and other quantiles.

    The values are counted in buckets of the float64 number line: those that share all but their `level` lowest bits.
    `level` is the smallest at which no more than `MAX_BUCKETS` buckets are needed, so the state is a function of the
    set of values alone, whatever the batches. At level 0 quantiles are exact; at level L a quantile is off by at most
    one bucket, a relative error of 2^(L-52) of the value. The idea is that of DDSketch (Masson, Rim and Lee, 2019),
    with the float format's own buckets.
    """

    n_null: int = 0
    level: int = 0
    table: pl.DataFrame = field(default_factory=lambda: _NO_BUCKETS)  # columns "key" and "n"

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(value=missing_as_null(columns[0]))

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        column: pl.Series = values[0]["value"]
        keys = _keys(column.drop_nulls().to_numpy())
        # Any part of the rows that overflows at a level proves that the whole does: find the level on a few rows first.
        level = _level(np.sort(keys[: 4 * MAX_BUCKETS]))
        table, more = _limited(_counted(keys >> level))
        return cls(column.null_count(), level + more, table)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        level = max((state.level for state in states), default=0)
        tables = [_coarser(state.table, level - state.level) for state in states]
        table = pl.concat(tables) if tables else _NO_BUCKETS
        table, more = _limited(table.group_by("key").agg(pl.col("n").sum()))
        return cls(sum(state.n_null for state in states), level + more, table)

    def merge(self, other: Self) -> Self:
        return self.merge_all([self, other])

    @property
    def count(self) -> int:
        """Values that are not missing."""
        return int(self.table["n"].sum())

    def quantile(self, q: float) -> float | None:
        """The q-quantile with linear interpolation between neighbours, as NumPy's default; None of no values."""
        return self.quantiles([q])[0] if self.count else None

    def quantiles(self, qs: Sequence[float]) -> list[float]:
        """Several quantiles; needs values."""
        values, n = self.points()
        ends = np.cumsum(n)
        positions = [q * (int(ends[-1]) - 1) for q in qs]
        lows = values[np.searchsorted(ends, [math.floor(p) for p in positions], side="right")].tolist()
        highs = values[np.searchsorted(ends, [math.ceil(p) for p in positions], side="right")].tolist()
        found = zip(lows, highs, positions, strict=True)
        return [low + (high - low) * (p - math.floor(p)) if high != low else low for low, high, p in found]

    def points(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The values in ascending order (at a level above 0 the middle of each bucket), and how often each occurs."""
        table = self.table.sort("key")
        return self._values(table), table["n"].to_numpy()

    def filled(self, value: float) -> Self:
        """The distribution after the missing values became `value`."""
        key = _keys(np.array([value], dtype=np.float64))
        more = pl.DataFrame({"key": key, "n": [self.n_null]}, schema=_NO_BUCKETS.schema)
        known = type(self)(0, self.level, self.table)
        return known.merge(type(self)(0, 0, more)) if self.n_null else known

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """The distribution after x became (x - shift) / scale + offset."""
        values = (self._values(self.table) - shift) * (1.0 / scale) + offset
        moved = pl.DataFrame({"key": _keys(values) >> self.level, "n": self.table["n"]})
        return self.merge_all([type(self)(self.n_null, self.level, moved)])

    def _values(self, table: pl.DataFrame) -> npt.NDArray[np.float64]:
        keys = table["key"].to_numpy()
        if not self.level:
            return _unkeys(keys)
        low, high = (np.clip(k, _LOWEST, _HIGHEST) for k in (keys << self.level, ((keys + 1) << self.level) - 1))
        return _unkeys(low) / 2 + _unkeys(high) / 2

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Quantiles):
            return NotImplemented
        mine, theirs = self.table.sort("key").rows(), other.table.sort("key").rows()
        return (self.n_null, self.level, mine) == (other.n_null, other.level, theirs)

    __hash__ = None  # type: ignore[assignment]  # a table has no hash


@dataclass(frozen=True, slots=True)
class Words(Statistic):
    """How many words the strings of a column have: what tells free text from categories."""

    streams: ClassVar[bool] = True

    count: int = 0
    spaces: int = 0

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        x = columns[0].cast(pl.String)
        return [x.count(), x.str.count_matches(" ", literal=True).sum()]

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        count, spaces = values
        return cls(count, spaces or 0)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    def merge(self, other: Self) -> Self:
        return type(self)(self.count + other.count, self.spaces + other.spaces)

    @property
    def is_text(self) -> bool:
        """Free text has four words or more in the mean."""
        return self.count > 0 and self.spaces >= 3 * self.count


def missing_as_null(column: pl.Expr) -> pl.Expr:
    """A numeric column as float64 with NaN as null."""
    return column.cast(pl.Float64).fill_nan(None)


Answers: TypeAlias = dict[Request, Statistic]


class Question:
    """Requests to one table, as queries that Polars can answer in one pass, together with those of other questions.

    With `by` the statistics must be those that stream; one column of small integers in it makes the answers those for
    each of its values by itself.
    """

    def __init__(self, table: pl.LazyFrame, requests: Iterable[Request], by: Sequence[str] | None = None) -> None:
        self._by, self._places = by, list[tuple[Request, slice | int]]()
        self.queries: list[pl.LazyFrame] = []
        scalars: list[pl.Expr] = []
        for request in requests:
            columns, options = [col(name) for name in request.columns], dict(request.options)
            query = request.statistic.query(table, *columns, **options, **({} if by is None else {"by": by}))
            if query is not None:
                self._places.append((request, len(self.queries)))
                self.queries.append(query)
                continue
            wanted = request.statistic.expressions(*columns, **options)
            self._places.append((request, slice(len(scalars), len(scalars) + len(wanted))))
            scalars += wanted
        named = [scalar.alias(str(i)) for i, scalar in enumerate(scalars)]
        self._has_scalars = bool(named)
        if by:
            self.queries.append(table.group_by(by).agg(named))
        elif named:
            self.queries.append(table.select(named))

    def answers(self, tables: Sequence[pl.DataFrame]) -> dict[int, Answers]:
        """The answers from the results of the queries: for each value of `by`, or for 0."""
        if not self._by:
            return {0: self._answers(tables, tables[-1].row(0) if self._has_scalars else ())}
        scalars = {int(row[0]): row[1:] for row in tables[-1].rows()}
        parts = [table.partition_by(self._by, as_dict=True, include_key=False) for table in tables[:-1]]
        return {
            cell: self._answers([part[(cell,)] for part in parts], values) for cell, values in sorted(scalars.items())
        }

    def _answers(self, tables: Sequence[pl.DataFrame], values: Sequence[Any]) -> Answers:
        found: Answers = {}
        for request, place in self._places:
            given = values[place] if isinstance(place, slice) else (tables[place],)
            found[request] = request.statistic.of(*given, **dict(request.options))
        return found


def evaluate(table: pl.LazyFrame, requests: Iterable[Request]) -> Answers:
    """The statistics of a table that fits into memory: numbers are added up in the order of the rows."""
    question = Question(table, requests)
    return question.answers(pl.collect_all(question.queries, engine="in-memory"))[0]


def merge_answers(parts: Iterable[Mapping[Request, Statistic]]) -> Answers:
    """The answers for all rows from the answers for parts of them."""
    parts = list(parts)
    requests = list(parts[0]) if parts else []
    return {r: r.statistic.merge_all([part[r] for part in parts], **dict(r.options)) for r in requests}


def merge_folds(cells: Mapping[int, Mapping[Request, Statistic]], folds: Sequence[Sequence[int]]) -> list[Answers]:
    """The answers for each fold from those for the cells, which have the same requests."""
    found: list[Answers] = [{} for _ in folds]
    for request in next(iter(cells.values()), {}):
        states = {cell: answers[request] for cell, answers in cells.items()}
        merged = request.statistic.merge_folds(states, folds, **dict(request.options))
        for answers, state in zip(found, merged, strict=True):
            answers[request] = state
    return found


_NO_VALUES: pl.DataFrame = pl.DataFrame(schema={"value": pl.Null, "n": pl.Int64})

# The float64 number line as integers: order-preserving, so buckets are runs of neighbouring floats.

_NO_BUCKETS: pl.DataFrame = pl.DataFrame(schema={"key": pl.Int64, "n": pl.Int64})
_MOST_BINS = 1 << 24  # counted in an array when the keys span no more


def _keys(values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    bits = (values + 0.0).view(np.int64)  # + 0.0 makes -0.0 one with 0.0
    return bits ^ ((bits >> 63) & 0x7FFF_FFFF_FFFF_FFFF)


def _unkeys(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return (keys ^ ((keys >> 63) & 0x7FFF_FFFF_FFFF_FFFF)).view(np.float64)


_LOWEST, _HIGHEST = _keys(np.array([-math.inf, math.inf])).tolist()


def _level(keys: npt.NDArray[np.int64]) -> int:
    """The smallest level at which these sorted keys need no more than MAX_BUCKETS buckets."""
    low, high = 0, 64
    while low < high:
        middle = (low + high) // 2
        fits = np.count_nonzero(np.diff(keys >> middle)) < MAX_BUCKETS
        low, high = (low, middle) if fits else (middle + 1, high)
    return low


def _counted(keys: npt.NDArray[np.int64]) -> pl.DataFrame:
    if len(keys):
        low, high = int(keys.min()), int(keys.max())
        if high - low < _MOST_BINS:
            n = np.bincount(keys - low)
            places = np.flatnonzero(n)
            return pl.DataFrame({"key": places + low, "n": n[places]}, schema=_NO_BUCKETS.schema)
    return pl.DataFrame({"key": keys}).group_by("key").agg(n=pl.len().cast(pl.Int64))


def _limited(table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    more = 0
    while table.height > MAX_BUCKETS:
        table, more = _coarser(table, 1), more + 1
    return table, more


def _coarser(table: pl.DataFrame, levels: int) -> pl.DataFrame:
    if not levels:
        return table.select("key", "n")
    return table.group_by(pl.col("key") // (1 << levels)).agg(pl.col("n").sum())
