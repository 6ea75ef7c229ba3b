"""Encoders against scikit-learn."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import preprocessing as sk

from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import LabelEncoder, OneHotEncoder, OneHotEncoding, OrdinalEncoder
from rayline.stages.encode import OneHotUnknown

from .one_stage import run as encode

letters = st.lists(st.sampled_from(["a", "b", "c", "d", "e e", "é", "Z"]), min_size=1, max_size=40)


def their_names(encoder: Any) -> list[str]:
    return [name.replace("infrequent_sklearn", "infrequent") for name in encoder.get_feature_names_out(["c"])]


@pytest.mark.parametrize("min_frequency", [None, 2, 3, 0.2])
@pytest.mark.parametrize("max_categories", [None, 1, 2, 3])
@pytest.mark.parametrize("drop", [None, "first", "if_binary"])
@given(values=letters, new=letters)
def test_one_hot_is_scikit_learns(
    min_frequency: Any, max_categories: Any, drop: Any, values: list[str], new: list[str]
) -> None:
    how = {"min_frequency": min_frequency, "max_categories": max_categories, "drop": drop}
    table, more = pl.DataFrame({"c": values}), pl.DataFrame({"c": new})
    handling: tuple[OneHotUnknown, ...] = ("ignore", "infrequent_if_exist")
    for handle_unknown in handling:
        encoder = sk.OneHotEncoder(sparse_output=False, handle_unknown=handle_unknown, **how).fit(
            table.to_pandas().astype(object).to_numpy()
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *a, **k: None)  # they warn of unknown categories with drop
            expected = encoder.transform(more.to_pandas().astype(object).to_numpy())
        tables = (t.with_columns(kept=pl.lit(0)) for t in (table, more))  # a stage may not remove every column
        ours = encode(OneHotEncoder(handle_unknown=handle_unknown, **how), *tables).drop("kept")
        assert ours.columns == their_names(encoder)
        np.testing.assert_array_equal(ours.to_numpy() if ours.width else np.zeros((len(new), 0)), expected)


@pytest.mark.parametrize("how", [{}, {"min_frequency": 2}, {"max_categories": 2}])
@given(values=letters)
def test_one_hot_error_knows_rare_categories(how: dict[str, Any], values: list[str]) -> None:
    fitted = Preprocessor([("hot", OneHotEncoder(handle_unknown="error", **how))]).fit(pl.DataFrame({"c": values}))
    assert fitted.transform(pl.DataFrame({"c": values})).height == len(values)
    for bad in ("never seen", None):
        with pytest.raises(DataError, match=r"stage 'hot'.*column 'c'"):
            fitted.transform(pl.DataFrame({"c": [*values, bad]}))


@given(values=st.lists(st.one_of(st.none(), st.integers(-2, 2).map(float)), min_size=1, max_size=20))
def test_one_hot_of_numbers_with_missing(values: list[float | None]) -> None:
    table = pl.DataFrame({"c": values}, schema={"c": pl.Float64})
    if table["c"].null_count() == table.height:
        with_null = encode(OneHotEncoder(["c"]), table)
        assert with_null.columns == ["c_null"]
        return
    expected = sk.OneHotEncoder(sparse_output=False).fit_transform(table.to_numpy())
    np.testing.assert_array_equal(encode(OneHotEncoder(["c"]), table).to_numpy(), expected)


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["b", "a"]), pl.String])
def test_native_categories_are_strings(dtype: Any) -> None:
    table = pl.DataFrame({"c": ["b", None, "a"]}).cast(dtype)
    assert encode(OneHotEncoder(), table).to_dict(as_series=False) == {
        "c_a": [0, 0, 1],
        "c_b": [1, 0, 0],
        "c_null": [0, 1, 0],
    }
    assert encode(OrdinalEncoder(), table)["c"].to_list() == [1.0, None, 0.0]


@pytest.mark.parametrize("name", ["value", "n", "count", "c d", "é", "*", "^c.*$", "", "0", "literal"])
def test_any_column_name_will_do(name: str) -> None:
    table = pl.DataFrame({name: ["u", "v", "u"], "cc": [1, 2, 3]})
    assert encode(OneHotEncoder([name]), table).columns == ["cc", f"{name}_u", f"{name}_v"]
    assert encode(OrdinalEncoder([name]), table)[name].to_list() == [0.0, 1.0, 0.0]


def test_minus_zero_and_bool() -> None:
    assert encode(OneHotEncoder(["x"]), pl.DataFrame({"x": [0.0, -0.0, 1.5]})).shape == (3, 2)
    assert encode(OneHotEncoder(["x"]), pl.DataFrame({"x": [True, False]})).columns == ["x_false", "x_true"]


@given(values=letters, new=letters)
def test_ordinal_is_scikit_learns(values: list[str], new: list[str]) -> None:
    table, more = pl.DataFrame({"c": values}), pl.DataFrame({"c": new})
    theirs = sk.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(
        np.array(values, dtype=object)[:, None]
    )
    expected = theirs.transform(np.array(new, dtype=object)[:, None])
    np.testing.assert_array_equal(encode(OrdinalEncoder(), table, more).to_numpy(), expected)


def test_ordinal_order_and_missing() -> None:
    table = pl.DataFrame({"size": ["S", "L", None, "M"]})
    stage = OrdinalEncoder(categories={"size": ["S", "M", "L"]}, encoded_missing_value=-5)
    assert encode(stage, table)["size"].to_list() == [0.0, 2.0, -5.0, 1.0]
    with pytest.raises(DataError, match="XL"):
        encode(OrdinalEncoder(handle_unknown="error"), table, pl.DataFrame({"size": ["XL"]}))


def test_taken_names_are_refused() -> None:
    with pytest.raises(SchemaError, match="column 'c_a', which it adds, exists already"):
        encode(OneHotEncoder(["c"]), pl.DataFrame({"c": ["a"], "c_a": [1]}))
    with pytest.raises(SchemaError, match="'a_b_c'"):
        encode(OneHotEncoder(), pl.DataFrame({"a": ["b_c"], "a_b": ["c"]}))


def test_second_name_and_pandas() -> None:
    assert OneHotEncoding is OneHotEncoder
    frame = pd.DataFrame({"c": ["a", "b"]}, index=[5, 6])
    result = Preprocessor([("hot", OneHotEncoder())]).fit_transform(frame)
    assert isinstance(result, pd.DataFrame)
    assert list(result.index) == [5, 6]


def test_wrong_parameters() -> None:
    for how in ({"drop": "last"}, {"max_categories": 0}, {"min_frequency": True}, {"handle_unknown": "?"}):
        with pytest.raises(ParameterError):
            OneHotEncoder(**how)


@pytest.mark.parametrize("stage", [OneHotEncoder, OrdinalEncoder])
def test_none_and_nan_are_one_missing_category(stage: Any) -> None:
    table = pl.DataFrame({"n": [1.0, None, float("nan")]})
    made = [
        Preprocessor([("s", stage(["n"], categories={"n": [1.0, missing]}))]).fit_transform(table)
        for missing in (None, float("nan"))
    ]
    assert made[0].equals(made[1])
    assert made[0].row(1) == made[0].row(2) != made[0].row(0)
    with pytest.raises(ParameterError, match="different values"):
        stage(["n"], categories={"n": [None, float("nan")]})


@pytest.mark.parametrize("stage", [OneHotEncoder, OrdinalEncoder])
def test_a_fit_refuses_what_given_categories_leave_out(stage: Any) -> None:
    table = pl.DataFrame({"c": ["a", "b", "x", None]})
    with pytest.raises(DataError, match=r"column 'c' has values that are not in its categories(.|\n)*got \['x'\]"):
        Preprocessor([("s", stage(categories={"c": ["a", "b"]}, handle_unknown="error"))]).fit(table)
    Preprocessor([("s", stage(categories={"c": ["a", "b"]}))]).fit(table)


@pytest.mark.parametrize("how", [{"unknown_value": 1}, {"encoded_missing_value": 0}, {"unknown_value": 2}])
def test_a_number_for_something_else_is_no_place(how: dict[str, Any]) -> None:
    table = pl.DataFrame({"c": ["a", "b", "c", None]})
    with pytest.raises(
        ParameterError, match=rf"{next(iter(how))} has a wrong value(.|\n)*not an index of the 3 categories"
    ):
        Preprocessor([("s", OrdinalEncoder(**how))]).fit(table)
    theirs = sk.OrdinalEncoder(**{"handle_unknown": "use_encoded_value", "unknown_value": -1, **how})
    with pytest.raises(ValueError, match=r"already used|values already"):
        theirs.fit(np.array(["a", "b", "c", np.nan], dtype=object)[:, None])


def test_places_next_to_those_of_the_categories() -> None:
    table = pl.DataFrame({"c": ["a", "b", None]})
    p = Preprocessor([("s", OrdinalEncoder(unknown_value="next", encoded_missing_value="next"))]).fit(table)
    assert p.transform(pl.DataFrame({"c": ["b", "z", None]}))["c"].to_list() == [1.0, 2.0, 3.0]
    p = Preprocessor([("s", OrdinalEncoder(encoded_missing_value="next", max_categories=1))]).fit(table)
    assert p.transform(pl.DataFrame({"c": ["b", "z", None]}))["c"].to_list() == [0.0, -1.0, 1.0]


@pytest.mark.parametrize("dtype", ["int64", pl.Int8, pl.UInt16(), np.int32, np.dtype("uint8"), int])
def test_integers(dtype: Any) -> None:
    table = pl.DataFrame({"c": ["b", "a", None]})
    stage = OrdinalEncoder(dtype=dtype, unknown_value="next", encoded_missing_value="next")
    p = Preprocessor.from_json(json.loads(json.dumps(Preprocessor([("s", stage)]).fit(table).to_json())))
    made = p.transform(pl.DataFrame({"c": ["a", None, "new"]}))["c"]
    assert made.to_list() == [0, 3, 2]
    assert made.dtype.is_integer() and made.dtype == p.output_schema["c"]  # noqa: PT018
    run = p.row_function()
    assert run is not None
    for value, wanted in zip(["a", None, "new"], made, strict=True):
        row: dict[str, Any] = {"c": value}
        run(row)
        assert row["c"] == wanted and type(row["c"]) is int  # noqa: PT018
    assert p.inverse_transform(made.to_frame())["c"].to_list() == ["a", None, None]


def test_integers_hold_no_missing_number() -> None:
    table, known = pl.DataFrame({"c": ["b", "a", None]}), pl.DataFrame({"c": ["b", "a"]})
    with pytest.raises(DataError, match="1 missing values, and dtype='int64' has no missing number"):
        Preprocessor([("s", OrdinalEncoder(dtype="int64"))]).fit(table)
    p = Preprocessor([("s", OrdinalEncoder(dtype="int64"))]).fit(known)
    assert p.transform(table)["c"].to_list() == [1, 0, -1]  # where fit saw none it is an unknown category
    with pytest.raises(DataError, match="unknown values"):
        Preprocessor([("s", OrdinalEncoder(dtype="int64", handle_unknown="error"))]).fit(known).transform(table)
    with pytest.raises(ParameterError, match="unknown_value has a wrong value"):
        OrdinalEncoder(dtype="int64", unknown_value=None)
    with pytest.raises(ParameterError, match="a whole number from 0 to 255"):
        OrdinalEncoder(dtype="uint8")
    many = pl.DataFrame({"c": [str(i) for i in range(129)]})
    with pytest.raises(ParameterError, match=r"a whole number from -128 to 127(.|\n)*got 128"):
        Preprocessor([("s", OrdinalEncoder(dtype="int8"))]).fit(many)
    with pytest.raises(ParameterError, match="dtype has a wrong value"):
        OrdinalEncoder(dtype="float32")


def test_a_label_that_is_no_class_is_refused_by_a_parameter_that_exists() -> None:
    fitted = Preprocessor([("y", LabelEncoder(["c"]))]).fit(pl.DataFrame({"c": ["a", "b"]}))
    with pytest.raises(DataError, match=r"got \['z'\](.|\n)*classes=") as caught:
        fitted.transform(pl.DataFrame({"c": ["z"]}))
    assert "handle_unknown" not in str(caught.value)


def test_a_table_that_would_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayline.stages.encode.MAX_COLUMNS", 10)
    monkeypatch.setattr("rayline.stages.encode.MAX_CELLS", 1000)
    table = pl.DataFrame({"c": [str(i) for i in range(40)]})
    with pytest.raises(DataError, match=r"column 'c' has 40 categories(.|\n)*40 rows × 40 columns(.|\n)*FeatureHasher"):
        Preprocessor([("hot", OneHotEncoder())]).fit(table)
    Preprocessor([("hot", OneHotEncoder(max_categories=9))]).fit(table)
    Preprocessor([("hot", OneHotEncoder())]).fit(table.head(31))  # 961 cells
    Preprocessor([("hot", OneHotEncoder())]).fit(pl.DataFrame({"c": ["a", "b"] * 1000}))  # long, and not wide
