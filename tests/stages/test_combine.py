"""Products, ratios, formulas, vectors and registered functions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline.core.errors import ParameterError, SchemaError
from rayline.core.operations.expression import FUNCTIONS, Assign, check, kind
from rayline.inference.pipeline import Preprocessor
from rayline.stages import Concatenator, Expression, FunctionTransformer, Ratio, register_function

TABLE = pl.DataFrame({"a": [1.5, -2.0, 3.0], "b": [2, 3, 4], "c": [0.5, 0.25, 8.0]})


def test_ratio() -> None:
    table = pl.DataFrame({"x": [1.0, 2.0, None, 0.0], "n": [2, 0, 1, 0]})
    run = lambda **how: Preprocessor([("r", Ratio(["x"], per="n", **how))]).fit_transform(table)["x_per_n"].to_list()  # noqa: E731
    assert run() == [0.5, None, None, None]
    assert run(zero=-1) == [0.5, -1.0, None, -1.0]
    with pytest.raises(SchemaError, match="'m'"):
        Preprocessor([("r", Ratio(["x"], per="m"))]).fit(table)


def test_concatenator() -> None:
    result = Preprocessor([("v", Concatenator())]).fit_transform(TABLE)
    assert result.schema == {"features": pl.Array(pl.Float64, 3)}
    np.testing.assert_array_equal(result["features"].to_numpy(), TABLE.to_numpy())


def test_function_transformer_is_saved_by_name() -> None:
    register_function("test twice", lambda column: column * 2)
    fitted = Preprocessor([("f", FunctionTransformer(["a"], "test twice"))]).fit(TABLE)
    again = Preprocessor.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again.transform(TABLE)["a"].to_list() == [3.0, -4.0, 6.0]
    with pytest.raises(ParameterError, match="no such function"):
        Preprocessor([("f", FunctionTransformer(["a"], "no such function"))]).fit(TABLE)


@pytest.mark.parametrize(
    "formula",
    [["eval", "1"], ["+", 1], ["col"], ["col", 3], {"a": 1}, [["col", "a"]], ["+", 1, object()], float("nan")],
)
def test_no_formula(formula: Any) -> None:
    with pytest.raises(ParameterError):
        Expression(output="x", formula=formula)


def test_wrong_types() -> None:
    for formula in (
        ["+", ["col", "s"], 1],
        ["and", ["col", "x"], True],
        ["==", ["col", "s"], 1],
        ["col", "z"],
        ["col", "y"],
    ):
        stage = Expression(output="new", formula=formula)
        with pytest.raises(SchemaError):
            Preprocessor([("e", stage)]).fit(pl.DataFrame({"s": ["a"], "x": [1.0], "y": [1]}), target_columns=["y"])


def test_deep_formulas_are_refused() -> None:
    formula: Any = 1
    for _ in range(300):
        formula = ["+", formula, 1]
    with pytest.raises(ParameterError, match="levels"):
        Expression(output="x", formula=formula)


SCHEMA = pl.Schema({"x": pl.Float64, "n": pl.Int64, "b": pl.Boolean, "s": pl.String})
leaves = {
    "n": st.sampled_from([["col", "x"], ["col", "n"], 0, 1.5, -2, 3.7]),
    "b": st.sampled_from([["col", "b"], True, False]),
    "s": st.sampled_from([["col", "s"], "a", "zz"]),
}


@st.composite
def formulas(draw: Any, wanted: str = "n", depth: int = 3) -> Any:
    """A formula of the wanted kind."""
    if depth == 0 or draw(st.booleans()):
        return draw(leaves[wanted])
    names = [name for name, f in FUNCTIONS.items() if f.gives in (wanted, "=")]
    name = draw(st.sampled_from(names))
    function = FUNCTIONS[name]
    same = wanted if function.gives == "=" else draw(st.sampled_from("ns"))
    return [name, *(draw(formulas(same if k == "a" else k, depth - 1)) for k in function.takes)]


rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(allow_nan=False), st.floats(-5, 5)),
        st.one_of(st.none(), st.integers(-5, 5)),
        st.one_of(st.none(), st.booleans()),
        st.one_of(st.none(), st.sampled_from(["a", "b", ""])),
    ),
    min_size=1,
    max_size=5,
)


@given(formula=st.sampled_from("nbs").flatmap(formulas), data=rows)
def test_both_executors_agree_to_the_bit(formula: Any, data: list[Any]) -> None:
    check(formula)
    kind(formula, SCHEMA)
    table = pl.DataFrame(data, schema=SCHEMA, orient="row")
    operation = Assign({"out": formula})
    expected = operation.apply(table.lazy()).collect()["out"].to_list()
    run = operation.row(SCHEMA)
    assert run is not None
    for row, want in zip(table.rows(named=True), expected, strict=True):
        run(row)
        assert row["out"] == want, (formula, row, want)
        assert type(row["out"]) is type(want)
