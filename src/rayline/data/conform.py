"""The door of every transformation: a table has the columns and types of fit, or an error says what it has instead."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rayline.core.errors import DataError, SchemaError
from rayline.core.operations import Row, RowFunction
from rayline.core.schema import SPARSE, Kind, col, kind_of


def readable(schema: Mapping[str, pl.DataType]) -> pl.Schema:
    """The schema as fit remembers it: categories as strings, an all-null column as numbers.

    Raises SchemaError when a name cannot be carried by Arrow.
    """
    plain: dict[str, pl.DataType] = {}
    for name, dtype in schema.items():
        if "\x00" in name:
            raise SchemaError(
                f"The column {name!r} has a NUL character in its name.", "Expected a name that Arrow can carry.", "rename it."
            )
        if dtype in (pl.Categorical, pl.Enum):
            plain[name] = pl.String()
        elif dtype == pl.Null or isinstance(dtype, pl.Decimal):
            plain[name] = pl.Float64()
        else:
            plain[name] = dtype
    return pl.Schema(plain)


@dataclass(frozen=True)
class Conform:
    """A table with the columns of `schema` in their types, NaN as null; other columns pass untouched."""

    schema: Mapping[str, pl.DataType]
    where: str

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        present = table.collect_schema()
        missing = [name for name in self.schema if name not in present]
        if missing:
            raise SchemaError.missing(self.where, missing, present)
        changes = []
        for name, dtype in self.schema.items():
            column = self._column(name, present[name], dtype)
            if column is not None:
                changes.append(column)
        return table.with_columns(changes) if changes else table

    def only(self, names: Collection[str]) -> Conform:
        """The same for some of the columns."""
        return Conform({name: dtype for name, dtype in self.schema.items() if name in names}, self.where)

    def _column(self, name: str, got: pl.DataType, dtype: pl.DataType) -> pl.Expr | None:
        column = col(name)
        if dtype.is_float():
            if not (got.is_numeric() or got in (pl.Boolean, pl.Null)):
                raise SchemaError.dtype(self.where, name, dtype, got)
            column = column if got == dtype else column.cast(dtype)
            return column.fill_nan(None)
        if got == dtype:
            return None
        if isinstance(dtype, pl.Enum) and kind_of(got) is Kind.CATEGORY:
            return column.cast(pl.String).cast(dtype, strict=False)  # a category that training did not see is missing
        if got == pl.Null:
            return column.cast(dtype)
        if (isinstance(dtype, pl.Array) and isinstance(got, pl.List)) or (dtype == SPARSE and _is_sparse(got)):
            return column.map_batches(_OfLength(name, dtype, self.where), return_dtype=dtype)
        kinds = kind_of(got), kind_of(dtype)
        if dtype.is_integer() and got.is_float():
            return column.map_batches(_Whole(name, dtype, self.where), return_dtype=dtype, is_elementwise=True)
        if kinds[0] == kinds[1] and kinds[0] in (Kind.CATEGORY, Kind.NUMERIC, Kind.DATETIME, Kind.LIST, Kind.VECTOR):
            return column.cast(dtype)
        if kinds == (Kind.BOOLEAN, Kind.NUMERIC):
            return column.cast(dtype)
        raise SchemaError.dtype(self.where, name, dtype, got)


@dataclass(frozen=True)
class _Whole:
    """Integers that came as floats, as they do from pandas and NumPy when some are missing."""

    name: str
    dtype: pl.DataType
    where: str

    def __call__(self, values: pl.Series) -> pl.Series:
        values = values.fill_nan(None)
        if ((values % 1) != 0).any():
            raise SchemaError.dtype(self.where, self.name, f"{self.dtype} (whole numbers)", "numbers with a fraction")
        return values.cast(self.dtype)


def _is_sparse(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Struct) and [field.name for field in dtype.fields] == [field.name for field in SPARSE.fields]


@dataclass(frozen=True)
class _OfLength:
    """Vectors that came as lists, or sparse ones with numbers of other types, as they do from JSON, rows and batches of NumPy."""

    name: str
    dtype: pl.DataType
    where: str

    def __call__(self, values: pl.Series) -> pl.Series:
        try:
            return values.cast(self.dtype)
        except pl.exceptions.PolarsError:
            raise SchemaError.dtype(self.where, self.name, self.dtype, "lists of other lengths or contents") from None


def row_function(schema: Mapping[str, pl.DataType], where: str) -> RowFunction | None:
    """The same for one row; None when a column has a type that single rows are not made for (vectors, times with a zone, …)."""
    readers: list[tuple[str, Callable[[Any], Any], pl.DataType]] = []
    for name, dtype in schema.items():
        reader = _reader(dtype)
        if reader is None:
            return None
        readers.append((name, reader, dtype))

    def check(row: Row) -> None:
        for name, reader, dtype in readers:
            try:
                value = row[name]
            except KeyError:
                raise SchemaError.missing(where, [n for n in schema if n not in row], row) from None
            if value is not None:
                try:
                    row[name] = reader(value)
                except (TypeError, ValueError, OverflowError):
                    raise SchemaError.dtype(where, name, dtype, f"{value!r}") from None

    return check


def _reader(dtype: pl.DataType) -> Callable[[Any], Any] | None:
    if dtype == pl.Float64:
        return _float
    if dtype == pl.Float32:
        return lambda v: None if (x := _float(v)) is None else float(np.float32(x))
    if dtype.is_integer():
        return _integer(dtype)
    if dtype == pl.String or isinstance(dtype, pl.Enum):
        return _string
    if dtype == pl.Boolean:
        return _boolean
    if dtype == pl.Date:
        return _date
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is None and dtype.time_unit == "us":
        return _datetime
    if isinstance(dtype, pl.List) and dtype.inner in (pl.String, pl.Boolean, pl.Int64, pl.Int32, pl.Date):
        return _list(_reader(dtype.inner))  # type: ignore[arg-type]
    return None


def _list(reader: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    assert reader is not None

    def read(value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple)):
            raise TypeError
        return [None if element is None else reader(element) for element in value]

    return read


def _float(value: Any) -> float | None:
    if isinstance(value, (str, bytes)):
        raise TypeError
    x = float(value)
    return None if x != x else x


def _integer(dtype: pl.DataType) -> Callable[[Any], int | None]:
    low, high = (pl.select(bound).item() for bound in (dtype.min(), dtype.max()))  # type: ignore[attr-defined]

    def read(value: Any) -> int | None:
        if type(value) is int:
            number = value
        else:
            x = _float(value)
            if x is None:
                return None
            if x % 1:
                raise ValueError
            number = int(x)
        if not low <= number <= high:
            raise ValueError
        return number

    return read


def _string(value: Any) -> str | None:
    if not isinstance(value, str):
        if isinstance(value, float) and value != value:
            return None
        raise TypeError
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError
    return bool(value)


def _date(value: Any) -> dt.date:
    if isinstance(value, dt.datetime) or not isinstance(value, dt.date):
        raise TypeError
    return value


def _datetime(value: Any) -> dt.datetime:
    if not isinstance(value, dt.datetime) or value.tzinfo is not None:
        raise TypeError
    return value


def refuse_empty(n_rows: int, where: str) -> None:
    """Raise DataError when there are no rows."""
    if not n_rows:
        raise DataError(
            f"{where}: the data has no rows.",
            "Expected at least one.",
            "check the filter or the path that it comes from.",
        )
