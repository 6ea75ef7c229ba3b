"""Operations: what a fitted stage is made of.

Each operation says what it does twice, with the same bits as the result: as Polars expressions for tables, and as a
plain function of one row (a dict of Python values, changed in place) for serving, where a query engine would cost
more than the work itself. `row()` may return None: single rows then go through Polars as a table of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeAlias, cast

import polars as pl
import polars.selectors as cs

from rayline.core.schema import col, is_category
from rayline.core.statistics.base import Statistic

Row: TypeAlias = dict[str, Any]
RowFunction: TypeAlias = Callable[[Row], None]


class Changes(NamedTuple):
    """The changes of an operation to a schema: columns are removed, then columns get a type; new ones are appended."""

    outputs: Mapping[str, pl.DataType]
    removed: Sequence[str] = ()

    def update(self, schema: dict[str, pl.DataType]) -> None:
        """Change a schema in place."""
        for name in self.removed:
            schema.pop(name, None)
        schema.update(self.outputs)


class Step(NamedTuple):
    """Columns that are computed at once from the columns before the step, and columns that are removed afterwards."""

    expressions: Sequence[pl.Expr]
    removed: Sequence[str] = ()

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """Return the table after this step."""
        table = table.with_columns(self.expressions) if self.expressions else table
        return table.drop(cs.by_name(*self.removed)) if self.removed else table


class Operation(ABC):
    """A row-local change of a table: a value depends on its own row alone."""

    algebra: ClassVar[str] = ""
    """The method of a statistic that follows this operation (`filled`, `affine`); empty when none can."""

    @abstractmethod
    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        """Return the new or replaced columns, each under its output name, for a table of this schema."""

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        """Return the same for one row; None when there is no such form."""
        return None

    def steps(self, schema: Mapping[str, pl.DataType]) -> list[Step]:
        """Return the same, step by step. Only operations that remove columns, or that take several steps, override it."""
        return [Step(self.expressions(schema))]

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        """Return the table after this operation. Only operations that are no steps, as what changes rows is none, override it:
        they end a layer of the query (`apply_all`), so that a stage should not have one for each of many columns."""
        for step in self.steps(table.collect_schema()):
            table = step.apply(table)
        return table

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        """Return the columns that this makes or changes, each with the columns that its values come from, in order.

        Read off the expressions; an operation with an `apply` of its own says it itself.
        """
        expressions = self.expressions(schema)
        return {e.meta.output_name(): tuple(dict.fromkeys(e.meta.root_names())) for e in expressions}

    def elements(self, schema: Mapping[str, pl.DataType]) -> dict[str, Sequence[str]]:
        """Return the names of the elements of the vectors that this makes, in their order, where they have names."""
        return {}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        """Return the inverse operations, which restore a table with this schema; None when there is no inverse.

        What does nothing but add columns is undone by dropping them.
        """
        sources, after = self.sources(schema), self.schema_after(schema)
        adds = not any(name in schema for name in sources) and all(name in after for name in schema)
        return [Drop(list(sources))] if adds else None

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        """Return which columns this adds or changes, with their types, and which it removes.

        Planned by Polars on the columns that it reads, so that the cost does not grow with the width of the table; an operation
        that is used for many columns says it itself.
        """
        try:
            names = dict.fromkeys(name for output, inputs in self.sources(schema).items() for name in (*inputs, output))
            return self._planned({name: schema[name] for name in names if name in schema})
        except (pl.exceptions.PolarsError, KeyError):  # it reads undeclared columns, as operations that change rows do
            return self._planned(schema)

    def _planned(self, schema: Mapping[str, pl.DataType]) -> Changes:
        after = dict(self.apply(pl.LazyFrame(schema=pl.Schema(schema))).collect_schema())
        kept = [name for name in schema if name in after]
        if list(after)[: len(kept)] != kept:  # some were removed and appended again
            return Changes(after, list(schema))
        return Changes({n: d for n, d in after.items() if schema.get(n) != d}, [n for n in schema if n not in after])

    def schema_after(self, schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
        """Return the columns and types after this operation."""
        return schema_after([self], schema)

    def push(self, statistic: Statistic) -> Statistic:
        """Return the statistic of the changed column from that of the column before; needs `algebra`."""
        raise NotImplementedError

    @classmethod
    def pushes(cls, statistic: type[Statistic]) -> bool:
        """Whether `push` can follow this statistic."""
        return bool(cls.algebra) and hasattr(statistic, cls.algebra)


@dataclass(frozen=True)
class ColumnOperation(Operation):
    """A change of one column, from its own values."""

    column: str
    stays: ClassVar[bool] = False
    """Whether the inverse leaves the column unchanged: lost values are not restored, and the others were not changed."""

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [] if self.stays else None


@dataclass(frozen=True)
class Fill(ColumnOperation):
    """Missing values (null, NaN) become `value`; a numeric column takes the type `dtype` when it is given."""

    stays: ClassVar = True  # what was filled stays filled
    value: Any
    dtype: pl.DataType | None = None
    algebra: ClassVar[str] = "filled"

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        dtype, column = schema[self.column], col(self.column)
        if self.dtype is not None and dtype != self.dtype:
            column = column.cast(self.dtype)
        elif is_category(dtype):
            column = column.cast(pl.String)
        if (self.dtype or dtype).is_float():
            column = column.fill_nan(None)
        return [column.fill_null(pl.lit(self.value, dtype=self.dtype))]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return super().changes(schema) if self.dtype is None else Changes({self.column: self.dtype})

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

    def push(self, statistic: Statistic) -> Statistic:
        return cast(Statistic, cast(Any, statistic).filled(self.value))


@dataclass(frozen=True)
class Affine(ColumnOperation):
    """x becomes (x - shift) / scale + offset, as float64; missing stays missing."""

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

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({self.column: pl.Float64()})

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, shift, factor, offset = self.column, self.shift, 1.0 / self.scale, self.offset

        def affine(row: Row) -> None:
            x = row[column]
            if x is not None:
                x = (float(x) - shift) * factor
                row[column] = x + offset if offset else x

        return affine

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [Affine(self.column, self.offset, 1.0 / self.scale, self.shift)]

    def push(self, statistic: Statistic) -> Statistic:
        return cast(Statistic, cast(Any, statistic).affine(self.shift, self.scale, self.offset))


@dataclass(frozen=True)
class ClipColumn(ColumnOperation):
    """x is kept within [low, high]; missing stays missing."""

    stays: ClassVar = True  # what was clipped stays clipped
    low: float | None
    high: float | None

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).cast(pl.Float64).clip(self.low, self.high)]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({self.column: pl.Float64()})

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, low, high = self.column, self.low, self.high

        def clip(row: Row) -> None:
            x = row[column]
            if x is not None:
                x = float(x)
                x = low if low is not None and x < low else x
                row[column] = high if high is not None and x > high else x

        return clip


@dataclass(frozen=True)
class Drop(Operation):
    """Removes columns."""

    columns: Sequence[str]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return []

    def steps(self, schema: Mapping[str, pl.DataType]) -> list[Step]:
        return [Step([], self.columns)]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({}, self.columns)

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        columns = list(self.columns)

        def drop(row: Row) -> None:
            for column in columns:
                row.pop(column, None)

        return drop

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return [AddNullColumns({name: schema[name] for name in self.columns if name in schema})]


@dataclass(frozen=True)
class AddNullColumns(Operation):
    """Adds columns of these types with nulls: the inverse of removing columns."""

    columns: Mapping[str, pl.DataType]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [pl.lit(None, dtype=dtype).alias(name) for name, dtype in self.columns.items()]

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes(self.columns)

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        nothing = dict.fromkeys(self.columns)
        return lambda row: row.update(nothing)

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.columns, ())

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        new = [name for name in self.columns if name not in schema]
        return [Drop(new)] if new else []  # what was there stays without values


class _Layers:
    """Steps of a query, each placed in the earliest layer after everything that it depends on.

    A layer is one `with_columns`: a query of a few wide layers is planned in linear time and runs at once, one of a layer a
    column is planned by the square of the columns.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = list(names)
        self._expressions: list[dict[str, pl.Expr]] = [{}]
        self._removed: list[list[str]] = [[]]
        self._changed: dict[str, int] = {}  # the layer that made, changed or removed a column last; 0 without one
        self._read: dict[str, int] = {}  # the last layer that reads it

    def add(self, step: Step) -> None:
        expressions = {expression.meta.output_name(): expression for expression in step.expressions}
        if expressions:
            reads = {name for expression in step.expressions for name in expression.meta.root_names()}
            # Behind the layer that it reads from; what it replaces may be read in the same layer, as it was before.
            layer = 1 + max(self._changed.get(name, 0) for name in reads | expressions.keys())
            layer = max(layer, *(self._read.get(name, 0) for name in expressions))
            if layer == len(self._expressions):
                self._expressions.append({})
                self._removed.append([])
            self._expressions[layer] |= expressions
            self._changed |= dict.fromkeys(expressions, layer)
            self._read |= {name: max(layer, self._read.get(name, 0)) for name in reads}
        for name in step.removed:
            # Not before the first layer: a table that has lost all its columns has lost its rows.
            layer = max(self._changed.get(name, 0), self._read.get(name, 0), min(1, len(self._expressions) - 1))
            self._removed[layer].append(name)
            self._changed[name] = layer

    def apply(self, table: pl.LazyFrame, order: Iterable[str]) -> pl.LazyFrame:
        """Return the table after all the steps, its columns in this order."""
        names, order = dict.fromkeys(self._names), list(order)
        for expressions, removed in zip(self._expressions, self._removed, strict=True):
            table = Step(list(expressions.values()), removed).apply(table)
            names |= dict.fromkeys(expressions)
            for name in removed:
                names.pop(name, None)
        return table if list(names) == order else table.select(map(col, order))


def apply_all(operations: Sequence[Operation], table: pl.LazyFrame) -> pl.LazyFrame:
    """Return the table after all the operations, in order.

    Steps that do not depend on each other become one step of the query: it is planned faster and runs at once.
    """
    schema = dict(table.collect_schema())
    if not all(name.isprintable() and name[:1] not in "*^" for name in schema if name):
        for operation in operations:  # one by one: Polars cannot say what is read
            table = operation.apply(table)
        return table
    layers = _Layers(schema)
    for operation in operations:
        overrides_apply = type(operation).apply is not Operation.apply
        if overrides_apply:
            table = operation.apply(layers.apply(table, schema))
        else:
            for step in operation.steps(schema):
                layers.add(step)
        operation.changes(schema).update(schema)
        if overrides_apply:
            layers = _Layers(schema)
    return layers.apply(table, schema)


def schema_after(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> dict[str, pl.DataType]:
    """Return the columns and types after all the operations."""
    after = dict(schema)
    for operation in operations:
        operation.changes(after).update(after)
    return after


def row_function(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> RowFunction | None:
    """All the operations as one function of a row; None when one of them has no such form."""
    functions: list[RowFunction] = []
    schema = dict(schema)
    for operation in operations:
        function = operation.row(schema)
        if function is None:
            return None
        functions.append(function)
        operation.changes(schema).update(schema)

    def run(row: Row) -> None:
        for function in functions:
            function(row)

    return run
