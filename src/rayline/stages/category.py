"""Stages for categories: frequency encoding, merging of rare categories, and conversion to native categories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from rayline.core.errors import DataError, ParameterError, place
from rayline.core.operations.base import ColumnOperation, Operation, Row, RowFunction
from rayline.core.operations.categorical import CategoryCodes, MapCodes
from rayline.core.schema import Kind, col, kind_of, map_values
from rayline.core.stage import ColumnStage, ParameterCheck, param
from rayline.core.statistics.base import Statistic
from rayline.core.statistics.counts import MAX_CATEGORIES, ValueCounts
from rayline.core.statistics.sketches import MIN_SHARE
from rayline.core.text_analysis import as_text, key_of, keys_of, row_as_text

_ENCODABLE = (Kind.CATEGORY, Kind.TEXT, Kind.NUMERIC, Kind.BOOLEAN, Kind.DATETIME)
_FREQUENCY = ParameterCheck(
    "a count, or a share below 1", lambda v: not isinstance(v, bool) and isinstance(v, (int, float)) and v > 0
)


@dataclass(frozen=True)
class FrequencyEncoder(ColumnStage):
    """Replace each category by its frequency in the training rows (Float64); unknown categories become 0.

    Missing values are a separate category.

    Parameters
    ----------
    columns
        The columns; all string and categorical ones without free text when omitted.
    normalize
        Whether to return the share of the rows (True) or the count (False).

    Notes
    -----
    Exact for up to a million distinct values. Beyond that, a sketch (see `rayline.core.statistics.sketches`) finds only the
    values with a share of at least 1/1000; their counts are too large by about 1/8192 of the rows at most, and all other
    values become 0.

    Raises
    ------
    DataError
        In fit, when a column of floats or dates has more than a million distinct values.
    ParameterError
        When `normalize` is neither True nor False.

    References
    ----------
    Cormode and Muthukrishnan, "What's hot and what's not: tracking most frequent items dynamically", PODS (2003), for the
    sketch.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import FrequencyEncoder
    >>> Preprocessor([("f", FrequencyEncoder())]).fit_transform(pl.DataFrame({"c": ["a", "b", "a", "a"]}))["c"].to_list()
    [0.75, 0.25, 0.75, 0.75]
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = _ENCODABLE

    normalize: bool = True

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        counts: ValueCounts = statistics[0]
        if counts.sketch is not None and (dtype.is_integer() or kind_of(dtype) is Kind.CATEGORY):
            frequent = counts.sketch.frequent_counts()
            n_rows = counts.count + counts.n_null
            return {"keys": list(frequent), "n": list(frequent.values()), "n_null": counts.n_null, "n_rows": n_rows}
        table = counts.table
        return {"categories": table["value"].to_list(), "n": table["n"].to_list(), "n_null": counts.n_null}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        n = [*learned["n"], learned["n_null"]]
        if "keys" in learned:
            total = learned["n_rows"] if self.normalize else 1
            return [MapKeys(column, learned["keys"], [v / total for v in n])]
        total = (sum(n) if self.normalize else 1) or 1
        last = len(n)
        return [
            MapCodes(
                CategoryCodes(column, learned["categories"], last, last - 1, place()), [*(v / total for v in n), 0.0]
            )
        ]


@dataclass(frozen=True)
class RareCategories(ColumnStage):
    """Merge categories that are rare in the training rows, and those that fit did not see, into one category.

    Missing values stay missing. The result is a string column.

    Parameters
    ----------
    columns
        String and categorical columns; all of them without free text when omitted.
    min_frequency
        Categories that occur less often are merged: a count, or a share of the values that are not missing when below 1.
    name
        The name of the merged category. It must not be one of the frequent categories.

    Notes
    -----
    Exact for up to a million distinct values. Beyond that, a sketch (see `rayline.core.statistics.sketches`) finds the
    values with a share of at least 1/1000; their counts are too large by about 1/8192 of the rows at most.

    Raises
    ------
    DataError
        In fit, when a column has more than a million distinct values and `min_frequency` is below 1/1000 of its values.
    ParameterError
        In fit, when `name` is a frequent category of a column.
    ParameterError
        When `min_frequency` is neither a count nor a share.

    References
    ----------
    Cormode and Muthukrishnan, "What's hot and what's not: tracking most frequent items dynamically", PODS (2003), for the
    sketch.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import RareCategories
    >>> Preprocessor([("lump", RareCategories(min_frequency=2))]).fit_transform(pl.DataFrame({"c": ["a", "b", "a"]}))["c"].to_list()
    ['a', 'other', 'a']
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = (Kind.CATEGORY, Kind.TEXT)

    lossy_reason: ClassVar = "the original names of the merged categories"

    min_frequency: float = param(0.01, _FREQUENCY)
    name: str = "other"

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        counts: ValueCounts = statistics[0]
        min_count = self.min_frequency if self.min_frequency >= 1 else self.min_frequency * counts.count
        if counts.sketch is None:
            kept = counts.table.filter(pl.col("n") >= min_count)["value"].to_list()
            self._refuse_taken_name(column, self.name in kept)
            return {"categories": kept}
        if min_count < MIN_SHARE * counts.count:
            raise DataError(
                f"RareCategories: column {column!r} has more than {MAX_CATEGORIES:,} distinct values.",
                f"Expected in this case a min_frequency of at least {MIN_SHARE * counts.count:,.0f} ({MIN_SHARE} of the values); got {self.min_frequency}.",
                "raise min_frequency, or hash the column (HashEncoder).",
            )
        keys = sorted(key for key, n in counts.sketch.frequent_counts().items() if n >= min_count)
        self._refuse_taken_name(column, key_of(self.name) in keys)
        return {"keys": keys}

    def _refuse_taken_name(self, column: str, is_category: bool) -> None:
        if is_category:
            raise ParameterError(
                f"RareCategories: column {column!r} has a frequent category {self.name!r} already.",
                f"Expected a name that is none of its frequent categories; got name={self.name!r}.",
                "choose another name, so that the merged categories are distinct from it.",
            )

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        if "keys" in learned:
            return [LumpOthers(column, learned["keys"], self.name)]
        return [Lump(column, learned["categories"], self.name)]


@dataclass(frozen=True)
class Lump(ColumnOperation):
    """Replaces strings that are not among the categories by `other`; missing values stay missing."""

    stays: ClassVar = True  # merged categories stay merged
    categories: Sequence[str]
    other: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column).cast(pl.String)
        known = x.is_in(pl.Series(self.categories, dtype=pl.String).implode())
        return [pl.when(known | x.is_null()).then(x).otherwise(pl.lit(self.other)).alias(self.column)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, known, other = self.column, {*self.categories, None}, self.other

        def lump(row: Row) -> None:
            if row[column] not in known:
                row[column] = other

        return lump


@dataclass(frozen=True)
class LumpOthers(ColumnOperation):
    """Replaces rare strings as `Lump`, for categories that are stored by their keys only."""

    stays: ClassVar = True  # merged categories stay merged
    keys: Sequence[int]
    other: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [map_values(as_text(self.column), self._lumped, pl.String)]

    def _lumped(self, texts: pl.Series) -> pl.Series:
        known = np.isin(keys_of(texts), np.array(self.keys, dtype=np.uint64)) | texts.is_null().to_numpy()
        return texts.zip_with(pl.Series(known), pl.Series([self.other]))

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, known, other = self.column, set(self.keys), self.other

        def lump(row: Row) -> None:
            x = row[column]
            if x is not None and key_of(x) not in known:
                row[column] = other

        return lump


@dataclass(frozen=True)
class MapKeys(ColumnOperation):
    """Replaces each value by the number of its key (Float64), unknown values by 0, missing values by the last number."""

    stays: ClassVar = False  # no inverse: two categories may be equally frequent
    keys: Sequence[int]
    values: Sequence[float]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        mapped = map_values(as_text(self.column), self._mapped, pl.Float64)
        return [mapped.alias(self.column)]

    def _mapped(self, texts: pl.Series) -> pl.Series:
        order = np.argsort(np.array(self.keys, dtype=np.uint64))
        known, values = np.array(self.keys, dtype=np.uint64)[order], np.array(self.values[:-1], dtype=np.float64)[order]
        keys = keys_of(texts)
        places = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
        result = np.where(known[places] == keys, values[places], 0.0) if len(known) else np.zeros(len(texts))
        return pl.Series(np.where(texts.is_null().to_numpy(), self.values[-1], result))

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, known, missing = self.column, dict(zip(self.keys, self.values, strict=False)), self.values[-1]

        def map_key(row: Row) -> None:
            text = row_as_text(row[column])
            row[column] = missing if text is None else known.get(key_of(text), 0.0)

        return map_key


@dataclass(frozen=True)
class Categorizer(ColumnStage):
    """Convert strings to native categories (a Polars Enum of the training categories in ascending order).

    XGBoost, LightGBM and CatBoost split on such columns directly. Missing values stay missing; categories that fit did not
    see become missing.

    Parameters
    ----------
    columns
        String and categorical columns; all of them without free text when omitted.

    Raises
    ------
    ParameterError
        When `columns` are neither names nor a selector.
    DataError
        In fit, when a column has no values.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Categorizer
    >>> Preprocessor([("c", Categorizer())]).fit_transform(pl.DataFrame({"c": ["b", "a"]})).schema["c"]
    Enum(categories=['a', 'b'])
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = (Kind.CATEGORY, Kind.TEXT)

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        categories = statistics[0].table["value"].to_list()
        if not categories:
            raise self.all_null(column)
        return {"categories": categories}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [ToEnum(column, learned["categories"])]


@dataclass(frozen=True)
class ToEnum(ColumnOperation):
    """Converts strings to native categories; unknown strings become missing."""

    categories: Sequence[str]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).cast(pl.String).cast(pl.Enum(self.categories), strict=False)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, known = self.column, set(self.categories)

        def restrict(row: Row) -> None:
            if row[column] not in known:
                row[column] = None

        return restrict

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [ToText(self.column)]


@dataclass(frozen=True)
class ToText(ColumnOperation):
    """Converts native categories to strings."""

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).cast(pl.String)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        return lambda row: None  # in a row they are strings already
