"""Statistics that count: how often each value of a column, or each combination of values, occurs."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import polars as pl

from rayline.core.errors import DataError
from rayline.core.schema import categories_as_text
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.cardinality_guard import CardinalityGate
from rayline.core.statistics.sketches import FrequentValues

MAX_CATEGORIES = 1_000_000
"""Distinct values of one column that are counted exactly (about 100 MB); more become a sketch (13 MB)."""


class TooManyValuesError(DataError):
    """There are too many distinct values, or combinations of them, to count exactly, and the caller needs each of them."""

    noun = ""

    @classmethod
    def of(cls, what: str, noun: str = "distinct values") -> Self:
        error = cls(
            f"{what} has too many {noun} to count.",
            f"Expected at most {MAX_CATEGORIES:,}; got more.",
            "lump the rare ones first (RareCategories), hash the column (HashEncoder) or drop it (DropColumns).",
        )
        error.noun = noun
        return error


@contextlib.contextmanager
def counting(what: str) -> Iterator[None]:
    """Name the column in an error about too many values in this block."""
    try:
        yield
    except TooManyValuesError as error:
        raise TooManyValuesError.of(what, error.noun) from error


@dataclass(frozen=True, eq=False)
class GroupTable(Statistic):
    """A statistic that is a table: one row for each combination of `keys` that occurs, with its sums.

    A subclass defines its keys, its query (which groups by them), and in `limited` the size limit. What is beyond the limit is not an
    error before a stage reads it, which names itself and the column.
    """

    keys: ClassVar[tuple[str, ...]]
    noun: ClassVar[str] = "distinct values"

    table: pl.DataFrame | None = None  # None of no rows
    overflow: bool = False  # more than the limit: the table is dropped

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        return cls.limited(values[0])

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        if any(state.overflow for state in states):
            return cls(overflow=True)
        tables = [state.table for state in states if state.table is not None]
        return cls.limited(cls.grouped(pl.concat(tables, how="vertical_relaxed"), cls.keys)) if tables else cls()

    @classmethod
    def grouped(cls, table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
        """Return the lines of equal keys in one: counts, in the column "n", are added up."""
        return table.group_by(*keys).agg(pl.col("n").sum())

    @classmethod
    def limited(cls, table: pl.DataFrame) -> Self:
        """Return the state with this table, or the state of an overflow when it is larger than what is held."""
        raise NotImplementedError

    @property
    def groups(self) -> pl.DataFrame | None:
        """The table. Raises TooManyValuesError when there were more groups than the limit."""
        if self.overflow:
            raise TooManyValuesError.of("A column", self.noun)
        return self.table


@dataclass(frozen=True, eq=False)
class ValueCounts(Statistic):
    """The counts of each value of a column: exact for up to `MAX_CATEGORIES` distinct values, a sketch beyond.

    The sketch (`FrequentValues`) knows the frequent values, approximately. Stages that need every value refuse it.
    With the option `elements` the values are the elements of a list column.
    """

    streams: ClassVar[bool] = True

    n_null: int = 0
    counts: pl.DataFrame = field(default_factory=lambda: _NO_VALUES)  # columns "value" (without null) and "n"
    sketch: FrequentValues | None = None  # more distinct values than MAX_CATEGORIES: what has become of the counts
    by_cell: pl.DataFrame | None = None  # of one of the cells of a scan: a column of counts for each of them, by value

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        by = options.get("by", ())
        values = table.select(*by, value=columns[0])
        if options.get("elements"):
            values = values.explode("value")
        if "by" in options:
            values = values.with_columns(CardinalityGate(MAX_CATEGORIES).of(pl.col("value")))
        counts = values.group_by(*by, "value").agg(n=pl.len().cast(pl.Int64))
        return counts.group_by("value").agg(*by, "n") if by else counts  # a line for each value, with its cells

    @classmethod
    def of_cells(cls, table: pl.DataFrame, cell: str, **options: Any) -> Mapping[int, Self]:
        table = categories_as_text(table, "value").sort("value")
        cells, rows = table[cell].explode().cast(pl.Int64).to_numpy(), np.arange(table.height)
        columns = np.zeros((int(cells.max(initial=-1)) + 1, table.height), dtype=np.int64)
        columns[cells, np.repeat(rows, table[cell].list.len().to_numpy())] = table["n"].explode().to_numpy()
        names = {int(number): str(number) for number in np.flatnonzero(columns.any(axis=1))}
        wide = table.select("value").with_columns(pl.Series(name, columns[number]) for number, name in names.items())
        missing = _is_missing(table["value"])
        n_null, wide = wide.filter(missing).drop("value").sum(), wide.filter(~missing)
        return {c: cls(n_null[name].item(), _positive(wide, pl.col(name)), by_cell=wide) for c, name in names.items()}

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        table: pl.DataFrame = values[0]
        table = categories_as_text(table, "value")
        missing = _is_missing(table["value"])
        n_null, table = int(table.filter(missing)["n"].sum()), table.filter(~missing)
        # Of a query over all rows, too many values are counted again in chunks: a sketch of these would be thrown away.
        return cls(n_null, table) if "by" in options else cls._limited(n_null, table)

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        n_null = sum(state.n_null for state in states)
        if any(state.sketch for state in states):
            return cls(
                n_null, _NO_VALUES, functools.reduce(FrequentValues.merge, [state._sketched() for state in states])
            )
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
        wide = next(iter(states.values())).by_cell
        if wide is None or any(state.by_cell is not wide for state in states.values()):
            columns = [table.rename({"n": str(cell)}) for cell, table in tables.items()]
            wide = pl.concat(columns, how="diagonal").group_by("value").agg(pl.all().sum()).sort("value")
        merged = []
        for fold in folds:
            times = Counter(fold)
            n = pl.sum_horizontal(pl.lit(0, pl.Int64), *(pl.col(str(cell)) * times[cell] for cell in tables))
            n_null = sum(state.n_null * times[cell] for cell, state in states.items())
            merged.append(cls._limited(n_null, _positive(wide, n)))
        return merged

    @classmethod
    def _limited(cls, n_null: int, table: pl.DataFrame) -> Self:
        if table.height <= MAX_CATEGORIES:
            return cls(n_null, table)
        return cls(n_null, _NO_VALUES, FrequentValues.of(table["value"], table["n"]))

    @property
    def is_beyond(self) -> bool:
        return self.sketch is not None or self.counts.height > MAX_CATEGORIES

    def _sketched(self) -> FrequentValues:
        return self.sketch or FrequentValues.of(self.counts["value"], self.counts["n"])

    @functools.cached_property
    def table(self) -> pl.DataFrame:
        """The values and their counts in the order of the values, independent of the batches.

        Raises DataError when there were more than `MAX_CATEGORIES` distinct values.
        """
        if self.sketch is not None:
            raise TooManyValuesError.of("A column")
        return self.counts.sort("value")

    @property
    def count(self) -> int:
        """The number of values that are not missing."""
        return self.sketch.total if self.sketch is not None else int(self.table["n"].sum())

    def most_frequent(self) -> Any:
        """Return the most frequent value, the smallest of several; None without values."""
        table = self.table
        return table.filter(pl.col("n") == pl.col("n").max())["value"].min() if table.height else None

    def filled(self, value: Any) -> Self:
        """Return the counts after the missing values became `value`."""
        dtype = self.counts.schema["value"]
        becomes_float = isinstance(value, float) and not dtype.is_float() and dtype != pl.Null
        known = self.counts.cast({"value": pl.Float64}) if becomes_float else self.counts  # the mean of integers
        if not self.n_null:
            return type(self)(0, known, self.sketch)
        series = pl.Series([value], dtype=None if dtype == pl.Null else known.schema["value"])
        more = pl.DataFrame({"value": series, "n": pl.Series([self.n_null], dtype=pl.Int64)})
        return self.merge_all([type(self)(0, known, self.sketch), type(self)(0, more)])

    def affine(self, shift: float, scale: float, offset: float) -> Self:
        """Return the counts after x became (x - shift) / scale + offset, to the bit: values that then are equal count together."""
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

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "by_cell": None}


def _is_missing(values: pl.Series) -> pl.Series:
    missing = values.is_null()
    return missing | values.is_nan().fill_null(False) if values.dtype.is_float() else missing


def _positive(wide: pl.DataFrame, n: pl.Expr) -> pl.DataFrame:
    """Return the values with a count above 0."""
    table = wide.select("value", n=n)
    return table if (table["n"] > 0).all() else table.filter(pl.col("n") > 0)


_NO_VALUES: pl.DataFrame = pl.DataFrame(schema={"value": pl.Null, "n": pl.Int64})
