"""The door of every transformation: a table has the columns and types of fit, or an error says what it has instead."""

from __future__ import annotations

import datetime as dt
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from rayline.core.errors import SchemaError, place
from rayline.core.operations.base import Row, RowFunction
from rayline.core.schema import SPARSE, Kind, category_text, category_values, col, is_category, is_missing, kind_of


def remembered_schema(schema: Mapping[str, pl.DataType]) -> pl.Schema:
    """The schema as fit remembers it: categories as strings, an all-null column as numbers.

    A category of values that are no text keeps its own type (`category_of`): its values are known by it later.

    Raises SchemaError when a name cannot be carried by Arrow, or a column mixes types.
    """
    plain: dict[str, pl.DataType] = {}
    for name, dtype in schema.items():
        if "\x00" in name:
            raise SchemaError(
                f"The column {name!r} has a NUL character in its name.",
                "Expected a name that Arrow can carry.",
                "rename it.",
            )
        if dtype == pl.Object:
            raise SchemaError(
                f"Column {name!r} mixes types.",
                "Expected values of one type; got Python objects.",
                f"convert {name!r} first.",
            )
        if is_category(dtype):
            plain[name] = pl.String() if category_values(dtype) is None else dtype
        elif dtype == pl.Null or isinstance(dtype, pl.Decimal):
            plain[name] = pl.Float64()
        else:
            plain[name] = dtype
    return pl.Schema(plain)


@dataclass(frozen=True)
class SchemaCheck:
    """A table with the columns of `schema` in their types, NaN as null, categories as text; other columns pass untouched.

    What it takes of each type is written down in docs/values.md, and is the same for a table, a row and JSON.
    """

    schema: Mapping[str, pl.DataType]
    made_at: str = field(default_factory=place)  # it works later, and in other processes

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        changes = self._changes(table.collect_schema())
        return table.with_columns(changes) if changes else table

    def refuse_types(self, present: Mapping[str, pl.DataType]) -> None:
        """Raise SchemaError when a table of this schema has not the columns or the types, whatever its values."""
        self._changes(present)
        for name, dtype in self.schema.items():
            if _if_all_missing(present[name], dtype):
                raise SchemaError.dtype(name, _words(dtype), present[name], where=self.made_at)
            if (
                present[name].is_temporal()
                and dtype.is_temporal()
                and (_zone(present[name]) is None) != (_zone(dtype) is None)
            ):
                raise _OtherZone(name, dtype, self.made_at).refusal(present[name])

    def _changes(self, present: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        missing = [name for name in self.schema if name not in present]
        if missing:
            raise SchemaError.missing(missing, list(present), where=self.made_at)
        changes = [self._column(name, present[name], dtype) for name, dtype in self.schema.items()]
        return [change for change in changes if change is not None]

    def only(self, names: Collection[str]) -> SchemaCheck:
        """The same for some of the columns."""
        wanted = set(names)
        return SchemaCheck({name: dtype for name, dtype in self.schema.items() if name in wanted}, self.made_at)

    def _column(self, name: str, got: pl.DataType, dtype: pl.DataType) -> pl.Expr | None:
        column = col(name)
        if dtype.is_float() and (got.is_numeric() or got in (pl.Boolean, pl.Null)):
            return (column if got == dtype else column.cast(dtype)).fill_nan(None)
        if got == dtype and not is_category(dtype):
            return None
        result = pl.String() if isinstance(dtype, pl.Categorical) else dtype
        if got == pl.Null:
            return column.cast(result)
        if isinstance(dtype, pl.Enum) and kind_of(got) is Kind.CATEGORY:
            return column.cast(pl.String).cast(dtype, strict=False)  # a category that training did not see is missing
        if result == pl.String and kind_of(got) is Kind.CATEGORY:
            return None if got == pl.String else column.cast(pl.String)
        if (values := category_values(got)) is not None and dtype in (values, pl.Boolean):
            got, column = pl.String(), column.cast(pl.String)  # a label that is a number: see `Target`
            return column == "true" if dtype == pl.Boolean else column.cast(dtype)
        if _if_all_missing(got, dtype):
            change: _Change = _AllMissing(name, result, self.made_at)
        elif category_values(dtype) is not None and _alike(got, category_values(dtype)):
            change = _CategoryText(name, result, self.made_at)
        elif dtype.is_integer() and (got.is_numeric() or got == pl.Boolean):
            change = _IntegersFromFloats(name, result, self.made_at)
        elif (isinstance(dtype, pl.Array) and isinstance(got, (pl.List, pl.Array))) or (
            dtype == SPARSE and _is_sparse(got)
        ):
            change = _FixedLengthVectors(name, result, self.made_at)
        elif isinstance(dtype, (pl.Date, pl.Datetime, pl.Time)) and got == pl.String:
            change = _Iso(name, result, self.made_at)
        elif isinstance(dtype, (pl.Date, pl.Datetime)) and isinstance(got, (pl.Date, pl.Datetime)):
            if (_zone(got) is None) != (_zone(dtype) is None):
                change = _OtherZone(name, result, self.made_at)
            elif isinstance(dtype, pl.Datetime):
                return column.cast(dtype)
            else:
                change = _Midnight(name, result, self.made_at)
        elif kind_of(got) == kind_of(dtype) and kind_of(got) in (Kind.LIST, Kind.VECTOR):
            change = _Cast(name, result, self.made_at)
        else:
            raise SchemaError.dtype(name, _words(dtype), _words(got), where=self.made_at)
        return column.map_batches(change, return_dtype=result, is_elementwise=True)


def _is_sparse(dtype: pl.DataType) -> bool:
    return isinstance(dtype, pl.Struct) and [field.name for field in dtype.fields] == [
        field.name for field in SPARSE.fields
    ]


def _alike(got: pl.DataType, values: pl.DataType | None) -> bool:
    """Whether values of a type can stand for categories of the other."""
    return (
        values is not None
        and kind_of(got) in (Kind.NUMERIC, Kind.BOOLEAN, Kind.DATETIME)
        and kind_of(got) == kind_of(values)
    )


def _if_all_missing(got: pl.DataType, dtype: pl.DataType) -> bool:
    """Whether a column of one type can stand for one of another only when all its values are missing: NaN and NaT, as
    pandas and NumPy have them for want of another missing value."""
    if got == pl.String:
        return not (isinstance(dtype, (pl.Date, pl.Datetime, pl.Time)) or kind_of(dtype) is Kind.CATEGORY)
    if got.is_float():
        return not (dtype.is_numeric() or _alike(got, category_values(dtype)))
    return got.is_temporal() and not dtype.is_temporal() and not _alike(got, category_values(dtype))


def _words(dtype: pl.DataType) -> str:
    values = category_values(dtype)
    return (
        f"a category of {values}"
        if values is not None
        else "values of several types"
        if dtype == pl.Object
        else str(dtype)
    )


def _zone(dtype: pl.DataType) -> str | None:
    return dtype.time_zone if isinstance(dtype, pl.Datetime) else None


@dataclass(frozen=True)
class _Change(ABC):
    """A change of a column that depends on its values. Raises SchemaError when one does not allow it."""

    name: str
    dtype: pl.DataType
    made_at: str

    def __call__(self, values: pl.Series) -> pl.Series:
        try:
            return self.change(values)
        except (pl.exceptions.PolarsError, ValueError, OverflowError) as error:
            if isinstance(error, SchemaError):
                raise
            raise self.refusal(values.dtype) from None

    @abstractmethod
    def change(self, values: pl.Series) -> pl.Series: ...

    def refusal(self, got: Any) -> SchemaError:
        return SchemaError.dtype(self.name, self.dtype, got, where=self.made_at)


class _Cast(_Change):
    """Lists whose elements are to have another type."""

    def change(self, values: pl.Series) -> pl.Series:
        return values.cast(self.dtype)


class _AllMissing(_Change):
    """Nothing but missing values, in a column of another type."""

    def change(self, values: pl.Series) -> pl.Series:
        if (values.drop_nans() if values.dtype.is_float() else values).drop_nulls().len():
            raise self.refusal(values.dtype)
        return pl.Series(values.name, [None] * len(values), dtype=self.dtype)


class _OtherZone(_AllMissing):
    """Times without a zone for a column with one, or the other way round: it is ambiguous which instants are meant."""

    def refusal(self, got: Any) -> SchemaError:
        zone = _zone(self.dtype)
        held = "times with a zone" if zone is None else "dates" if got == pl.Date else "times without a zone"
        return SchemaError(
            f"{self.made_at}: column {self.name!r} holds {held}.",
            f"Expected {self.dtype}; got {got}, and no zone is assumed.",
            f"say what is meant: pl.col({self.name!r}).dt.replace_time_zone({zone!r}).",
        )


class _CategoryText(_Change):
    """Values of a category as the text that stands for them."""

    def change(self, values: pl.Series) -> pl.Series:
        return _by_value(values, category_text, pl.String())


class _IntegersFromFloats(_Change):
    """Whole numbers within the type's range; floats too, as they come from pandas and NumPy when some are missing."""

    def change(self, values: pl.Series) -> pl.Series:
        if values.dtype.is_float() or values.dtype.is_decimal():
            values = values.fill_nan(None) if values.dtype.is_float() else values
            if ((values % 1) != 0).any() or (values.dtype.is_float() and values.is_infinite().any()):
                raise SchemaError.dtype(
                    self.name, f"{self.dtype} (whole numbers)", "numbers with a fraction", where=self.made_at
                )
        made = values.cast(self.dtype, strict=False)
        beyond = values.filter(made.is_null() & values.is_not_null())
        if len(beyond):
            raise SchemaError.dtype(self.name, _range(self.dtype), f"{beyond[0]}", where=self.made_at)
        return made


class _FixedLengthVectors(_Change):
    """Vectors that came as lists, or sparse ones with numbers of other types, as they do from JSON, rows and batches of NumPy."""

    def change(self, values: pl.Series) -> pl.Series:
        try:
            return values.cast(self.dtype)
        except pl.exceptions.PolarsError:
            raise self.refusal("lists of other lengths or contents") from None


class _Iso(_Change):
    """Dates and times that came as text: ISO 8601, as in JSON and CSV."""

    def change(self, values: pl.Series) -> pl.Series:
        read = text_reader(self.dtype)

        def checked(text: str) -> Any:
            try:
                return read(text)
            except ValueError:
                raise self.refusal(repr(text)) from None

        return _by_value(values, checked, self.dtype)


class _Midnight(_Change):
    """Dates that came as times, as pandas has them: all at midnight."""

    def change(self, values: pl.Series) -> pl.Series:
        made = values.dt.date()
        later = values.filter(made.cast(values.dtype) != values)
        if len(later):
            raise self.refusal(f"the time {later[0]}")
        return made


def _by_value(values: pl.Series, function: Callable[[Any], Any], dtype: pl.DataType) -> pl.Series:
    """A function of Python values, called once for each value that differs."""
    own = values.drop_nulls().unique()
    made = pl.Series([function(value) for value in own.to_list()], dtype=dtype)
    return values.replace_strict(own, made, default=None, return_dtype=dtype) if len(own) else values.cast(dtype)


def _range(dtype: pl.DataType) -> str:
    low, high = integer_range(dtype)
    return f"{dtype} (a whole number from {low} to {high})"


def integer_range(dtype: pl.DataType) -> tuple[int, int]:
    """The least and the greatest number of an integer type."""
    low, high = (int(pl.select(bound).item()) for bound in (dtype.min(), dtype.max()))  # type: ignore[attr-defined]
    return low, high


def text_reader(dtype: pl.DataType) -> Callable[[str], Any]:
    """From ISO 8601 text to a value of a date, datetime or time type; it raises ValueError.

    A date is its midnight and midnight is a date. A column with a zone takes times with an offset, one without takes times
    without: no zone is ever assumed.
    """
    if dtype == pl.Date:
        return _date_of_text
    if dtype == pl.Time:
        return dt.time.fromisoformat
    return _zoned if _zone(dtype) is not None else _unzoned


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


def row_check(schema: Mapping[str, pl.DataType]) -> RowFunction | None:
    """The same for one row; None when a column has a type that single rows are not made for (vectors, times with a zone, …)."""
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
                    raise SchemaError.dtype(name, _words(dtype), f"{value!r}", where=where) from None

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


def category_reader(values: pl.DataType) -> Callable[[Any], str | None]:
    """From a value of a category, or its text, to its text; it raises TypeError. `values` is the type of the values."""
    takes: dict[Kind, Any] = {Kind.NUMERIC: (int, float, np.integer, np.floating), Kind.BOOLEAN: (bool, np.bool_)}
    types = takes.get(kind_of(values), (dt.date,))

    def read(value: Any) -> str | None:
        if isinstance(value, str):
            return value
        if not isinstance(value, types) or (isinstance(value, bool) and values != pl.Boolean):
            raise TypeError
        return category_text(value.item() if isinstance(value, np.generic) else value)

    return read


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
