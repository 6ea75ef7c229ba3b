"""From a Polars expression to a formula: what has a word in the language of formulas is translated, the rest is refused.

Nothing of the expression is kept, so what is saved is the formula: data that cannot carry code.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from rayline.core.errors import ParameterError
from rayline.core.operations.expression import Formula

_BINARY = {
    "Plus": "+", "Minus": "-", "Multiply": "*", "TrueDivide": "/", "Divide": "/",
    "Eq": "==", "NotEq": "!=", "Lt": "<", "LtEq": "<=", "Gt": ">", "GtEq": ">=",
    "And": "and", "Or": "or", "LogicalAnd": "and", "LogicalOr": "or",
}  # fmt: skip
_FUNCTIONS = {
    "Abs": "abs", "Exp": "exp", "Log1p": "log1p", "Floor": "floor",
    "Pow.Sqrt": "sqrt", "Pow.Generic": "**", "FillNull": "fill",
    "Trigonometry.Sin": "sin", "Trigonometry.Cos": "cos",
    "Boolean.IsNull": "is_null", "Boolean.Not": "not", "Negate": "negate",
}  # fmt: skip


def formula_of(expression: pl.Expr) -> Formula:
    """Return the formula that does the same.

    Raises ParameterError when a part of the expression has no word in the language of formulas: a Python function, an aggregate,
    ….
    """
    try:
        tree = json.loads(expression.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
        raise _refusal(expression, "it cannot be taken apart") from error
    try:
        return _formula(tree)
    except _UnknownError as error:
        raise _refusal(expression, str(error)) from error


class _UnknownError(Exception):
    """Names the part that has no word."""


def _formula(tree: Any) -> Formula:
    match tree:
        case {"Alias": [inner, _]}:
            return _formula(inner)
        case {"Column": str() as name}:
            return ["col", name]
        case {"Literal": {"Dyn": {"Int": int() as value}}} | {"Literal": {"Dyn": {"Float": float() as value}}}:
            return value
        case {"Literal": {"Scalar": {"Null": _}}} | {"Literal": {"Scalar": "Null"}}:
            return None
        case {"Literal": {"Scalar": dict() as scalar}}:
            ((kind, value),) = scalar.items()
            if kind.startswith(("Int", "UInt", "Float")) or kind in ("String", "Boolean", "StringOwned"):
                return value
            raise _UnknownError(f"a constant of type {kind}")
        case {"BinaryExpr": {"left": left, "op": str() as op, "right": right}} if op in _BINARY:
            return [_BINARY[op], _formula(left), _formula(right)]
        case {"BinaryExpr": {"op": op}}:
            raise _UnknownError(f"the operator {op}")
        case {"Ternary": {"predicate": condition, "truthy": yes, "falsy": no}}:
            return ["if", _formula(condition), _formula(yes), _formula(no)]
        case {"Function": {"input": list() as inputs, "function": function}}:
            return _call(function, [_formula(one) for one in inputs])
        case {"AnonymousFunction": _}:
            raise _UnknownError("a Python function")
        case dict() if tree:
            raise _UnknownError(str(next(iter(tree))))
    raise _UnknownError(str(tree)[:80])


def _call(function: Any, arguments: list[Formula]) -> Formula:
    name = function
    if isinstance(function, dict):
        ((outer, inner),) = function.items()
        name = f"{outer}.{inner}" if isinstance(inner, str) else outer
        if outer == "Boolean" and inner in ("IsNotNull", {"IsNotNull": None}):
            return ["not", ["is_null", *arguments]]
    if name == "Boolean.IsNotNull":
        return ["not", ["is_null", *arguments]]
    if name == "Log":
        x, base = arguments
        return ["log", x] if base == 2.718281828459045 else ["/", ["log", x], ["log", base]]
    word = _FUNCTIONS.get(str(name))
    if word == "negate":
        return ["*", -1.0, *arguments]
    if word is None:
        raise _UnknownError(f"the function {name}")
    return [word, *arguments]


def _refusal(expression: pl.Expr, part: str) -> ParameterError:
    return ParameterError.here(
        f"this Polars expression cannot be saved as data: {part}.",
        f"Expected arithmetic, comparisons, and/or/not, when/then/otherwise, abs, sqrt, log, log1p, exp, sin, cos, floor, "
        f"fill_null, is_null of columns and constants; got {expression}.",
        "register a function (FunctionTransformer), or compute the column before.",
    )
