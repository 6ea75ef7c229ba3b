"""Categories and their codes as operations: from a category to a code, a number or 0/1 columns, and back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from rayline.core.errors import DataError, counted
from rayline.core.operations.base import Changes, ColumnOperation, Operation, Row, RowFunction, Step
from rayline.core.schema import col, is_category, map_values


@dataclass(frozen=True)
class CategoryCodes:
    """Categories and the code of each: what every encoder that knows its categories shares.

    The code of a category is its position, or the entry of `codes` at that position. A value that is not among them takes
    the code `unknown`, a missing one the code `missing` (unless None is a category); where that is None, the value is
    refused.
    """

    column: str
    categories: Sequence[Any]
    unknown: int | None
    missing: int | None
    stage: str = ""
    codes: Sequence[int] | None = None
    hint: str = "let the stage ignore unknown values (handle_unknown), impute missing ones before it, or refit."

    def places(self) -> dict[Any, int]:
        """Return the code of each category."""
        return dict(
            zip(self.categories, range(len(self.categories)) if self.codes is None else self.codes, strict=True)
        )

    def expression(self, schema: Mapping[str, pl.DataType]) -> pl.Expr:
        """Return the codes as Int32; -1 for codes below zero."""
        dtype = schema[self.column]
        if dtype not in self._expressions:  # of many categories it is costly to make, and a worker has many blocks
            self._expressions[dtype] = self._expression(dtype)
        return self._expressions[dtype]

    @functools.cached_property
    def _expressions(self) -> dict[pl.DataType, pl.Expr]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_expressions"}

    def _expression(self, dtype: pl.DataType) -> pl.Expr:
        x = col(self.column)
        if dtype.is_float():
            x = x.fill_nan(None)
        places = self.places()
        missing = places.pop(None, self.missing)
        values, codes = list(places), list(places.values())
        if values and isinstance(values[0], str):
            x = x.cast(pl.String)
            known = x.cast(pl.Enum(values), strict=False).to_physical().cast(pl.Int32)
            if codes != list(range(len(values))):
                known = gather(pl.Series(codes, dtype=pl.Int32), known)
        elif values:
            known = replace(x, _series(values, dtype), pl.Series(codes, dtype=pl.Int32))
        else:
            known = pl.when(x.is_null()).then(None).otherwise(None).cast(pl.Int32)
        result = known.fill_null(-1 if self.unknown is None else self.unknown)
        if missing != self.unknown:
            result = pl.when(x.is_null()).then(-1 if missing is None else missing).otherwise(result)
        if self.unknown is None or missing is None:
            refuse = _Refuse(self, unknown=self.unknown is None, missing=missing is None)
            result = pl.struct(code=result, value=x).map_batches(refuse, return_dtype=pl.Int32)
        return result.cast(pl.Int32)

    def lookup(self) -> Callable[[Any], int]:
        """Return the code of one value."""
        places = self.places()
        missing, unknown, error = places.pop(None, self.missing), self.unknown, self.error

        def code(value: Any) -> int:
            code_of_value = missing if value is None or value != value else places.get(value, unknown)
            if code_of_value is None:
                raise error([value])
            return code_of_value

        return code

    def error(self, values: Sequence[Any]) -> DataError:
        """Return the refusal of these values."""
        known = f"{counted(len(self.categories), 'category')} seen in fit"
        return DataError(
            f"Preprocessor.transform: stage {self.stage!r} got unknown values in column {self.column!r}.",
            f"Expected one of the {known}; got {list(values)!r}.",
            self.hint,
        )


@dataclass(frozen=True)
class _Refuse:
    """Raises for codes of -1 of unknown or missing values, unless these are allowed."""

    codes: CategoryCodes
    unknown: bool
    missing: bool

    def __call__(self, rows: pl.Series) -> pl.Series:
        codes, values = rows.struct.field("code"), rows.struct.field("value")
        bad = (codes == -1) & ((values.is_null() & self.missing) | (values.is_not_null() & self.unknown))
        if bad.any():
            raise self.codes.error(values.filter(bad).unique(maintain_order=True).head(5).to_list())
        return codes


_SMALL = 10_000


def gather(values: pl.Series, places: pl.Expr) -> pl.Expr:
    """Return the value at each place; null where the place is missing, or where there is none.

    A function of batches, as is `replace`: the streaming engine joins the whole column for its own look-ups, each a query of its
    own, so that a thousand columns cost a hundred times what ten do.
    """
    return map_values(places, functools.partial(_gather, values), values.dtype)


def _gather(values: pl.Series, places: pl.Series) -> pl.Series:
    known = places.is_between(0, len(values) - 1)
    return values.gather(places.zip_with(known.fill_null(False), pl.Series([None], dtype=places.dtype)))


def replace(x: pl.Expr, old: pl.Series, new: pl.Series) -> pl.Expr:
    """Map each value of `old` to the corresponding value of `new`; other values to null."""
    if len(old) > _SMALL:  # a batch would take longer to make the table of values than to look them up
        return x.replace_strict(old, new, default=None, return_dtype=new.dtype)
    return map_values(x, functools.partial(_replace, old, new), new.dtype)


def _replace(old: pl.Series, new: pl.Series, x: pl.Series) -> pl.Series:
    return x.replace_strict(old, new, default=None, return_dtype=new.dtype)


def _plain(dtype: pl.DataType) -> pl.DataType:
    return pl.String() if is_category(dtype) else dtype


def _series(values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Categories as a series that a column of this type can be compared with."""
    try:
        return pl.Series(values, dtype=dtype)
    except (TypeError, pl.exceptions.PolarsError):  # given by the user in another type
        return pl.Series(values)


@dataclass(frozen=True)
class OneHot(Operation):
    """One 0/1 column (UInt8) for each output; `outputs[code]` is None where a code has no column of its own.

    The source column is removed. Values with a code beyond the outputs, or with none, get zeros everywhere.
    """

    codes: CategoryCodes
    outputs: Sequence[str | None]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps

    def steps(self, schema: Mapping[str, pl.DataType]) -> list[Step]:
        column, temporary = self.codes.column, f"{self.codes.column}\x00code"
        code = col(temporary)
        # Comparing small integers is many times faster than comparing the strings once per category.
        columns = [(code == i).cast(pl.UInt8).alias(name) for i, name in enumerate(self.outputs) if name is not None]
        return [Step([self.codes.expression(schema).alias(temporary)], [column]), Step(columns, [temporary])]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes(
            dict.fromkeys((name for name in self.outputs if name is not None), pl.UInt8()), [self.codes.column]
        )

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, lookup, outputs = self.codes.column, self.codes.lookup(), list(self.outputs)
        zeros = {name: 0 for name in outputs if name is not None}

        def one_hot(row: Row) -> None:
            code = lookup(row.pop(column))
            row.update(zeros)
            name = outputs[code] if 0 <= code < len(outputs) else None
            if name is not None:
                row[name] = 1

        return one_hot

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {name: (self.codes.column,) for name in self.outputs if name is not None}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        by_code: dict[int, list[Any]] = {}
        for category, code in self.codes.places().items():
            by_code.setdefault(code, []).append(category)
        # Several categories in one column cannot be distinguished; the one without a column is where all others are 0.
        alone = [categories[0] if len(categories) == 1 else None for _, categories in sorted(by_code.items())]
        named = {name: value for name, value in zip(self.outputs, alone, strict=True) if name is not None}
        rest = next((value for name, value in zip(self.outputs, alone, strict=True) if name is None), None)
        column = self.codes.column
        return [LargestCategory(column, list(named), list(named.values()), rest, _plain(schema[column]))]


@dataclass(frozen=True)
class MapCodes(Operation):
    """Replaces each value by the entry of `values` at its code; None becomes null."""

    codes: CategoryCodes
    values: Sequence[float | None] | None = None  # None: the code itself
    dtype: pl.DataType = pl.Float64()  # noqa: RUF009  # Polars types are immutable
    output: str | None = None

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        code = self.codes.expression(schema)
        if self.values is None:
            result = code.cast(self.dtype)
        else:
            others = self._others
            ends = [self.codes.unknown, self.codes.missing]
            if len(others) <= 2 and all(end is None or 0 <= end < len(self.values) for end in ends):
                # Places in ascending order, as ordinal codes are: a look-up of each row would cost more than all the rest.
                result = code.cast(self.dtype)
                for i in others:
                    result = pl.when(code == i).then(pl.lit(self.values[i], dtype=self.dtype)).otherwise(result)
            else:
                result = gather(pl.Series(self.values, dtype=self.dtype), code)
        return [result.alias(self.output or self.codes.column)]

    @functools.cached_property
    def _others(self) -> list[int]:
        """The codes whose value is another number: there may be many codes, and a worker has many blocks."""
        return [i for i, value in enumerate(self.values or ()) if value != i]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_others"}

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({self.output or self.codes.column: self.dtype})

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, output, lookup = self.codes.column, self.output or self.codes.column, self.codes.lookup()
        values = list(self.values) if self.values is not None else None
        number = float if self.dtype.is_float() else int

        def map_codes(row: Row) -> None:
            code = lookup(row[column])
            if values is None:
                row[output] = number(code)
            else:
                value = values[code] if 0 <= code < len(values) else None
                row[output] = None if value is None else number(value)

        return map_codes

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output or self.codes.column: (self.codes.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        column, places = self.codes.column, self.codes.places()
        numbers = [code if self.values is None else self.values[code] for code in places.values()]
        if self.output not in (None, column) or numbers != list(places.values()) or len(set(numbers)) < len(numbers):
            return None  # the numbers are no places: two categories may share one
        return [MapValues(column, [float(code) for code in places.values()], list(places), _plain(schema[column]))]


@dataclass(frozen=True)
class LargestCategory(Operation):
    """The inverse of 0/1 columns: the value of the largest one, or `rest` if all are 0; missing if one is missing."""

    output: str
    columns: Sequence[str]
    values: Sequence[Any]
    rest: Any
    dtype: pl.DataType

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps

    def steps(self, schema: Mapping[str, pl.DataType]) -> list[Step]:
        if not self.columns:
            return [Step([pl.lit(self.rest, dtype=self.dtype).alias(self.output)])]
        temporary = f"{self.output}\x00chosen"
        row = pl.struct(col(name).cast(pl.Float64).alias(str(i)) for i, name in enumerate(self.columns))
        code = row.map_batches(self._places, return_dtype=pl.Int32, is_elementwise=True)
        values = pl.Series([*self.values, self.rest], dtype=self.dtype)
        chosen = gather(values, col(temporary)).alias(self.output)
        return [Step([code.alias(temporary)], self.columns), Step([chosen], [temporary])]

    def _places(self, rows: pl.Series) -> pl.Series:
        """Return the place of the largest number of each row, of equal ones the first; behind the last where none is above 0."""
        place, largest = np.full(len(rows), len(self.columns), dtype=np.int32), np.zeros(len(rows))
        missing = np.zeros(len(rows), dtype=bool)
        for i, column in enumerate(rows.struct.unnest().iter_columns()):
            x = column.to_numpy()  # missing is NaN, which is larger than nothing
            place[x > largest] = i
            largest = np.fmax(largest, x)
            missing |= np.isnan(x)
        return pl.Series(rows.name, place).set(pl.Series(missing), None)

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({self.output: self.dtype}, self.columns)

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output: tuple(self.columns)}


@dataclass(frozen=True)
class MapValues(ColumnOperation):
    """Replaces each number by its assigned value, of the type `dtype`; other numbers become missing."""

    numbers: Sequence[float]
    values: Sequence[Any]
    dtype: pl.DataType

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column).cast(pl.Float64)
        numbers, values = pl.Series(self.numbers, dtype=pl.Float64), pl.Series(self.values, dtype=self.dtype)
        return [replace(x, numbers, values)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, known = self.column, dict(zip(self.numbers, self.values, strict=True))

        def look(row: Row) -> None:
            row[column] = known.get(row[column])

        return look
