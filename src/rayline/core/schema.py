"""Column types: the kind of a column, the columns that a choice selects, and types and values as JSON."""

from __future__ import annotations

import base64
import datetime as dt
import enum
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeAlias, cast

import polars as pl
import polars.selectors as cs

from rayline.core.errors import DataError, ParameterError, SchemaError, shorten

Columns: TypeAlias = str | Sequence[str] | pl.Expr | None
"""Columns by name, by Polars selector, or (None) by type."""


class Selected(list[str]):
    """The columns of a saved stage that a selector chose in its fit; unlike named columns, targets among them are skipped."""


SPARSE = pl.Struct({"size": pl.UInt32, "indices": pl.List(pl.UInt32), "values": pl.List(pl.Float64)})
"""The type of a sparse vector per row: its length, and the indices and values of its nonzero elements."""


def col(name: str) -> pl.Expr:
    """Return the expression of the column with exactly this name: Polars itself would read `*` and `^…$` as patterns."""
    return cs.by_name(name).as_expr() if name == "*" or name.startswith("^") else pl.col(name)


class Kind(enum.StrEnum):
    """The kind of a column, by which stages choose their columns."""

    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    CATEGORY = "category"
    TEXT = "text"
    DATETIME = "datetime"
    LIST = "list"
    VECTOR = "vector"
    OTHER = "other"


def is_category(dtype: Any) -> bool:
    """Whether a type is one of Polars' category types, including a Categorical with named categories."""
    return isinstance(dtype, (pl.Categorical, pl.Enum)) or dtype in (pl.Categorical, pl.Enum)


_VALUES = "rayline:"
"""The prefix of the name of categories whose values are not text; the rest of the name is the value type as JSON."""


def category_of(values: pl.DataType) -> pl.DataType:
    """Return the type of a column that was declared categorical and has values of this type: numbers, booleans, dates.

    Polars' categories are text, so the column holds the text of each value (`category_text`); the name of its categories
    stores the type of the values.
    """
    if values == pl.String:
        return pl.Categorical()
    return pl.Categorical(pl.Categories(_VALUES + json.dumps(dtype_to_json(values), separators=(",", ":"))))


def category_values(dtype: Any) -> pl.DataType | None:
    """Return the inverse of `category_of`: the type of the values; None for any other type and for categories of text."""
    name = dtype.categories.name() if isinstance(dtype, pl.Categorical) else ""
    return dtype_from_json(json.loads(name.removeprefix(_VALUES))) if name.startswith(_VALUES) else None


def category_text(value: Any) -> str | None:
    """Return the text of a category's value: 3 and 3.0 give "3", True gives "true", a date its ISO 8601 form."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if value != value:
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return value.isoformat() if isinstance(value, (dt.date, dt.time)) else str(value)


def is_missing(value: Any) -> bool:
    """Whether a Python value is a missing value: None, NaN, or pandas' NA or NaT."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def without_categories(schema: Mapping[str, pl.DataType]) -> pl.Schema:
    """Return the schema after `SchemaCheck`, in which every category is text."""
    return pl.Schema(
        {name: pl.String() if isinstance(dtype, pl.Categorical) else dtype for name, dtype in schema.items()}
    )


def kind_of(dtype: pl.DataType) -> Kind:
    """Return the kind of a type. A string counts as a category; only the data shows whether it is free text (see `WordCount`)."""
    if dtype.is_numeric():
        return Kind.NUMERIC
    if dtype == pl.Boolean:
        return Kind.BOOLEAN
    if dtype == pl.String or is_category(dtype):
        return Kind.CATEGORY
    if dtype in (pl.Date, pl.Datetime):
        return Kind.DATETIME
    if dtype == SPARSE or isinstance(dtype, pl.Array):
        return Kind.VECTOR
    if isinstance(dtype, pl.List):
        return Kind.LIST
    return Kind.OTHER


def choose(columns: Columns, schema: Mapping[str, pl.DataType]) -> list[str]:
    """Return the column names that an explicit choice selects, in the order of the choice.

    Raises
    ------
    SchemaError
        When a name is not in the schema.
    ParameterError
        When the choice is neither names nor a selector, or names a column twice.
    """
    if isinstance(columns, str):
        columns = [columns]
    if isinstance(columns, pl.Expr):
        if not cs.is_selector(columns):
            raise ParameterError.value("columns", "names or a Polars selector such as cs.numeric()", columns)
        try:
            return list(cs.expand_selector(pl.Schema(schema), columns))
        except pl.exceptions.ColumnNotFoundError as error:
            raise SchemaError.absent([str(error).partition('" not found')[0].lstrip('"')], schema) from error
    names = list(columns or [])
    if not all(isinstance(name, str) for name in names):
        raise ParameterError.value("columns", "names or a Polars selector such as cs.numeric()", columns)
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ParameterError.value("columns", "each column once", twice)
    missing = [name for name in names if name not in schema]
    if missing:
        raise SchemaError.absent(missing, schema)
    return names


def usual_numbers(dtype: pl.DataType) -> pl.DataType:
    """Return the numeric type that libraries accept: Float32 for Float16, Float64 for decimals and 128-bit integers."""
    if isinstance(dtype, pl.Array):
        return pl.Array(usual_numbers(_instance(dtype.inner)), dtype.size)
    if dtype == pl.Float16:
        return pl.Float32()
    return pl.Float64() if dtype in (pl.Decimal, pl.Int128, pl.UInt128) else dtype


def refuse_taken(added: Iterable[str], present: Collection[str]) -> None:
    """Raise SchemaError when a column to be added has the name of an existing column."""
    taken = [name for name in added if name in present]
    if taken:
        raise SchemaError.here(
            f"the table has a column {taken[0]!r} already, which would be replaced.",
            f"Expected names that differ from those of the added columns; got {shorten(taken)}.",
            f"rename {taken[0]!r}, or leave it out.",
        )


def dtype_to_json(dtype: pl.DataType) -> Any:
    """Return a type as JSON: a name, or `[name, argument, …]` for a type with arguments."""
    if isinstance(dtype, pl.Datetime):
        return ["Datetime", dtype.time_unit, dtype.time_zone]
    if isinstance(dtype, pl.Duration):
        return ["Duration", dtype.time_unit]
    if (values := category_values(dtype)) is not None:
        return ["Category", dtype_to_json(values)]
    if isinstance(dtype, pl.Enum):
        return ["Enum", dtype.categories.to_list()]
    if isinstance(dtype, pl.Array):
        return ["Array", dtype_to_json(_instance(dtype.inner)), dtype.size]
    if isinstance(dtype, pl.List):
        return ["List", dtype_to_json(_instance(dtype.inner))]
    if isinstance(dtype, pl.Decimal):
        return ["Decimal", dtype.precision, dtype.scale]
    if isinstance(dtype, pl.Struct):
        return ["Struct", [[field.name, dtype_to_json(_instance(field.dtype))] for field in dtype.fields]]
    return str(dtype.base_type())


_PLAIN: dict[str, pl.DataType] = {
    str(t): t()
    for t in (
        pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.UInt128,
        pl.Float16, pl.Float32, pl.Float64, pl.Boolean, pl.String, pl.Binary, pl.Date, pl.Time, pl.Categorical, pl.Null,
    )
}  # fmt: skip


def dtype_from_json(value: Any) -> pl.DataType:
    """Return the type from the JSON of `dtype_to_json`. Raises SchemaError on anything else."""
    match value:
        case str() if value in _PLAIN:
            return _PLAIN[value]
        case ["Datetime", ("ms" | "us" | "ns") as unit, zone] if zone is None or isinstance(zone, str):
            return pl.Datetime(cast(Any, unit), zone)
        case ["Duration", ("ms" | "us" | "ns") as unit]:
            return pl.Duration(cast(Any, unit))
        case ["Enum", list() as categories] if all(isinstance(c, str) for c in categories):
            return pl.Enum(categories)
        case ["Category", inner]:
            return category_of(dtype_from_json(inner))
        case ["Array", inner, int() as size] if 0 <= size <= 2**31:
            return pl.Array(dtype_from_json(inner), size)
        case ["List", inner]:
            return pl.List(dtype_from_json(inner))
        case ["Decimal", precision, int() as scale]:
            return pl.Decimal(precision, scale)
        case ["Struct", list() as fields]:
            return pl.Struct({name: dtype_from_json(inner) for name, inner in fields})
    raise SchemaError("A saved schema names a type that does not exist.", f"Expected a Polars type; got {value!r}.")


def schema_to_json(schema: Mapping[str, pl.DataType]) -> list[list[Any]]:
    return [[name, dtype_to_json(dtype)] for name, dtype in schema.items()]


def schema_from_json(value: Any) -> pl.Schema:
    if not isinstance(value, list) or not all(isinstance(v, list) and len(v) == 2 for v in value):
        raise SchemaError(
            "A saved schema is malformed.", f"Expected a list of [name, type]; got {type(value).__name__}."
        )
    return pl.Schema({str(name): dtype_from_json(dtype) for name, dtype in value})


def value_to_json(value: Any) -> Any:
    """Return a learned value as strict JSON; a type that JSON lacks becomes an object with one key: {"$date": "2013-01-01"}."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case dt.datetime():
            return {"$datetime": value.isoformat()}
        case dt.date():
            return {"$date": value.isoformat()}
        case dt.time():
            return {"$time": value.isoformat()}
        case dt.timedelta():
            return {"$us": value // dt.timedelta(microseconds=1)}
        case Decimal():
            return {"$decimal": str(value)}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case pl.DataType():
            return {"$dtype": dtype_to_json(value)}
        case list() | tuple():
            return [value_to_json(v) for v in value]
        case dict():
            return {str(k): value_to_json(v) for k, v in value.items()}
    raise ParameterError(
        f"A {type(value).__name__} cannot be saved as JSON.",
        "Expected a number, a string, a date, or a list or dict of these.",
        "use plain Python values as parameters of a stage.",
    )


_READERS: dict[str, Any] = {
    "$float": float,
    "$datetime": dt.datetime.fromisoformat,
    "$date": dt.date.fromisoformat,
    "$time": dt.time.fromisoformat,
    "$us": lambda us: dt.timedelta(microseconds=us),
    "$decimal": Decimal,
    "$bytes": base64.b64decode,
    "$dtype": dtype_from_json,
}


def value_from_json(value: Any) -> Any:
    """Return the value from the JSON of `value_to_json`."""
    if isinstance(value, list):
        return [value_from_json(v) for v in value]
    if isinstance(value, dict):
        if len(value) == 1:
            (key, inner), *_ = value.items()
            if key in _READERS:
                return _READERS[key](inner)
        return {k: value_from_json(v) for k, v in value.items()}
    return value


def _instance(dtype: Any) -> pl.DataType:
    instance: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return instance


def refuse_empty(n_rows: int) -> None:
    """Raise DataError when there are no rows."""
    if not n_rows:
        raise DataError.here(
            "the data has no rows.",
            "Expected at least one row.",
            "check the filter or the path that it comes from.",
        )
