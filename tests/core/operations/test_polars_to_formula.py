"""Polars expressions as formulas: the same results, and nothing that could carry code.

Covers `core.operations.expression` too.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_series_equal

from rayline.core.errors import ParameterError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import DropRows, Expression

TABLE = pl.DataFrame(
    {
        "a": [1.5, -2.0, None, 0.0, 9.0],
        "b": [2, 0, 3, 4, None],
        "c": ["x", "y", None, "x", "z"],
        "f": [True, False, None, True, False],
    }
)
a, b, c, f = (pl.col(name) for name in "abcf")

EXPRESSIONS = [
    a + b * 2 - 1.5,
    a / b,
    -a,
    (a**2).sqrt(),
    a.abs().log1p(),
    (a.abs() + 1).log(),
    (a.abs() + 1).log(10),
    a.exp().floor(),
    a.sin() + a.cos(),
    a.fill_null(0) > b,
    a.is_null() | (b >= 3),
    ~(a == 9.0) & (b != 4),
    a.is_not_null(),
    pl.when(c == "x").then(a).otherwise(-1.0),
    pl.when(f).then(pl.lit("yes")).when(a < 0).then(pl.lit("no")).otherwise(None),
    c.fill_null("none"),
    (a * 2).alias("named"),
]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=str)
def test_the_formula_does_the_same(expression: pl.Expr) -> None:
    expected = TABLE.select(new=expression)["new"]
    if expected.dtype.is_numeric():
        expected = expected.cast(pl.Float64).fill_nan(None)
    fitted = Preprocessor([("e", Expression(output="new", formula=expression))]).fit(TABLE)
    assert_series_equal(fitted.transform(TABLE)["new"], expected)
    again = Preprocessor.from_json(json.loads(json.dumps(fitted.to_json())))
    assert_series_equal(again.transform(TABLE)["new"], expected)


def shout(value: Any) -> str:
    return str(value).upper()


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        (c.map_batches(shout), "Python function"),
        (a - a.mean(), "Agg"),
        (c.str.to_uppercase(), "StringExpr"),
        (a.shift(1), "Shift"),
        (a.cast(pl.Int64), "Cast"),
    ],
    ids=str,
)
def test_what_has_no_form_as_data_is_refused(expression: pl.Expr, part: str) -> None:
    with pytest.raises(ParameterError, match=part):
        Expression(output="new", formula=expression)


def test_a_condition_on_rows() -> None:
    fitted = Preprocessor([("d", DropRows(where=a > 1))]).fit(TABLE)
    assert fitted.transform_training(TABLE)["a"].to_list() == [-2.0, None, 0.0]
    assert fitted["d"].where == [">", ["col", "a"], 1]  # type: ignore[union-attr]
