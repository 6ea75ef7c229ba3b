"""Statistics of several columns together: covariance, moments by group, counts of pairs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.schema import categories_as_text
from rayline.core.statistics.base import Statistic, missing_as_null
from rayline.core.statistics.counts import MAX_CATEGORIES, GroupTable

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, eq=False)
class Covariance(Statistic):
    """Means and co-moments of numeric columns, over the rows in which none of them is missing."""

    count: int = 0
    n_null: int = 0  # rows left out
    mean: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    comoment: npt.NDArray[np.float64] = field(
        default_factory=lambda: np.zeros((0, 0))
    )  # sums of products of deviations
    n_known: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # values of each column

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(missing_as_null(column).alias(str(i)) for i, column in enumerate(columns))

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        table: pl.DataFrame = values[0]
        return cls.merge_all(
            cls._of_block(table.slice(start, _BLOCK_ROWS)) for start in range(0, table.height, _BLOCK_ROWS)
        )

    @classmethod
    def _of_block(cls, table: pl.DataFrame) -> Self:
        known = table.drop_nulls()
        n_known = np.array([column.count() for column in table.iter_columns()], dtype=np.int64)
        if not known.height:
            return cls(0, table.height, n_known=n_known)
        matrix = known.to_numpy()
        with np.errstate(all="ignore"):  # infinite values: the stages refuse what comes of them
            mean = matrix.mean(axis=0)
            deviations = matrix - mean
            return cls(known.height, table.height - known.height, mean, deviations.T @ deviations, n_known)

    def merge(self, other: Self) -> Self:
        count, n_null = self.count + other.count, self.n_null + other.n_null
        n_known = (
            self.n_known + other.n_known
            if len(self.n_known) == len(other.n_known)
            else max(self.n_known, other.n_known, key=len)
        )
        if not self.count or not other.count:
            one = self if self.count else other
            return type(self)(count, n_null, one.mean, one.comoment, n_known)
        with np.errstate(all="ignore"):
            delta = other.mean - self.mean
            mean = self.mean + delta * (other.count / count)
            between = np.outer(delta, delta) * (self.count * other.count / count)
            return type(self)(count, n_null, mean, self.comoment + other.comoment + between, n_known)

    @property
    def correlation(self) -> npt.NDArray[np.float64]:
        """Pearson correlations; 0 where a column is constant."""
        with np.errstate(all="ignore"):
            deviation = np.sqrt(np.diag(self.comoment))
            result = self.comoment / np.outer(deviation, deviation)
        return np.where(np.isfinite(result), result, 0.0)


@dataclass(frozen=True, eq=False)
class GroupMoments(GroupTable):
    """Count, mean and squared deviations of the first column for each combination of the others (missing is a value).

    The first column must be numeric or boolean. Option `n_folds` with a number above 0: the last columns, from the third
    on, are hashed to that many folds, and each fold is a group of its own.
    """

    keys: ClassVar = ("key", "fold")  # the other columns: "n", "n_null", "mean", "m2"

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        x, key, *rest = columns
        n_folds = options.get("n_folds", 0)
        fold = fold_of(rest, n_folds) if n_folds else pl.lit(0, dtype=pl.Int64)
        selected = table.select(x=missing_as_null(x), key=key, fold=fold)
        return selected.group_by("key", "fold").agg(
            n=pl.col("x").count().cast(pl.Int64),
            n_null=pl.col("x").null_count().cast(pl.Int64),
            mean=pl.col("x").mean().fill_null(0.0),
            m2=(pl.col("x").var(ddof=0) * pl.col("x").count()).fill_null(0.0),
        )

    @classmethod
    def grouped(cls, table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
        n, mean = pl.col("n"), pl.col("mean")
        # In the order of the values, so that the sums do not depend on the order of the parts.
        total = (
            table.sort("n", "mean", "m2")
            .group_by(keys, maintain_order=True)
            .agg(
                pl.col("n_null").sum(),
                pl.col("m2").sum(),
                n=n.sum(),
                mean=(mean * n).sum() / pl.max_horizontal(n.sum(), 1),
                between=(n * (mean - (mean * n).sum() / pl.max_horizontal(n.sum(), 1)) ** 2).sum(),
            )
        )
        return total.select(*keys, "n", "n_null", "mean", m2=pl.col("m2") + pl.col("between"))

    @classmethod
    def limited(cls, table: pl.DataFrame) -> Self:
        return cls(table) if table["key"].n_unique() <= MAX_CATEGORIES else cls(overflow=True)

    def by_key(self, *, without_fold: int | None = None) -> pl.DataFrame:
        """Columns key, n, n_null, mean, m2 in the order of the keys (missing last), of all folds but one."""
        table = self.groups if self.groups is not None else _NO_GROUPS
        if without_fold is not None:
            table = table.filter(pl.col("fold") != without_fold)
        return self.grouped(table, ["key"]).sort("key", nulls_last=True)


@dataclass(frozen=True, eq=False)
class GroupClasses(GroupTable):
    """The counts of each value of the first column for each combination of the others; rows with a missing value there are ignored.

    Option `n_folds` as in `GroupMoments`.
    """

    keys: ClassVar = ("key", "fold", "class")

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        label, key, *rest = columns
        n_folds = options.get("n_folds", 0)
        fold = fold_of(rest, n_folds) if n_folds else pl.lit(0, dtype=pl.Int64)
        selected = table.select(key=key, fold=fold, **{"class": label})
        return selected.group_by("key", "fold", "class").agg(n=pl.len().cast(pl.Int64))

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        table: pl.DataFrame = values[0]
        table = categories_as_text(table, "class")
        return cls.limited(table.filter(missing_as_null_of(table, "class").is_not_null()))

    @classmethod
    def limited(cls, table: pl.DataFrame) -> Self:
        return cls(table) if table["key"].n_unique() <= MAX_CATEGORIES else cls(overflow=True)

    @property
    def classes(self) -> list[Any]:
        """The values that occur, in ascending order."""
        return [] if self.groups is None else self.groups["class"].unique().sort().to_list()

    def moments(self, label: Any) -> GroupMoments:
        """Return the moments of 1 for the rows of a class and 0 for the others."""
        if self.groups is None:
            return GroupMoments()
        n, n_of_label = pl.col("n"), pl.col("n").filter(pl.col("class") == label)
        table = self.groups.group_by("key", "fold").agg(n=n.sum(), own=n_of_label.sum())
        share = pl.col("own") / pl.col("n")
        moments = {"n_null": pl.lit(0, dtype=pl.Int64), "mean": share, "m2": pl.col("own") * (1 - share)}
        return GroupMoments(table.select("key", "fold", "n", **moments))


def missing_as_null_of(table: pl.DataFrame, name: str) -> pl.Expr:
    """Return a column of any type, with NaN as null."""
    return pl.col(name).fill_nan(None) if table.schema[name].is_float() else pl.col(name)


_NO_GROUPS = pl.DataFrame(
    schema={"key": pl.Null, "fold": pl.Int64, "n": pl.Int64, "n_null": pl.Int64, "mean": pl.Float64, "m2": pl.Float64}
)


@dataclass(frozen=True, eq=False)
class PairCounts(GroupTable):
    """The counts of each pair of values of two columns (missing is a value)."""

    keys: ClassVar = ("first", "second")
    noun: ClassVar = "pairs of group and value"

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return (
            table.select(first=columns[0], second=columns[1]).group_by("first", "second").agg(n=pl.len().cast(pl.Int64))
        )

    @classmethod
    def limited(cls, table: pl.DataFrame) -> Self:
        return cls(table) if table.height <= MAX_CATEGORIES else cls(overflow=True)


def row_hash(columns: list[pl.Expr], seed: int) -> pl.Expr:
    """Return a hash of the values of each row as UInt64: equal rows have equal hashes in every batch.

    Floats are rounded to about 7 digits, and values close to 0 to 0: an earlier stage may have learned its mean from parts
    in another order (of a fold, of a block), and its last bits must not decide where a row belongs.
    """
    row = pl.struct([column.alias(str(i)) for i, column in enumerate(columns)])
    return row.map_batches(functools.partial(_hash, seed=seed), return_dtype=pl.UInt64, is_elementwise=True)


def _hash(rows: pl.Series, seed: int) -> pl.Series:
    fields = rows.struct.unnest()
    numbers = [name for name, dtype in fields.schema.items() if dtype.is_float()]
    coarse = (
        pl.when(pl.col(n).abs() >= 1e-9).then(n).otherwise(pl.col(n) * 0.0 + 0.0).cast(pl.Float32) for n in numbers
    )
    return fields.with_columns(coarse).to_struct().hash(seed)


def fold_of(columns: list[pl.Expr], n_folds: int, seed: int = 0x5EED) -> pl.Expr:
    """Return the inner fold of each row, a hash of its content: 0 … n_folds - 1."""
    return (row_hash(columns, seed) % n_folds).cast(pl.Int64)
