"""Column types: the kind of a column, which types become which, and types as JSON."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import polars as pl
import polars.selectors as cs

from rayline.core.arrow_tables import refuse_nul
from rayline.core.errors import DataError, SchemaError

SPARSE = pl.Struct({"size": pl.UInt32, "indices": pl.List(pl.UInt32), "values": pl.List(pl.Float64)})
"""The type of a sparse vector per row: its length, and the indices and values of its nonzero elements."""


def col(name: str) -> pl.Expr:
    """Return the expression of the column with exactly this name: Polars itself would read `*` and `^…$` as patterns."""
    return cs.by_name(name).as_expr() if name == "*" or name.startswith("^") else pl.col(name)


def map_values(values: pl.Expr, function: Callable[[pl.Series], pl.Series], dtype: Any) -> pl.Expr:
    """Apply a function to each batch of a column. Its Series has a name that is no pattern: methods of one called `*` or `^…$` would
    look for other columns."""
    return values.map_batches(_OfPlainName(function), return_dtype=dtype, is_elementwise=True)


@dataclass(frozen=True)
class _OfPlainName:
    function: Callable[[pl.Series], pl.Series]

    def __call__(self, values: pl.Series) -> pl.Series:
        return self.function(values.alias("values"))


def as_schema(types: Mapping[str, pl.DataType]) -> pl.Schema:
    """Return the columns and their types as a schema: the same object if it is one, because a wide one takes long to make."""
    return types if isinstance(types, pl.Schema) else pl.Schema(types)


def stacked(tables: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the rows of tables, at least one, that have the same columns in whatever order; of two types of numbers the larger."""
    names = tables[0].columns
    same = [table if table.columns == names else table.select(map(col, names)) for table in tables]
    return same[0] if len(same) == 1 else pl.concat(same, how="vertical_relaxed", rechunk=False)


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


def remembered_schema(schema: Mapping[str, pl.DataType]) -> pl.Schema:
    """Return the schema as fit remembers it: categories as strings, an all-null column and decimals as numbers.

    A category of values that are no text keeps its own type (`category_of`): its values are known by it later.

    Raises SchemaError when a name cannot be carried by Arrow, or a column mixes types.
    """
    plain: dict[str, pl.DataType] = {}
    for name, dtype in schema.items():
        refuse_nul(name)
        if dtype == pl.Object:
            raise SchemaError(
                f"Column {name!r} mixes types.",
                "Expected values of one type; got Python objects.",
                f"convert {name!r} first.",
            )
        if is_category(dtype):
            plain[name] = pl.String() if category_values(dtype) is None else dtype
        else:
            plain[name] = pl.Float64() if dtype == pl.Null or isinstance(dtype, pl.Decimal) else dtype
    return pl.Schema(plain)


def without_categories(schema: Mapping[str, pl.DataType]) -> pl.Schema:
    """Return the schema of a table after `SchemaCheck`, in which every category is text."""
    return pl.Schema({name: converted(dtype) for name, dtype in schema.items()})


def converted(dtype: pl.DataType) -> pl.DataType:
    """Return the type that a column has after its conversion to `dtype`: categories are text."""
    return pl.String() if isinstance(dtype, pl.Categorical) else dtype


def categories_as_text(table: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return the table with this column as strings, if it holds categories: their codes differ between tables."""
    return table.with_columns(col(column).cast(pl.String)) if is_category(table.schema[column]) else table


Conversion: TypeAlias = Literal[
    "none", "cast", "NaN to null", "text", "known category", "true or false", "category value",  # whatever the values
    "all missing", "other zone", "category text", "whole numbers", "vectors", "ISO text", "midnight", "elements",
]  # fmt: skip
"""How a column of one type becomes one of another; those of the second line depend on the values."""


def conversion(got: pl.DataType, dtype: pl.DataType) -> Conversion | None:
    """Return how a column of type `got` becomes one of type `dtype`; None when none of its values can (see docs/values.md)."""
    if dtype.is_float() and (got.is_numeric() or got in (pl.Boolean, pl.Null)):
        return "NaN to null"
    if got == dtype and not is_category(dtype):
        return "none"
    if got == pl.Null:
        return "cast"
    kind, wanted, values = kind_of(got), kind_of(dtype), category_values(got)
    if isinstance(dtype, pl.Enum) and kind is Kind.CATEGORY:
        return "known category"
    if converted(dtype) == pl.String and kind is Kind.CATEGORY:
        return "none" if got == pl.String else "text"
    if values is not None and dtype in (values, pl.Boolean):  # a label that is a number: see `Target`
        return "true or false" if dtype == pl.Boolean else "ISO text" if dtype.is_temporal() else "category value"
    if _if_all_missing(got, dtype):
        return "all missing"
    if _has_values_of(got, dtype):
        return "category text"
    if dtype.is_integer() and (got.is_numeric() or got == pl.Boolean):
        return "whole numbers"
    if (isinstance(dtype, pl.Array) and isinstance(got, (pl.List, pl.Array))) or (dtype == SPARSE and _is_sparse(got)):
        return "vectors"
    if wanted is Kind.DATETIME and kind is Kind.DATETIME:
        if (zone_of(got) is None) != (zone_of(dtype) is None):
            return "other zone"
        return "cast" if isinstance(dtype, pl.Datetime) else "midnight"
    if isinstance(dtype, (pl.Date, pl.Datetime, pl.Time)) and got == pl.String:
        return "ISO text"
    return "elements" if kind is wanted and kind in (Kind.LIST, Kind.VECTOR) else None


def _if_all_missing(got: pl.DataType, dtype: pl.DataType) -> bool:
    """Whether a column of one type can stand for one of another only when all its values are missing: NaN and NaT, as
    pandas and NumPy have them for want of another missing value."""
    if got == pl.String:
        return not (isinstance(dtype, (pl.Date, pl.Datetime, pl.Time)) or kind_of(dtype) is Kind.CATEGORY)
    if got.is_float():
        return not (dtype.is_numeric() or _has_values_of(got, dtype))
    return got.is_temporal() and not dtype.is_temporal() and not _has_values_of(got, dtype)


def _has_values_of(got: pl.DataType, dtype: pl.DataType) -> bool:
    """Whether values of type `got` can stand for the categories of `dtype`."""
    values, kind = category_values(dtype), kind_of(got)
    return values is not None and kind in (Kind.NUMERIC, Kind.BOOLEAN, Kind.DATETIME) and kind is kind_of(values)


def _is_sparse(dtype: pl.DataType) -> bool:
    names = [field.name for field in SPARSE.fields]
    return isinstance(dtype, pl.Struct) and [field.name for field in dtype.fields] == names


def zone_of(dtype: pl.DataType) -> str | None:
    """Return the time zone of a type; None for times without one, and for any other type."""
    return dtype.time_zone if isinstance(dtype, pl.Datetime) else None


def refuse_types(schema: Mapping[str, pl.DataType], present: Mapping[str, pl.DataType]) -> None:
    """Raise SchemaError when a table of types `present` lacks a column of `schema`, or has it in a type of which it takes no
    values. Order and further columns do not matter."""
    missing = [name for name in schema if name not in present]
    if missing:
        raise SchemaError.missing(missing, present)
    for name, dtype in schema.items():
        match conversion(present[name], dtype):
            case "other zone":
                raise other_zone(name, dtype, present[name])
            case None | "all missing":
                expected, got = type_in_words(dtype), type_in_words(present[name])
                raise SchemaError.dtype(name, expected, got)


def other_zone(name: str, dtype: pl.DataType, got: Any) -> SchemaError:
    """Return the error for times without a zone in a column with one, or the other way round: it is ambiguous which instants
    are meant."""
    zone = zone_of(dtype)
    held = "times with a zone" if zone is None else "dates" if got == pl.Date else "times without a zone"
    return SchemaError.here(
        f"column {name!r} holds {held}.",
        f"Expected {dtype}; got {got}, and no zone is assumed.",
        f"specify the zone: pl.col({name!r}).dt.replace_time_zone({zone!r}).",
    )


def type_in_words(dtype: pl.DataType) -> str:
    """Return a type as errors name it."""
    values = category_values(dtype)
    if values is not None:
        return f"a category of {values}"
    return "values of several types" if dtype == pl.Object else str(dtype)


def dense_width(dtype: pl.DataType) -> int:
    """Return the number of values in a row: of a vector or a tensor all of its own, otherwise one."""
    return math.prod(dtype.shape) if isinstance(dtype, pl.Array) else 1


def usual_numbers(dtype: pl.DataType) -> pl.DataType:
    """Return the numeric type that libraries accept: Float32 for Float16, Float64 for decimals and 128-bit integers."""
    if isinstance(dtype, pl.Array):
        return pl.Array(usual_numbers(_instance(dtype.inner)), dtype.size)
    if dtype == pl.Float16:
        return pl.Float32()
    return pl.Float64() if dtype in (pl.Decimal, pl.Int128, pl.UInt128) else dtype


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
