"""More ways from categories to numbers: frequencies, hashes, native categories, lumping, lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from rayline.core.errors import DataError, SchemaError
from rayline.core.frequent import LEAST_SHARE
from rayline.core.operations import Codes, Drop, MapCodes, Operation, Row, RowFunction
from rayline.core.schema import SPARSE, Kind, col, kind_of
from rayline.core.stage import Check, ColumnStage, Stage, View, a_bool, a_string, an_int, param
from rayline.core.statistics import MAX_CATEGORIES, Request, Statistic, ValueCounts
from rayline.core.text import key_of, keys_of

_ENCODABLE = (Kind.CATEGORY, Kind.TEXT, Kind.NUMERIC, Kind.BOOLEAN, Kind.DATETIME)
_FREQUENCY = Check(
    "a count, or a share below 1", lambda v: not isinstance(v, bool) and isinstance(v, (int, float)) and v > 0
)


@dataclass(frozen=True)
class FrequencyEncoder(ColumnStage):
    """Replace each category by how frequent it was in the training rows (Float64); unknown ones become 0.

    Parameters
    ----------
    columns
        The columns; all string and categorical ones without free text when omitted.
    normalize
        Whether the share of the rows is given, or else the count. Missing is a category of its own.

    Notes
    -----
    Exact up to a million distinct values. Of more, only those with a share of a thousandth or more are found, by a sketch
    (see `rayline.core.frequent`); their counts are too large by about 1/8192 of the rows at most, and all others become 0.

    Raises
    ------
    DataError
        In fit, when a column of floats or dates has more than a million distinct values.

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

    normalize: bool = param(True, a_bool())

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        counts: ValueCounts = answers[0]
        if counts.sketch is not None and (dtype.is_integer() or kind_of(dtype) is Kind.CATEGORY):
            found = counts.sketch.found()
            n_rows = counts.count + counts.n_null
            return {"keys": list(found), "n": list(found.values()), "n_null": counts.n_null, "n_rows": n_rows}
        table = counts.table
        return {"categories": table["value"].to_list(), "n": table["n"].to_list(), "n_null": counts.n_null}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        n = [*learned["n"], learned["n_null"]]
        if "keys" in learned:
            total = learned["n_rows"] if self.normalize else 1
            return [MapKeys(column, learned["keys"], [v / total for v in n])]
        total = (sum(n) if self.normalize else 1) or 1
        last = len(n)
        return [MapCodes(Codes(column, learned["categories"], last, last - 1, where), [*(v / total for v in n), 0.0])]


@dataclass(frozen=True)
class RareCategories(ColumnStage):
    """Lump categories that are rare in the training rows, and those that it did not have, into one.

    Missing stays missing. The column stays one of strings.

    Parameters
    ----------
    columns
        String and categorical columns; all of them without free text when omitted.
    min_frequency
        Categories that occur less often are lumped: a count, or a share of the known values when below 1.
    name
        The category that takes their place.

    Notes
    -----
    Exact up to a million distinct values. Of more, a sketch finds those with a share of a thousandth or more (see
    `rayline.core.frequent`), and counts them too large by about 1/8192 of the rows at most.

    Raises
    ------
    DataError
        In fit, when a column has more than a million distinct values and `min_frequency` is less than a thousandth of them.

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

    loses: ClassVar = "which of the lumped categories it was"

    min_frequency: float = param(0.01, _FREQUENCY)
    name: str = param("other", a_string())

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        counts: ValueCounts = answers[0]
        least = self.min_frequency if self.min_frequency >= 1 else self.min_frequency * counts.count
        if counts.sketch is None:
            return {"categories": counts.table.filter(pl.col("n") >= least)["value"].to_list()}
        if least < LEAST_SHARE * counts.count:
            raise DataError(
                f"RareCategories: column {column!r} has more than {MAX_CATEGORIES:,} distinct values.",
                f"Expected then a min_frequency of at least {LEAST_SHARE * counts.count:,.0f} ({LEAST_SHARE} of the values); got {self.min_frequency}.",
                "raise min_frequency, or hash the column (HashEncoder).",
            )
        return {"keys": sorted(key for key, n in counts.sketch.found().items() if n >= least)}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        if "keys" in learned:
            return [LumpOthers(column, learned["keys"], self.name)]
        return [Lump(column, learned["categories"], self.name)]


@dataclass(frozen=True)
class Lump(Operation):
    """Strings that are not among the categories become `other`; missing stays missing."""

    column: str
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

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return []  # what was lumped stays lumped


@dataclass(frozen=True)
class LumpOthers(Operation):
    """As `Lump`, for categories of which only the keys are known."""

    column: str
    keys: Sequence[int]
    other: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [_text(self.column).map_batches(self._lumped, return_dtype=pl.String, is_elementwise=True)]

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

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return []  # what was lumped stays lumped


@dataclass(frozen=True)
class MapKeys(Operation):
    """Each value becomes the number that stands beside its key (Float64), another one 0; missing takes the last number."""

    column: str
    keys: Sequence[int]
    values: Sequence[float]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        made = _text(self.column).map_batches(self._mapped, return_dtype=pl.Float64, is_elementwise=True)
        return [made.alias(self.column)]

    def _mapped(self, texts: pl.Series) -> pl.Series:
        order = np.argsort(np.array(self.keys, dtype=np.uint64))
        known, values = np.array(self.keys, dtype=np.uint64)[order], np.array(self.values[:-1], dtype=np.float64)[order]
        keys = keys_of(texts)
        places = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
        result = np.where(known[places] == keys, values[places], 0.0) if len(known) else np.zeros(len(texts))
        return pl.Series(texts.name, np.where(texts.is_null().to_numpy(), self.values[-1], result))

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, known, missing = self.column, dict(zip(self.keys, self.values, strict=False)), self.values[-1]

        def map_key(row: Row) -> None:
            text = _row_text(row[column])
            row[column] = missing if text is None else known.get(key_of(text), 0.0)

        return map_key

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return None  # two categories may be equally frequent


@dataclass(frozen=True)
class Categorizer(ColumnStage):
    """Turn strings into native categories (a Polars Enum of the training categories in ascending order).

    XGBoost, LightGBM and CatBoost split on such columns directly. Categories that fit did not see become missing.

    Parameters
    ----------
    columns
        String and categorical columns; all of them without free text when omitted.

    Raises
    ------
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

    def asks(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [ValueCounts]

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        categories = answers[0].table["value"].to_list()
        if not categories:
            raise self.all_null(column)
        return {"categories": categories}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [ToEnum(column, learned["categories"])]


@dataclass(frozen=True)
class ToEnum(Operation):
    """Strings become native categories; others than these become missing."""

    column: str
    categories: Sequence[str]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).cast(pl.String).cast(pl.Enum(self.categories), strict=False)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, known = self.column, set(self.categories)

        def restrict(row: Row) -> None:
            if row[column] not in known:
                row[column] = None

        return restrict

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [ToText(self.column)]


@dataclass(frozen=True)
class ToText(Operation):
    """Native categories become strings."""

    column: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).cast(pl.String)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        return lambda row: None  # in a row they are strings already

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}


def _text(column: str) -> pl.Expr:
    """A category, boolean or integer as text, the same as `_row_text` gives."""
    return col(column).cast(pl.String)


def _row_text(value: Any) -> str | None:
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class HashEncoder(ColumnStage):
    """Replace each category by 0/1 columns for its hash bucket, `column_0` … (UInt8); nothing is learned.

    Missing gives zeros. The hash is our own and never changes.

    Parameters
    ----------
    columns
        String, boolean and integer columns; all string ones without free text when omitted.
    n_features
        Buckets; categories may share one.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import HashEncoder
    >>> Preprocessor([("h", HashEncoder(n_features=4))]).fit_transform(pl.DataFrame({"c": ["a", "b"]})).shape
    (2, 4)
    """

    kinds: ClassVar = (Kind.CATEGORY,)
    accepts: ClassVar = (Kind.CATEGORY, Kind.TEXT, Kind.NUMERIC, Kind.BOOLEAN)

    n_features: int = param(16, an_int(2, 65_536))

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        if dtype.is_float():
            raise SchemaError.dtype("HashEncoder", column, "strings, booleans or integers", dtype)
        return {}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [HashOneHot(column, self.n_features)]


@dataclass(frozen=True)
class HashOneHot(Operation):
    """0/1 columns for the hash bucket of each value; the source column goes away."""

    column: str
    n_features: int

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps, see apply

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        bucket = f"{self.column}\x00bucket"
        text = _text(self.column)
        hashed = text.map_batches(self._buckets, return_dtype=pl.Int32, is_elementwise=True).alias(bucket)
        names = [f"{self.column}_{i}" for i in range(self.n_features)]
        outputs = [(col(bucket) == i).cast(pl.UInt8).alias(name) for i, name in enumerate(names)]
        return Drop([bucket]).apply(Drop([self.column]).apply(table.with_columns(hashed)).with_columns(outputs))

    def _buckets(self, texts: pl.Series) -> pl.Series:
        buckets = (keys_of(texts) % np.uint64(self.n_features)).astype(np.int32)
        return pl.Series(texts.name, np.where(texts.is_null().to_numpy(), -1, buckets), dtype=pl.Int32)

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, n_features = self.column, self.n_features
        zeros = {f"{column}_{i}": 0 for i in range(n_features)}

        def one_hot(row: Row) -> None:
            text = _row_text(row.pop(column))
            row.update(zeros)
            if text is not None:
                row[f"{column}_{key_of(text) % n_features}"] = 1

        return one_hot

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {f"{self.column}_{i}": (self.column,) for i in range(self.n_features)}


@dataclass(frozen=True)
class FeatureHasher(Stage):
    """Hash several columns into one sparse vector: categories as `column=value` with 1, numbers as `column` with the value.

    Missing gives nothing. The source columns go away. Nothing is learned, and the hash never changes.

    Parameters
    ----------
    columns
        String, boolean and numeric columns; all of them when omitted.
    n_features
        The length of the vector.
    output
        The name of the vector column.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import FeatureHasher
    >>> table = pl.DataFrame({"c": ["a"], "x": [2.5]})
    >>> sorted(Preprocessor([("h", FeatureHasher())]).fit_transform(table)["hashed"].struct.field("values")[0])
    [1.0, 2.5]
    """

    kinds: ClassVar = (Kind.CATEGORY, Kind.NUMERIC, Kind.BOOLEAN)
    accepts: ClassVar = (Kind.CATEGORY, Kind.NUMERIC, Kind.BOOLEAN)

    n_features: int = param(1 << 18, an_int(1, 1 << 31))
    output: str = param("hashed", a_string())

    def learn(self, view: View, answers: Mapping[Request, Any]) -> dict[str, Any]:
        if self.output in view.schema and self.output not in view.columns:
            raise SchemaError(
                f"FeatureHasher: the column {self.output!r} exists already.",
                "Expected a new name.",
                "choose another output.",
            )
        return {"columns": list(view.columns)}

    def lower(self, where: str) -> list[Operation]:
        columns = list(self.state["columns"])
        return [HashRow(columns, self.n_features, self.output)] if columns else []


@dataclass(frozen=True)
class HashRow(Operation):
    """The columns become one sparse vector; values in the same bucket are added in the order of the columns."""

    columns: Sequence[str]
    n_features: int
    output: str

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps, see apply

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        schema = table.collect_schema()
        fields = [
            (col(c).cast(pl.Float64) if schema[c].is_numeric() else _text(c)).alias(str(i))
            for i, c in enumerate(self.columns)
        ]
        made = (
            pl.struct(fields).map_batches(self._vectors, return_dtype=SPARSE, is_elementwise=True).alias("\x00hashed")
        )
        return Drop(list(self.columns)).apply(table.with_columns(made)).rename({"\x00hashed": self.output})

    def _vectors(self, rows: pl.Series) -> pl.Series:
        fields = rows.struct.unnest().get_columns()
        keys, values = [], []
        for name, series in zip(self.columns, fields, strict=True):
            known = series.is_not_null().to_numpy()
            if series.dtype == pl.String:
                keys.append(keys_of(name + "=" + series))
                values.append(known.astype(np.float64))
            else:
                keys.append(np.full(len(rows), key_of(name), dtype=np.uint64))
                values.append(np.where(known, series.fill_null(0.0).to_numpy(), 0.0))
            values[-1] = np.where(known, values[-1], np.nan)
        features = (np.stack(keys, axis=1) % np.uint64(self.n_features)).astype(np.int64)
        made = [self._vector(f, v) for f, v in zip(features.tolist(), np.stack(values, axis=1).tolist(), strict=True)]
        return pl.Series(rows.name, made, dtype=SPARSE)

    def _vector(self, features: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
        sums: dict[int, float] = {}
        for feature, value in zip(features, values, strict=True):
            if value == value:
                sums[feature] = sums.get(feature, 0.0) + value
        places = sorted(sums)
        return {"size": self.n_features, "indices": places, "values": [sums[p] for p in places]}

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        numeric = {c: schema[c].is_numeric() for c in self.columns}

        def hash_row(row: Row) -> None:
            features, values = [], []
            for column in self.columns:
                x = row.pop(column)
                if x is not None:
                    features.append(key_of(column if numeric[column] else f"{column}={_row_text(x)}") % self.n_features)
                    values.append(float(x) if numeric[column] else 1.0)
            row[self.output] = self._vector(features, values)

        return hash_row

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output: tuple(self.columns)}

    def elements(self, schema: Mapping[str, pl.DataType]) -> dict[str, Sequence[str]]:
        return {self.output: [str(i) for i in range(self.n_features)]}


@dataclass(frozen=True)
class MultiHotEncoder(ColumnStage):
    """Replace each list column by one 0/1 column (UInt8) for every element that fit saw, `column_element`.

    Missing and empty lists give zeros; elements that fit did not see are ignored.

    Parameters
    ----------
    columns
        List columns; all of them when omitted.
    max_categories
        Only so many elements, the most frequent ones.

    Raises
    ------
    SchemaError
        In fit, when a column does not hold lists of strings, integers or booleans, or a new name is taken.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import MultiHotEncoder
    >>> Preprocessor([("tags", MultiHotEncoder())]).fit_transform(pl.DataFrame({"t": [["a", "b"], ["b"]]})).to_dict(as_series=False)
    {'t_a': [1, 0], 't_b': [1, 1]}
    """

    kinds: ClassVar = (Kind.LIST,)
    accepts: ClassVar = (Kind.LIST,)

    loses: ClassVar = "order, repetition, missing lists and elements without a column"

    max_categories: int | None = param(None, an_int(1, none=True))

    def requests(self, view: View) -> list[Request]:
        return [view.ask(ValueCounts, column, elements=True) for column in view.columns]

    def learn(self, view: View, answers: Mapping[Request, Any]) -> dict[str, Any]:
        learned: dict[str, Any] = {}
        for column in view.columns:
            inner = getattr(view.schema[column], "inner", None)
            if not (inner == pl.String or inner == pl.Boolean or (inner is not None and inner.is_integer())):
                raise SchemaError.dtype(
                    "MultiHotEncoder", column, "lists of strings, integers or booleans", view.schema[column]
                )
            table = answers[view.ask(ValueCounts, column, elements=True)].table
            if self.max_categories is not None:
                table = table.sort("n", descending=True, maintain_order=True).head(self.max_categories).sort("value")
            elements = table["value"].to_list()
            names = [f"{column}_{_row_text(element)}" for element in elements]
            taken = sorted(
                {*names} & (set(view.schema) - set(view.columns)) or {n for n in names if names.count(n) > 1}
            )
            if taken:
                raise SchemaError(
                    f"MultiHotEncoder: {taken[0]!r} exists already.",
                    "Expected new names of the form column_element.",
                    "rename it.",
                )
            learned[column] = {"elements": elements, "outputs": names}
        return {"columns": learned}

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        raise NotImplementedError  # see learn

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [MultiHot(column, learned["elements"], learned["outputs"])]


@dataclass(frozen=True)
class MultiHot(Operation):
    """0/1 columns that say which elements a list has; the list goes away."""

    column: str
    elements_seen: Sequence[Any]
    outputs: Sequence[str]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column)
        made = zip(self.elements_seen, self.outputs, strict=True)
        return [x.list.contains(element).fill_null(False).cast(pl.UInt8).alias(name) for element, name in made]

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return Drop([self.column]).apply(super().apply(table))

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, made = self.column, list(zip(self.elements_seen, self.outputs, strict=True))

        def multi_hot(row: Row) -> None:
            present = row.pop(column) or ()
            row.update({name: int(element in present) for element, name in made})

        return multi_hot

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.outputs, (self.column,))

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [Gather(self.column, list(self.outputs), list(self.elements_seen), schema[self.column])]


@dataclass(frozen=True)
class Gather(Operation):
    """0/1 columns become the list of the values that stand beside those that are not 0."""

    output: str
    columns: Sequence[str]
    values: Sequence[Any]
    dtype: pl.DataType

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        inner = getattr(self.dtype, "inner", None)
        present = [
            pl.when(col(name) != 0).then(pl.lit(value, dtype=inner))
            for name, value in zip(self.columns, self.values, strict=True)
        ]
        found = pl.concat_list(present).list.drop_nulls() if present else pl.lit([], dtype=self.dtype)
        return [found.cast(self.dtype).alias("\x00gathered")]

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return Drop(list(self.columns)).apply(super().apply(table)).rename({"\x00gathered": self.output})

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output: tuple(self.columns)}
