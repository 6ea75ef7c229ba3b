"""Convert Arrow and pandas columns to Polars: a type that Polars lacks becomes one that it has, or an error names the column."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rayline.core.errors import SchemaError, first_line
from rayline.core.schema import category_of, category_text, is_missing

UNREADABLE = (Exception, pl.exceptions.PanicException)
"""Raised by constructors of columns about values that they cannot hold; a panic of Polars is not an Exception."""


def from_arrow(table: pa.Table) -> pl.DataFrame:
    """Return an Arrow table as a Polars table, without a copy where the types allow it.

    A dictionary of numbers, dates or booleans is a category (see `category_of`). Raises SchemaError for a column of a
    type that Polars cannot represent.
    """
    series: dict[int, pl.Series] = {}
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type) and not _is_text(field.type.value_type):
            series[i] = _category(field.name, table.column(i))
        elif (convert := _conversion(field.type)) is not None:
            try:
                table = table.set_column(i, field.name, convert(table.column(i)))
            except UNREADABLE as error:
                raise _no_form(field.name, field.type) from error
    rest = [i for i in range(table.num_columns) if i not in series]
    for i, column in zip(rest, _read(table.select(rest)), strict=True):
        series[i] = column.alias(table.schema.names[i])  # Polars would call a column without a name `column_0`
    return frame_of([series[i] for i in range(table.num_columns)])


def frame_of(columns: Sequence[pl.Series]) -> pl.DataFrame:
    """Return a table of these columns under their own names; an empty name is kept (a list of Series would make it `column_0`)."""
    return pl.DataFrame({column.name: column for column in columns})


def _read(table: pa.Table) -> list[pl.Series]:
    try:
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return frame.get_columns()
    except UNREADABLE:
        for i, field in enumerate(table.schema):  # so that the error names it
            try:
                pl.from_arrow(table.select([i]))
            except UNREADABLE as error:
                raise _no_form(field.name, field.type) from error
        raise


def _is_text(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _category(name: str, column: pa.ChunkedArray) -> pl.Series:
    values = column.type.value_type
    simple = any(
        test(values)
        for test in (
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_boolean,
            pa.types.is_temporal,
            pa.types.is_decimal,
        )
    )
    parts: list[pl.Series] = []
    dtype = from_arrow(pa.table({"values": pa.array([], values)}))["values"].dtype
    try:
        if not simple:
            return from_arrow(pa.table({name: column.cast(values)})).to_series()
        for chunk in column.chunks:
            categories = from_arrow(pa.table({"values": chunk.dictionary}))["values"].to_list()
            texts = pl.Series([category_text(value) for value in categories], dtype=pl.String)
            codes = pl.Series(pl.from_arrow(chunk.indices)).cast(pl.UInt32)
            parts.append(texts.gather(codes))
    except UNREADABLE as error:
        raise _no_form(name, column.type) from error
    return (pl.concat(parts) if parts else pl.Series(dtype=pl.String)).cast(category_of(dtype)).alias(name)


def _conversion(kind: pa.DataType) -> Callable[[pa.ChunkedArray], pa.ChunkedArray] | None:
    """Return the conversion from a type that Polars lacks to one that it has; None when none is needed or none is known."""
    if isinstance(kind, pa.BaseExtensionType):  # including tensors of Arrow and of Ray
        return _stored
    if pa.types.is_run_end_encoded(kind):
        return pc.run_end_decode  # type: ignore[no-any-return]
    if pa.types.is_decimal256(kind) or (pa.types.is_decimal128(kind) and kind.scale < 0):
        return _decimal
    if pa.types.is_fixed_size_list(kind):
        return _whole if kind.list_size else lambda column: column.cast(pa.list_(kind.value_type))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return lambda column: pa.chunked_array([pa.array(column.to_pylist(), pa.list_(kind.value_type))])
    return None


def _stored(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of an extension type as plain Arrow: tensors of one shape as vectors, of several shapes as lists."""
    kind = column.type
    if isinstance(kind, pa.Bool8Type):
        return column.cast(pa.bool_())
    stored = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
    shape = getattr(kind, "shape", None)
    if shape is not None:
        return _whole(stored.cast(pa.list_(kind.value_type, math.prod(shape))))
    if pa.types.is_struct(stored.type) and {"data", "shape"} == {field.name for field in stored.type}:
        return pa.chunked_array([chunk.field("data") for chunk in stored.chunks], stored.type.field("data").type)
    return stored


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return vectors of which Polars reads slices too: it refuses missing ones in a slice, which is copied here."""
    chunks = [
        pa.concat_arrays([chunk[:0], chunk])
        if chunk.null_count and len(chunk.values) != len(chunk) * column.type.list_size
        else chunk
        for chunk in column.chunks
    ]
    return pa.chunked_array(chunks, column.type)


def _decimal(column: pa.ChunkedArray) -> pa.ChunkedArray:
    with contextlib.suppress(pa.ArrowInvalid):
        return column.cast(pa.decimal128(38, max(0, column.type.scale)))
    return column.cast(pa.float64())


def _no_form(name: str, kind: Any) -> SchemaError:
    return SchemaError(
        f"Column {name!r} holds {kind}, which Polars cannot represent.",
        "Expected numbers, booleans, strings, categories, dates, times, or lists of these.",
        f"convert {name!r}, or drop it.",
    )


# -- Python values and pandas --------------------------------------------------------------------------------------------


def of_values(name: str, values: Sequence[Any]) -> pl.Series:
    """Return a column of Python values; None, NaN, pandas' NA and NaT are missing.

    Values of several types are a column of Python objects, which no stage and no model takes. Raises SchemaError when a
    value that no column type can hold.
    """
    items = [None if is_missing(value) else value for value in values]
    if all(item is None for item in items):
        return pl.Series(name, items, dtype=pl.Null)
    try:
        return pl.Series(name, items)
    except UNREADABLE as error:
        # Polars refuses a time in the hour that daylight saving skips; Python's conversion is unambiguous in UTC.
        if all(item is None or (isinstance(item, dt.datetime) and item.tzinfo is not None) for item in items):
            with contextlib.suppress(*UNREADABLE):
                return pl.Series(name, [None if item is None else item.astimezone(dt.UTC) for item in items])
        if all(item is None or (isinstance(item, numbers.Real) and not isinstance(item, bool)) for item in items):
            with contextlib.suppress(*UNREADABLE):
                return pl.Series(name, items, dtype=pl.Float64, strict=False)
        kinds = sorted({type(item).__name__ for item in items if item is not None})
        if len(kinds) == 1:
            raise SchemaError(
                f"Column {name!r} holds values of type {kinds[0]} that no column type can hold.",
                f"Expected numbers of at most 128 bits, text, dates or lists; got {first_line(error)}.",
                f"convert {name!r}, or drop it.",
            ) from error
        with contextlib.suppress(*UNREADABLE):
            return pl.Series(name, items, dtype=pl.Object)  # no error unless the column is used
        raise _no_form(name, f"values of the types {kinds}") from error


def from_pandas(data: Any) -> pl.DataFrame:
    """Return a pandas table as a Polars table; a column name that is not a string becomes one. Raises SchemaError as `from_arrow`."""
    names = [str(name) for name in data.columns]
    series: dict[int, pl.Series] = {}
    for i, dtype in enumerate(data.dtypes):
        if dtype.name == "category" or (dtype.name == "object" and data.iloc[:, i].isna().all()):
            series[i] = of_pandas(names[i], data.iloc[:, i])
    rest = [i for i in range(len(names)) if i not in series]
    if rest:
        table = data.iloc[:, rest] if series else data
        try:
            columns = pl.from_pandas(table.set_axis(list(map(str, rest)), axis=1)).get_columns()
        except UNREADABLE:
            columns = [of_pandas(names[i], data.iloc[:, i]) for i in rest]
        series |= {i: column.alias(names[i]) for i, column in zip(rest, columns, strict=True)}
    return frame_of([series[i] for i in range(len(names))])


def of_pandas(name: str, column: Any) -> pl.Series:
    """Return a pandas column as a Polars one; a categorical of values other than strings stays a category (see `category_of`)."""
    if column.dtype.name == "category":
        return _pandas_category(name, column)
    if column.dtype == object:
        return of_values(name, column.tolist())
    if type(column.dtype).__name__ == "SparseDtype":
        column = column.sparse.to_dense()
    try:
        return pl.Series(name, pl.from_pandas(column))
    except UNREADABLE as error:
        raise _no_form(name, column.dtype) from error


def _pandas_category(name: str, column: Any) -> pl.Series:
    categories = column.cat.categories
    try:
        dtype = of_pandas("values", categories.to_series()).dtype
        values = category_of(dtype if dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean else pl.String())
    except SchemaError:  # intervals, or values of several types
        values = pl.Categorical()
    texts = pl.Series([category_text(value) for value in categories.tolist()], dtype=pl.String)
    codes = pl.Series(column.cat.codes.to_numpy()).cast(pl.Int64)
    return texts.gather(codes.set(codes < 0, None)).cast(values).alias(name)
