"""Single values as a column of fit takes them: of a row, and of JSON. `schema_check` does the same for tables."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl

from rayline.core.errors import SchemaError, place
from rayline.core.operations.base import Row, RowFunction
from rayline.core.schema import Kind, category_text, category_values, is_missing, kind_of, type_in_words, zone_of


def row_check(schema: Mapping[str, pl.DataType]) -> RowFunction | None:
    """Return the check of one row, as `SchemaCheck` is for tables; None when a column has a type that single rows are not made for (vectors, times with a zone, …)."""
    readers: list[tuple[str, Callable[[Any], Any], pl.DataType]] = []
    for name, dtype in schema.items():
        reader = _reader(dtype)
        if reader is None:
            return None
        readers.append((name, reader, dtype))
    where = place()

    def check(row: Row) -> None:
        for name, reader, dtype in readers:
            try:
                value = row[name]
            except KeyError:
                raise SchemaError.missing([n for n in schema if n not in row], row, where=where) from None
            if value is not None:
                try:
                    row[name] = None if is_missing(value) else reader(value)
                except (TypeError, ValueError, OverflowError):
                    raise SchemaError.dtype(name, type_in_words(dtype), f"{value!r}", where=where) from None

    return check


def _reader(dtype: pl.DataType) -> Callable[[Any], Any] | None:
    if dtype == pl.Float64:
        return _float
    if dtype == pl.Float32:
        return lambda v: None if (x := _float(v)) is None else float(np.float32(x))
    if dtype.is_integer():
        return _integer(dtype)
    if (values := category_values(dtype)) is not None:
        return category_reader(values)
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


def text_reader(dtype: pl.DataType) -> Callable[[str], Any]:
    """Return the function from ISO 8601 text to a value of a date, datetime or time type; it raises ValueError.

    A date is its midnight and midnight is a date. A column with a zone takes times with an offset, one without takes times
    without: no zone is ever assumed.
    """
    if dtype == pl.Date:
        return _date_of_text
    if dtype == pl.Time:
        return dt.time.fromisoformat
    return _zoned if zone_of(dtype) is not None else _unzoned


def integer_range(dtype: pl.DataType) -> tuple[int, int]:
    """Return the least and the greatest number of an integer type."""
    low, high = (int(pl.select(bound).item()) for bound in (dtype.min(), dtype.max()))  # type: ignore[attr-defined]
    return low, high


def category_reader(values: pl.DataType) -> Callable[[Any], str | None]:
    """Return the function from a value of a category, or its text, to its text; it raises TypeError. `values` is the type of the values."""
    takes: dict[Kind, Any] = {Kind.NUMERIC: (int, float, np.integer, np.floating), Kind.BOOLEAN: (bool, np.bool_)}
    types = takes.get(kind_of(values), (dt.date,))

    def read(value: Any) -> str | None:
        if isinstance(value, str):
            return value
        if not isinstance(value, types) or (isinstance(value, bool) and values != pl.Boolean):
            raise TypeError
        return category_text(value.item() if isinstance(value, np.generic) else value)

    return read


def _date_of_text(text: str) -> dt.date:
    if len(text) <= 10:
        return dt.date.fromisoformat(text)
    return _date(dt.datetime.fromisoformat(text))


def _unzoned(text: str) -> dt.datetime:
    value = dt.datetime.fromisoformat(text)
    if value.tzinfo is not None:
        raise ValueError
    return value


def _zoned(text: str) -> dt.datetime:
    value = dt.datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError
    return value.astimezone(dt.UTC)


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
    low, high = integer_range(dtype)

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
        raise TypeError
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError
    return bool(value)


def _date(value: Any) -> dt.date:
    if isinstance(value, str):
        return _date_of_text(value)
    if isinstance(value, dt.datetime):
        if value.tzinfo is not None or value.time() != dt.time():
            raise TypeError
        return value.date()
    if not isinstance(value, dt.date):
        raise TypeError
    return value


def _datetime(value: Any) -> dt.datetime:
    if isinstance(value, str):
        return _unzoned(value)
    if not isinstance(value, dt.datetime):
        if not isinstance(value, dt.date):
            raise TypeError
        return dt.datetime.combine(value, dt.time())
    if value.tzinfo is not None:
        raise TypeError
    return value
