"""Formulas as data: a small language of JSON lists with two executors, Polars for tables and plain Python for a row.

A formula is a number, a string, a boolean, None, `["col", name]`, or a list of a function's name and its arguments:
`["/", ["col", "distance"], ["+", ["col", "hours"], 1]]`. There is nothing in it that could carry code, so it may come
from a file. Arithmetic is in float64; a missing argument makes the result missing, and so does 0/0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from rayline.core.errors import ParameterError, SchemaError, at, place
from rayline.core.operations.base import Changes, Operation, Row, RowFunction
from rayline.core.schema import Kind, col, is_category, kind_of

Formula: TypeAlias = Any
"""A number, a string, a boolean, None, or a list of a function's name and its arguments."""

FormulaLike: TypeAlias = pl.Expr | Sequence[Any] | str | bool | float
"""What a user writes: an expression of Polars, or a formula as a list."""

MAX_DEPTH = 100
"""How deep a formula may be nested."""


class Function(NamedTuple):
    """A function of the language: the kinds of its arguments and of its result, and how each executor does it."""

    takes: tuple[str, ...]  # "n" a number, "b" a boolean, "s" a string, "a" anything
    gives: str  # as above; "=" the kind of the last argument
    table: Callable[..., pl.Expr]
    row: Callable[..., Any]
    strict: bool = True  # whether a missing argument makes the result missing


def _divide(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if not a or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _total(function: Callable[[float], float], beyond: Callable[[float], float]) -> Callable[[float], float]:
    """Return a function of `math` that answers as IEEE 754 does where `math` raises."""

    def call(x: float) -> float:
        try:
            return function(x)
        except (ValueError, OverflowError):
            return beyond(x)

    return call


def _power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except ValueError:
        return math.inf if a == 0 else math.nan
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf


def _floor(x: float) -> float:
    return float(math.floor(x)) if math.isfinite(x) else x


def _and(a: bool | None, b: bool | None) -> bool | None:
    return False if a is False or b is False else None if a is None or b is None else True


def _or(a: bool | None, b: bool | None) -> bool | None:
    return True if a is True or b is True else None if a is None or b is None else False


FUNCTIONS: dict[str, Function] = {
    "+": Function(("n", "n"), "n", lambda a, b: a + b, lambda a, b: a + b),
    "-": Function(("n", "n"), "n", lambda a, b: a - b, lambda a, b: a - b),
    "*": Function(("n", "n"), "n", lambda a, b: a * b, lambda a, b: a * b),
    "/": Function(("n", "n"), "n", lambda a, b: a / b, _divide),
    "**": Function(("n", "n"), "n", lambda a, b: a.pow(b), _power),
    "abs": Function(("n",), "n", lambda a: a.abs(), abs),
    "max": Function(
        ("n", "n"), "n", lambda a, b: pl.when(a >= b).then(a).when(b > a).then(b), lambda a, b: a if a >= b else b
    ),
    "sqrt": Function(("n",), "n", lambda a: a.sqrt(), _total(math.sqrt, lambda x: math.nan)),
    "log": Function(("n",), "n", lambda a: a.log(), _total(math.log, lambda x: -math.inf if x == 0 else math.nan)),
    "log1p": Function(
        ("n",), "n", lambda a: a.log1p(), _total(math.log1p, lambda x: -math.inf if x == -1 else math.nan)
    ),
    "exp": Function(("n",), "n", lambda a: a.exp(), _total(math.exp, lambda x: math.inf)),
    "sin": Function(("n",), "n", lambda a: a.sin(), _total(math.sin, lambda x: math.nan)),
    "cos": Function(("n",), "n", lambda a: a.cos(), _total(math.cos, lambda x: math.nan)),
    "floor": Function(("n",), "n", lambda a: a.floor(), _floor),
    "==": Function(("a", "a"), "b", lambda a, b: a == b, lambda a, b: a == b),
    "!=": Function(("a", "a"), "b", lambda a, b: a != b, lambda a, b: a != b),
    "<": Function(("a", "a"), "b", lambda a, b: a < b, lambda a, b: a < b),
    "<=": Function(("a", "a"), "b", lambda a, b: a <= b, lambda a, b: a <= b),
    ">": Function(("a", "a"), "b", lambda a, b: a > b, lambda a, b: a > b),
    ">=": Function(("a", "a"), "b", lambda a, b: a >= b, lambda a, b: a >= b),
    "and": Function(("b", "b"), "b", lambda a, b: a & b, _and, strict=False),
    "or": Function(("b", "b"), "b", lambda a, b: a | b, _or, strict=False),
    "not": Function(("b",), "b", lambda a: ~a, lambda a: not a),
    "is_null": Function(("a",), "b", lambda a: a.is_null(), lambda a: a is None, strict=False),
    "number": Function(("n",), "n", lambda a: a.cast(pl.Float64), float),  # -0.0 stays what it is
    "fill": Function(("a", "a"), "=", pl.coalesce, lambda a, b: b if a is None else a, strict=False),
    "if": Function(
        ("b", "a", "a"),
        "=",
        lambda a, b, c: pl.when(a).then(b).otherwise(c),
        lambda a, b, c: b if a else c,
        strict=False,
    ),
}

_CLEAN = {
    "**",
    "max",
    "==",
    "!=",
    "<",
    "<=",
    ">",
    ">=",
    "is_null",
    "fill",
    "if",
}  # where NaN must have become missing before
_COMPARE = {"==", "!=", "<", "<=", ">", ">="}


def check(formula: Formula, *, depth: int = 0) -> None:
    """Raise ParameterError when this is not a formula."""
    if depth > MAX_DEPTH:
        raise ParameterError.value("formula", f"at most {MAX_DEPTH} levels", "more")
    if formula is None or (isinstance(formula, (bool, int, float, str)) and formula == formula):
        return
    if isinstance(formula, (list, tuple)) and formula and isinstance(formula[0], str):
        name, *arguments = formula
        if name == "col":
            if len(arguments) == 1 and isinstance(arguments[0], str):
                return
            raise ParameterError.value("formula", '["col", name]', formula)
        if name not in FUNCTIONS:
            raise ParameterError.unknown([name], ["col", *FUNCTIONS], where=f"{place()}: function")
        if len(arguments) != len(FUNCTIONS[name].takes):
            raise ParameterError.value("formula", f"{len(FUNCTIONS[name].takes)} arguments of {name!r}", formula)
        for argument in arguments:
            check(argument, depth=depth + 1)
        return
    raise ParameterError.value("formula", 'a number, a string, ["col", name] or [function, argument, …]', formula)


def columns_of(formula: Formula) -> list[str]:
    """Return the columns that a formula reads, in the order in which they occur."""
    if not isinstance(formula, (list, tuple)):
        return []
    if formula[0] == "col":
        return [formula[1]]
    return list(dict.fromkeys(c for argument in formula[1:] for c in columns_of(argument)))


def kind(formula: Formula, schema: Mapping[str, pl.DataType]) -> str:
    """Return what a formula gives: "n" a number, "b" a boolean, "s" a string, "?" nothing but missing values.

    Raises SchemaError when a column does not exist, or has a type that a function cannot take.
    """
    if not isinstance(formula, (list, tuple)):
        return (
            "?" if formula is None else "b" if isinstance(formula, bool) else "s" if isinstance(formula, str) else "n"
        )
    name, *arguments = formula
    if name == "col":
        (column,) = arguments
        if column not in schema:
            raise SchemaError.absent([column], schema)
        kinds = {Kind.NUMERIC: "n", Kind.BOOLEAN: "b", Kind.CATEGORY: "s"}
        result_kind = kinds.get(kind_of(schema[column]))
        if result_kind is None:
            raise SchemaError.dtype(column, "a number, a boolean or a string", schema[column])
        return result_kind
    function, kinds_given = FUNCTIONS[name], [kind(argument, schema) for argument in arguments]
    for wanted, actual in zip(function.takes, kinds_given, strict=True):
        if actual not in ("?", wanted) and wanted != "a" and not (wanted == "n" and actual == "b"):
            words = {"n": "a number", "b": "a boolean", "s": "a string"}
            raise SchemaError.here(
                f"{name!r} cannot take {words[actual]}.",
                f"Expected {words[wanted]}; got {formula!r}.",
                "change the formula.",
            )
    same = {k for k in (kinds_given[-2:] if name in _COMPARE | {"fill", "if"} else []) if k != "?"}
    if len(same) > 1:
        raise SchemaError.here(
            f"the arguments of {name!r} differ in type.",
            f"Expected one type; got {formula!r}.",
            "change the formula.",
        )
    return function.gives if function.gives != "=" else next(iter(same), "?")


def _constant_factor(formula: Formula) -> float | None:
    """1/c of a division by a number: Polars multiplies then, and so do we, in both executors."""
    name, *arguments = formula
    if name != "/" or isinstance(arguments[1], (bool, str)) or not isinstance(arguments[1], (int, float)):
        return None
    return _divide(1.0, float(arguments[1]))


def _simplified(formula: Formula) -> Formula:
    """Small powers as products, so that both executors round alike."""
    match formula:
        case ["**", base, int() | float() as p] if not isinstance(p, bool) and float(p).is_integer() and 1 <= p <= 64:
            half = base if p == 1 else ["**", base, int(p) // 2]
            if p == 1:
                return base
            square = ["*", _simplified(half), _simplified(half)]
            return square if int(p) % 2 == 0 else ["*", square, base]
        case ["**", base, 0.5]:
            return ["sqrt", base]
    return formula


def formula_to_polars(formula: Formula, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """Return the formula for tables of this schema; its float results may hold NaN until `Assign` makes that missing."""
    return _polars(formula, schema, number=False)


def _polars(formula: Formula, schema: Mapping[str, pl.DataType], *, number: bool) -> pl.Expr:
    formula = _simplified(formula)
    if not isinstance(formula, (list, tuple)):
        if formula is None:
            return pl.lit(None, dtype=pl.Float64 if number else None)
        return pl.lit(formula if isinstance(formula, (bool, str)) and not number else float(formula))
    name, *arguments = formula
    if name == "col":
        dtype, column = schema[arguments[0]], col(arguments[0])
        if is_category(dtype):
            column = column.cast(pl.String)
        return column.cast(pl.Float64) if (number or dtype.is_numeric()) and dtype != pl.Float64 else column
    function = FUNCTIONS[name]
    factor = _constant_factor(formula)
    if factor is not None:
        return _polars(arguments[0], schema, number=True) * factor
    expressions = [
        _polars(a, schema, number=wanted == "n") for a, wanted in zip(arguments, function.takes, strict=True)
    ]
    if name in _CLEAN:
        expressions = [_clean(e, a, schema) for e, a in zip(expressions, arguments, strict=True)]
    result = function.table(*expressions)
    return result.cast(pl.Float64) if number and function.gives == "b" else result


def _clean(expression: pl.Expr, formula: Formula, schema: Mapping[str, pl.DataType]) -> pl.Expr:
    computed = isinstance(formula, (list, tuple)) and kind(formula, schema) == "n"
    return expression.fill_nan(None) if computed else expression


def to_row(formula: Formula, schema: Mapping[str, pl.DataType]) -> Callable[[Row], Any]:
    """Return the same for one row: a function of it that gives a value, NaN already missing."""
    formula = _simplified(formula)
    if not isinstance(formula, (list, tuple)):
        value = formula if formula is None or isinstance(formula, (bool, str)) else float(formula)
        return lambda row: value
    name, *arguments = formula
    if name == "col":
        return _reader(arguments[0], schema[arguments[0]].is_numeric())
    function = FUNCTIONS[name]
    factor = _constant_factor(formula)
    if factor is not None:
        function, arguments = FUNCTIONS["*"], [arguments[0], None]
        return _strict(function, [_number(to_row(arguments[0], schema)), lambda row: factor])
    readers = [
        _number(to_row(a, schema)) if wanted == "n" else to_row(a, schema)
        for a, wanted in zip(arguments, function.takes, strict=True)
    ]
    if function.strict:
        return _strict(function, readers)
    call = function.row
    return lambda row: call(*[read(row) for read in readers])


def _reader(column: str, is_number: bool) -> Callable[[Row], Any]:
    def read(row: Row) -> Any:
        x = row[column]
        if x is None or x != x:
            return None
        return float(x) if is_number else x

    return read


def _number(read: Callable[[Row], Any]) -> Callable[[Row], float | None]:
    def number(row: Row) -> float | None:
        x = read(row)
        return float(x) if x is not None else None

    return number


def _strict(function: Function, readers: Sequence[Callable[[Row], Any]]) -> Callable[[Row], Any]:
    call = function.row
    if len(readers) == 1:
        (only,) = readers

        def one(row: Row) -> Any:
            x = only(row)
            if x is None:
                return None
            result = call(x)
            return result if result == result else None

        return one
    first, second = readers

    def two(row: Row) -> Any:
        a, b = first(row), second(row)
        if a is None or b is None:
            return None
        result = call(a, b)
        return result if result == result else None

    return two


@dataclass(frozen=True)
class Assign(Operation):
    """Each output becomes what its formula gives, all of them computed from the columns as they were before."""

    formulas: Mapping[str, Formula]

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [self._expression(formula, schema).alias(name) for name, formula in self.formulas.items()]

    def _expression(self, formula: Formula, schema: Mapping[str, pl.DataType]) -> pl.Expr:
        expression = formula_to_polars(formula, schema)
        with at("Assign"):
            result_kind = kind(formula, schema)
        if not isinstance(formula, (list, tuple)) and result_kind != "?":
            return expression
        return (
            expression.fill_nan(None)
            if result_kind == "n"
            else expression.cast(pl.Float64)
            if result_kind == "?"
            else expression
        )

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        types = {"n": pl.Float64(), "b": pl.Boolean(), "s": pl.String(), "?": pl.Float64()}
        with at("Assign"):
            return Changes({name: types[kind(formula, schema)] for name, formula in self.formulas.items()})

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        makers = [(name, to_row(formula, schema)) for name, formula in self.formulas.items()]

        def assign(row: Row) -> None:
            row.update([(name, make(row)) for name, make in makers])

        return assign

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {name: tuple(columns_of(formula)) for name, formula in self.formulas.items()}
