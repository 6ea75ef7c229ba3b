"""Feature hashing of categories into 0/1 columns or one sparse vector, without learning anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import polars as pl

from rayline.core.errors import SchemaError
from rayline.core.operations.base import Changes, Drop, Operation, Row, RowFunction, Step
from rayline.core.schema import SPARSE, Kind, col, map_values
from rayline.core.stage import ColumnStage, FitContext, Stage, an_int, param
from rayline.core.statistics.base import StatisticRequest
from rayline.core.text_analysis import as_text, key_of, keys_of, row_as_text


@dataclass(frozen=True)
class HashEncoder(ColumnStage):
    """Replace each category by 0/1 columns for its hash bucket, `column_0` … (UInt8); nothing is learned.

    Missing values become zeros. The hash function is part of Rayline and the same in all versions.

    Parameters
    ----------
    columns
        String, boolean and integer columns; all string ones without free text when omitted.
    n_features
        The number of buckets; different categories may share one.

    Raises
    ------
    SchemaError
        In fit, when a column holds floats, or a new name exists already.
    ParameterError
        When `n_features` is outside 2 to 65,536.

    References
    ----------
    Weinberger et al., "Feature hashing for large scale multitask learning", ICML (2009).

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

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        outputs = [f"{column}_{i}" for column in context.columns for i in range(self.n_features)]
        self.refuse_existing_columns(outputs, context, removed=context.columns)
        return super().learn(context, results)

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        if dtype.is_float():
            raise SchemaError.dtype(column, "strings, booleans or integers", dtype, where="HashEncoder")
        return {}

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [HashOneHot(column, self.n_features)]


@dataclass(frozen=True)
class HashOneHot(Operation):
    """Adds 0/1 columns for the hash bucket of each value; the source column is dropped."""

    column: str
    n_features: int

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps

    def steps(self, schema: Mapping[str, pl.DataType]) -> list[Step]:
        bucket = f"{self.column}\x00bucket"
        text = as_text(self.column)
        hashed = map_values(text, self._buckets, pl.Int32).alias(bucket)
        names = [f"{self.column}_{i}" for i in range(self.n_features)]
        outputs = [(col(bucket) == i).cast(pl.UInt8).alias(name) for i, name in enumerate(names)]
        return [Step([hashed], [self.column]), Step(outputs, [bucket])]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({f"{self.column}_{i}": pl.UInt8() for i in range(self.n_features)}, [self.column])

    def _buckets(self, texts: pl.Series) -> pl.Series:
        buckets = (keys_of(texts) % np.uint64(self.n_features)).astype(np.int32)
        return pl.Series(np.where(texts.is_null().to_numpy(), -1, buckets), dtype=pl.Int32)

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, n_features = self.column, self.n_features
        zeros = {f"{column}_{i}": 0 for i in range(n_features)}

        def one_hot(row: Row) -> None:
            text = row_as_text(row.pop(column))
            row.update(zeros)
            if text is not None:
                row[f"{column}_{key_of(text) % n_features}"] = 1

        return one_hot

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {f"{self.column}_{i}": (self.column,) for i in range(self.n_features)}


@dataclass(frozen=True)
class FeatureHasher(Stage):
    """Hash several columns into one sparse vector: categories as `column=value` with 1, numbers as `column` with the value.

    Missing values and zeros are not stored. The source columns are dropped. Nothing is learned; the hash function is the
    same in all versions.

    Parameters
    ----------
    columns
        String, boolean and numeric columns; all of them when omitted.
    n_features
        The length of the vector.
    output
        The name of the vector column.

    Raises
    ------
    SchemaError
        In fit, when the name of the vector column exists already.
    ParameterError
        When `n_features` is outside 1 to 2³¹.

    References
    ----------
    Weinberger et al., "Feature hashing for large scale multitask learning", ICML (2009), without its signs.

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
    by_column: ClassVar = True

    n_features: int = param(1 << 18, an_int(1, 1 << 31))
    output: str = "hashed"

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        self.refuse_existing_columns([self.output], context, removed=context.columns)
        return {"columns": list(context.columns), "zeros": False}

    def to_operations(self) -> list[Operation]:
        columns = list(self.state["columns"])
        zeros = bool(self.state.get("zeros", True))  # files of older versions lack it, and stored zeros
        return [HashRow(columns, self.n_features, self.output, zeros)] if columns else []


@dataclass(frozen=True)
class HashRow(Operation):
    """Hashes columns into one sparse vector; values in the same bucket are added in the order of the columns."""

    columns: Sequence[str]
    n_features: int
    output: str
    zeros: bool = False  # whether a 0 is stored

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps, see apply

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        schema = table.collect_schema()
        fields = [
            (col(c).cast(pl.Float64) if schema[c].is_numeric() else as_text(c)).alias(str(i))
            for i, c in enumerate(self.columns)
        ]
        hashed = (
            pl.struct(fields).map_batches(self._vectors, return_dtype=SPARSE, is_elementwise=True).alias("\x00hashed")
        )
        return Drop(list(self.columns)).apply(table.with_columns(hashed)).rename({"\x00hashed": self.output})

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
        vectors = [
            self._vector(f, v) for f, v in zip(features.tolist(), np.stack(values, axis=1).tolist(), strict=True)
        ]
        return pl.Series(rows.name, vectors, dtype=SPARSE)

    def _vector(self, features: Sequence[int], values: Sequence[float]) -> dict[str, Any]:
        sums: dict[int, float] = {}
        for feature, value in zip(features, values, strict=True):
            if value == value:
                sums[feature] = sums.get(feature, 0.0) + value
        places = sorted(place for place, value in sums.items() if value or self.zeros)
        return {"size": self.n_features, "indices": places, "values": [sums[p] for p in places]}

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        numeric = {c: schema[c].is_numeric() for c in self.columns}

        def hash_row(row: Row) -> None:
            features, values = [], []
            for column in self.columns:
                x = row.pop(column)
                if x is not None:
                    features.append(
                        key_of(column if numeric[column] else f"{column}={row_as_text(x)}") % self.n_features
                    )
                    values.append(float(x) if numeric[column] else 1.0)
            row[self.output] = self._vector(features, values)

        return hash_row

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output: tuple(self.columns)}

    def elements(self, schema: Mapping[str, pl.DataType]) -> dict[str, Sequence[str]]:
        return {self.output: [str(i) for i in range(self.n_features)]}
