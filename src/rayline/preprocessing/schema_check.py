"""The check of every table before a transformation: it has the columns and types of fit, or an error says what it has instead."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from rayline.core.errors import SchemaError, at, place
from rayline.core.schema import Conversion, category_text, col, conversion, converted, other_zone, type_in_words
from rayline.preprocessing.value_readers import integer_range, text_reader


@dataclass(frozen=True)
class SchemaCheck:
    """A table with the columns of `schema` in their types, NaN as null, categories as text; other columns pass untouched.

    What it takes of each type is written down in docs/values.md, and is the same for a table, a row and JSON.
    """

    schema: Mapping[str, pl.DataType]
    made_at: str = field(default_factory=place)  # it works later, and in other processes
    nan_columns: frozenset[str] = frozenset()
    """Columns in which NaN may stay."""

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        present = table.collect_schema()
        missing = [name for name in self.schema if name not in present]
        if missing:
            raise SchemaError.missing(missing, list(present), where=self.made_at)
        changes = [self._column(name, present[name], dtype) for name, dtype in self.schema.items()]
        needed = [change for change in changes if change is not None]
        return table.with_columns(needed) if needed else table

    def only(self, names: Collection[str], nan_columns: frozenset[str] = frozenset()) -> SchemaCheck:
        """Return the same for some of the columns; NaN stays in those of `nan_columns`."""
        wanted = set(names)
        schema = {name: dtype for name, dtype in self.schema.items() if name in wanted}
        return SchemaCheck(schema, self.made_at, nan_columns)

    def _column(self, name: str, got: pl.DataType, dtype: pl.DataType) -> pl.Expr | None:
        """Return the converted column; None for one that stays as it is."""
        column, result = col(name), converted(dtype)
        match conversion(got, dtype):
            case "none":
                return None
            case "cast":
                return column.cast(result)
            case "NaN to null":
                changed = column if got == dtype else column.cast(dtype)
                if name not in self.nan_columns:
                    return changed.fill_nan(None)
                return None if got == dtype else changed
            case "text":
                return column.cast(pl.String)
            case "known category":  # one that training did not see is missing
                return column.cast(pl.String).cast(dtype, strict=False)
            case "true or false":
                return column.cast(pl.String) == "true"
            case "category value":
                return column.cast(pl.String).cast(dtype)
            case None:
                raise SchemaError.dtype(name, type_in_words(dtype), type_in_words(got), where=self.made_at)
            case by_value:
                change = _CHANGES[by_value](name, result, self.made_at)
                return column.map_batches(change, return_dtype=result, is_elementwise=True)


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


class _Elements(_Change):
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
    """Times without a zone for a column with one, or the other way round."""

    def refusal(self, got: Any) -> SchemaError:
        with at(self.made_at):
            return other_zone(self.name, self.dtype, got)


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
        converted = values.cast(self.dtype, strict=False)
        beyond = values.filter(converted.is_null() & values.is_not_null())
        if len(beyond):
            raise SchemaError.dtype(self.name, _range(self.dtype), f"{beyond[0]}", where=self.made_at)
        return converted


class _FixedLengthVectors(_Change):
    """Vectors that came as lists, or sparse ones with numbers of other types, as they do from JSON, rows and batches of NumPy."""

    def change(self, values: pl.Series) -> pl.Series:
        try:
            return values.cast(self.dtype)
        except pl.exceptions.PolarsError:
            raise self.refusal("lists of other lengths or contents") from None


class _Iso(_Change):
    """Dates and times that came as text, or as categories: ISO 8601, as in JSON and CSV."""

    def change(self, values: pl.Series) -> pl.Series:
        read = text_reader(self.dtype)

        def checked(text: str) -> Any:
            try:
                return read(text)
            except ValueError:
                raise self.refusal(repr(text)) from None

        return _by_value(values.cast(pl.String), checked, self.dtype)


class _Midnight(_Change):
    """Dates that came as times, as pandas has them: all at midnight."""

    def change(self, values: pl.Series) -> pl.Series:
        dates = values.dt.date()
        later = values.filter(dates.cast(values.dtype) != values)
        if len(later):
            raise self.refusal(f"the time {later[0]}")
        return dates


def _by_value(values: pl.Series, function: Callable[[Any], Any], dtype: pl.DataType) -> pl.Series:
    """Return the values of a function of Python values, called once for each value that differs."""
    distinct = values.drop_nulls().unique()
    converted = pl.Series([function(value) for value in distinct.to_list()], dtype=dtype)
    return (
        values.replace_strict(distinct, converted, default=None, return_dtype=dtype)
        if len(distinct)
        else values.cast(dtype)
    )


def _range(dtype: pl.DataType) -> str:
    low, high = integer_range(dtype)
    return f"{dtype} (a whole number from {low} to {high})"


_CHANGES: dict[Conversion, type[_Change]] = {
    "all missing": _AllMissing,
    "other zone": _OtherZone,
    "category text": _CategoryText,
    "whole numbers": _IntegersFromFloats,
    "vectors": _FixedLengthVectors,
    "ISO text": _Iso,
    "midnight": _Midnight,
    "elements": _Elements,
}
