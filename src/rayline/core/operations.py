"""Operations: what a fitted stage is made of.

Each operation says what it does twice, with the same bits as the result: as Polars expressions for tables, and as a
plain function of one row (a dict of Python values, changed in place) for serving, where a query engine would cost
more than the work itself. `row()` may return None: single rows then go through Polars as a table of one.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast

import numpy as np
import polars as pl
import polars.selectors as cs

from rayline.core.errors import DataError
from rayline.core.schema import col
from rayline.core.statistics import Statistic

Row: TypeAlias = dict[str, Any]
RowFunction: TypeAlias = Callable[[Row], None]


class Operation(ABC):
    """A row-local change of a table: a value depends on its own row alone."""

    algebra: ClassVar[str] = ""
    """The method of a statistic that follows this operation (`filled`, `affine`); empty when none can."""

    @abstractmethod
    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        """The new or replaced columns, each under its output name, for a table of this schema."""

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        """The same for one row; None when there is no such form."""
        return None

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """The table after this operation. Only operations that remove columns or rows override it."""
        return table.with_columns(self.expressions(table.collect_schema()))

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        """The columns that this makes or changes, each with the columns that its values come from, in order.

        Read off the expressions; an operation with an `apply` of its own says it itself.
        """
        made = self.expressions(schema)
        return {e.meta.output_name(): tuple(dict.fromkeys(e.meta.root_names())) for e in made}

    def elements(self, schema: Mapping[str, pl.DataType]) -> dict[str, Sequence[str]]:
        """The names of the elements of the vectors that this makes, in their order, where they have names."""
        return {}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        """The operations that lead back to a table which had this schema; None when there is no way back.

        What does nothing but add columns is undone by dropping them.
        """
        made, after = self.sources(schema), self.schema_after(schema)
        adds = not any(name in schema for name in made) and all(name in after for name in schema)
        return [Drop(list(made))] if adds else None

    def schema_after(self, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
        """The columns and types after this operation. What is costly to plan overrides it."""
        return dict(self.apply(pl.LazyFrame(schema=pl.Schema(schema))).collect_schema())

    def push(self, statistic: Statistic) -> Statistic:
        """The statistic of the changed column from that of the column before; needs `algebra`."""
        raise NotImplementedError

    @classmethod
    def pushes(cls, statistic: type[Statistic]) -> bool:
        """Whether `push` can follow this statistic."""
        return bool(cls.algebra) and hasattr(statistic, cls.algebra)


@dataclass(frozen=True)
class Fill(Operation):
    """Missing values (null, NaN) become `value`; a numeric column takes the type `dtype` when it is given."""

    column: str
    value: Any
    dtype: pl.DataType | None = None
    algebra: ClassVar[str] = "filled"

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        dtype, column = schema[self.column], col(self.column)
        if self.dtype is not None and dtype != self.dtype:
            column = column.cast(self.dtype)
        elif dtype in (pl.Categorical, pl.Enum):
            column = column.cast(pl.String)
        if (self.dtype or dtype).is_float():
            column = column.fill_nan(None)
        return [column.fill_null(pl.lit(self.value, dtype=self.dtype))]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, value = self.column, self.value
        convert = float if self.dtype is not None and self.dtype.is_float() else None

        def fill(row: Row) -> None:
            x = row[column]
            if x is None or x != x:
                row[column] = value
            elif convert is not None:
                row[column] = convert(x)

        return fill

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return []  # what was filled stays filled

    def push(self, statistic: Statistic) -> Statistic:
        return cast(Statistic, cast(Any, statistic).filled(self.value))


@dataclass(frozen=True)
class Affine(Operation):
    """x becomes (x - shift) / scale + offset, as float64; missing stays missing."""

    column: str
    shift: float
    scale: float
    offset: float = 0.0
    algebra: ClassVar[str] = "affine"

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column).cast(pl.Float64)
        if self.shift:
            x = x - self.shift
        if self.scale != 1.0:
            x = x * (1.0 / self.scale)  # as Polars divides by a constant: said here, so that both forms do it
        return [x + self.offset if self.offset else x]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, shift, factor, offset = self.column, self.shift, 1.0 / self.scale, self.offset

        def affine(row: Row) -> None:
            x = row[column]
            if x is not None:
                x = (float(x) - shift) * factor
                row[column] = x + offset if offset else x

        return affine

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [Affine(self.column, self.offset, 1.0 / self.scale, self.shift)]

    def push(self, statistic: Statistic) -> Statistic:
        return cast(Statistic, cast(Any, statistic).affine(self.shift, self.scale, self.offset))


@dataclass(frozen=True)
class Clip(Operation):
    """x is kept within [low, high]; missing stays missing."""

    column: str
    low: float | None
    high: float | None

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).cast(pl.Float64).clip(self.low, self.high)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, low, high = self.column, self.low, self.high

        def clip(row: Row) -> None:
            x = row[column]
            if x is not None:
                x = float(x)
                x = low if low is not None and x < low else x
                row[column] = high if high is not None and x > high else x

        return clip

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return []  # what was clipped stays clipped


@dataclass(frozen=True)
class Codes:
    """Categories and the code of each: what every encoder that knows its categories shares.

    The code of a category is its place, or what stands at its place in `codes`. A value that is not among them takes
    the code `unknown`, a missing one the code `missing` (unless None is a category); where that is None, the value is
    refused.
    """

    column: str
    categories: Sequence[Any]
    unknown: int | None
    missing: int | None
    stage: str = ""
    codes: Sequence[int] | None = None

    def places(self) -> dict[Any, int]:
        """The code of each category."""
        return dict(
            zip(self.categories, range(len(self.categories)) if self.codes is None else self.codes, strict=True)
        )

    def expression(self, schema: Mapping[str, pl.DataType]) -> pl.Expr:
        """The codes as Int32; -1 for codes below zero."""
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
                known = pl.lit(pl.Series(codes, dtype=pl.Int32)).gather(known)
        elif values:
            known = x.replace_strict(
                _series(values, dtype), pl.Series(codes, dtype=pl.Int32), default=None, return_dtype=pl.Int32
            )
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
        """The code of one value."""
        places = self.places()
        missing, unknown, error = places.pop(None, self.missing), self.unknown, self.error

        def code(value: Any) -> int:
            found = missing if value is None or value != value else places.get(value, unknown)
            if found is None:
                raise error([value])
            return found

        return code

    def error(self, values: Sequence[Any]) -> DataError:
        """The refusal of these values."""
        known = f"{len(self.categories)} categories seen in fit"
        return DataError(
            f"Preprocessor.transform: stage {self.stage!r} met values of column {self.column!r} that it does not know.",
            f"Expected one of the {known}; got {list(values)!r}.",
            "let the stage ignore unknown values (handle_unknown), impute missing ones before it, or refit.",
        )


@dataclass(frozen=True)
class _Refuse:
    """Raises for codes of -1 whose value is unknown or missing, whichever is not allowed."""

    codes: Codes
    unknown: bool
    missing: bool

    def __call__(self, rows: pl.Series) -> pl.Series:
        codes, values = rows.struct.field("code"), rows.struct.field("value")
        bad = (codes == -1) & ((values.is_null() & self.missing) | (values.is_not_null() & self.unknown))
        if bad.any():
            raise self.codes.error(values.filter(bad).unique(maintain_order=True).head(5).to_list())
        return codes


def _plain(dtype: pl.DataType) -> pl.DataType:
    return pl.String() if dtype in (pl.Categorical, pl.Enum) else dtype


def _series(values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    """Categories as a series that a column of this type can be compared with."""
    try:
        return pl.Series(values, dtype=dtype)
    except (TypeError, pl.exceptions.PolarsError):  # given by the user in another type
        return pl.Series(values)


@dataclass(frozen=True)
class OneHot(Operation):
    """One 0/1 column (UInt8) for each output; `outputs[code]` is None where a code has no column of its own.

    The source column goes away. Values with a code beyond the outputs, or with none, get zeros everywhere.
    """

    codes: Codes
    outputs: Sequence[str | None]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps, see apply

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        column, temporary = self.codes.column, f"{self.codes.column}\x00code"
        code = col(temporary)
        # Comparing small integers is many times faster than comparing the strings once per category.
        return (
            table.with_columns(self.codes.expression(table.collect_schema()).alias(temporary))
            .drop(cs.by_name(column))
            .with_columns(
                (code == i).cast(pl.UInt8).alias(name) for i, name in enumerate(self.outputs) if name is not None
            )
            .drop(temporary)
        )

    def schema_after(self, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
        kept = {name: dtype for name, dtype in schema.items() if name != self.codes.column}
        return kept | {name: pl.UInt8() for name in self.outputs if name is not None}

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
        # Several categories in one column cannot be told apart; the one without a column is where all others are 0.
        alone = [categories[0] if len(categories) == 1 else None for _, categories in sorted(by_code.items())]
        named = {name: value for name, value in zip(self.outputs, alone, strict=True) if name is not None}
        rest = next((value for name, value in zip(self.outputs, alone, strict=True) if name is None), None)
        column = self.codes.column
        return [Choose(column, list(named), list(named.values()), rest, _plain(schema[column]))]


@dataclass(frozen=True)
class MapCodes(Operation):
    """Each value becomes the number that stands at its code in `values`; None there is null."""

    codes: Codes
    values: Sequence[float | None] | None = None  # None: the code itself
    dtype: pl.DataType = pl.Float64()  # noqa: RUF009  # Polars types are immutable
    output: str | None = None

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        code = self.codes.expression(schema)
        if self.values is None:
            result = code.cast(self.dtype)
        else:
            others = [i for i, value in enumerate(self.values) if value != i]
            ends = [self.codes.unknown, self.codes.missing]
            if len(others) <= 2 and all(end is None or 0 <= end < len(self.values) for end in ends):
                # Places in ascending order, as ordinal codes are: a look-up of each row would cost more than all the rest.
                result = code.cast(self.dtype)
                for i in others:
                    result = pl.when(code == i).then(pl.lit(self.values[i], dtype=self.dtype)).otherwise(result)
            else:
                values = pl.Series(self.values, dtype=self.dtype)
                result = code.replace_strict(range(len(values)), values, default=None, return_dtype=self.dtype)
        return [result.alias(self.output or self.codes.column)]

    def schema_after(self, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
        return {**schema, self.output or self.codes.column: self.dtype}

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
        given = [code if self.values is None else self.values[code] for code in places.values()]
        if self.output not in (None, column) or given != list(places.values()) or len(set(given)) < len(given):
            return None  # the numbers are no places: two categories may share one
        return [Look(column, [float(code) for code in places.values()], list(places), _plain(schema[column]))]


@dataclass(frozen=True)
class Choose(Operation):
    """The way back from 0/1 columns: the value of the largest one, or `rest` where all are 0; missing where one is."""

    output: str
    columns: Sequence[str]
    values: Sequence[Any]
    rest: Any
    dtype: pl.DataType

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # two steps, see apply

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        if not self.columns:
            return table.with_columns(pl.lit(self.rest, dtype=self.dtype).alias(self.output))
        temporary = f"{self.output}\x00chosen"
        row = pl.struct(col(name).cast(pl.Float64).alias(str(i)) for i, name in enumerate(self.columns))
        code = row.map_batches(self._places, return_dtype=pl.Int32, is_elementwise=True)
        values = pl.lit(pl.Series([*self.values, self.rest], dtype=self.dtype))
        table = table.with_columns(code.alias(temporary)).drop(cs.by_name(*self.columns))
        return table.with_columns(values.gather(col(temporary)).alias(self.output)).drop(temporary)

    def _places(self, rows: pl.Series) -> pl.Series:
        """The place of the largest number of each row, of equal ones the first; behind the last where none is above 0."""
        place, largest = np.full(len(rows), len(self.columns), dtype=np.int32), np.zeros(len(rows))
        missing = np.zeros(len(rows), dtype=bool)
        for i, column in enumerate(rows.struct.unnest().iter_columns()):
            x = column.to_numpy()  # missing is NaN, which is larger than nothing
            place[x > largest] = i
            largest = np.fmax(largest, x)
            missing |= np.isnan(x)
        return pl.Series(rows.name, place).set(pl.Series(missing), None)

    def schema_after(self, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
        kept = {name: dtype for name, dtype in schema.items() if name not in self.columns}
        return kept | {self.output: self.dtype}

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.output: tuple(self.columns)}


@dataclass(frozen=True)
class Look(Operation):
    """Each number becomes the value that stands beside it, of the type `dtype`; a number that does not is missing."""

    column: str
    numbers: Sequence[float]
    values: Sequence[Any]
    dtype: pl.DataType

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column).cast(pl.Float64)
        numbers, values = pl.Series(self.numbers, dtype=pl.Float64), pl.Series(self.values, dtype=self.dtype)
        return [x.replace_strict(numbers, values, default=None, return_dtype=self.dtype)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, known = self.column, dict(zip(self.numbers, self.values, strict=True))

        def look(row: Row) -> None:
            row[column] = known.get(row[column])

        return look

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}


@dataclass(frozen=True)
class Drop(Operation):
    """These columns go away."""

    columns: Sequence[str]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return []

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        return table.drop(cs.by_name(*self.columns)) if self.columns else table

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        columns = list(self.columns)

        def drop(row: Row) -> None:
            for column in columns:
                row.pop(column, None)

        return drop

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [Blank({name: schema[name] for name in self.columns if name in schema})]


@dataclass(frozen=True)
class Blank(Operation):
    """Columns of these types without a value: the way back from columns that went away."""

    columns: Mapping[str, pl.DataType]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [pl.lit(None, dtype=dtype).alias(name) for name, dtype in self.columns.items()]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        nothing = dict.fromkeys(self.columns)
        return lambda row: row.update(nothing)

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.columns, ())


def apply_all(operations: Sequence[Operation], table: pl.LazyFrame) -> pl.LazyFrame:
    """The table after all the operations, in order.

    Neighbours that do not read what the others write become one step of the query: it is planned faster and runs at once.
    """
    schema = dict(table.collect_schema())
    fuse = all(
        name.isprintable() and name[:1] not in "*^" for name in schema if name
    )  # else Polars cannot say what is read
    step: dict[str, pl.Expr] = {}
    for operation in operations:
        if not fuse or type(operation).apply is not Operation.apply:
            table, step = operation.apply(table.with_columns(**step) if step else table), {}
            schema = dict(table.collect_schema()) if not fuse else operation.schema_after(schema)
            continue
        expressions = operation.expressions(schema)
        reads = {name for expression in expressions for name in expression.meta.root_names()}
        made = {expression.meta.output_name(): expression for expression in expressions}
        if step.keys() & (reads | made.keys()):
            table, step = table.with_columns(**step), {}
        step |= made
        schema |= pl.LazyFrame(schema={name: schema[name] for name in reads}).select(**made).collect_schema()
    return table.with_columns(**step) if step else table


def schema_after(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """The columns and types after all the operations."""
    after = dict(schema)
    for operation in operations:
        after = operation.schema_after(after)
    return after


def row_function(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> RowFunction | None:
    """All the operations as one function of a row; None when one of them has no such form."""
    functions: list[RowFunction] = []
    for operation in operations:
        function = operation.row(schema)
        if function is None:
            return None
        functions.append(function)
        schema = operation.schema_after(schema)

    def run(row: Row) -> None:
        for function in functions:
            function(row)

    return run
