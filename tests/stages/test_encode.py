"""Encoders against scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import preprocessing as sk

from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.data.preprocessor import Preprocessor
from rayline.stages import OneHotEncoder, OneHotEncoding, OrdinalEncoder

letters = st.lists(st.sampled_from(["a", "b", "c", "d", "e e", "é", "Z"]), min_size=1, max_size=40)


def encode(stage: Any, table: pl.DataFrame, new: pl.DataFrame | None = None) -> pl.DataFrame:
    return Preprocessor([("stage", stage)]).fit(table).transform(table if new is None else new)


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
    for handle_unknown, theirs in (("ignore", "ignore"), ("infrequent_if_exist", "infrequent_if_exist")):
        encoder = sk.OneHotEncoder(sparse_output=False, handle_unknown=theirs, **how).fit(
            table.to_pandas().astype(object).to_numpy()
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("warnings.warn", lambda *a, **k: None)  # they warn of unknown categories with drop
            expected = encoder.transform(more.to_pandas().astype(object).to_numpy())
        ours = encode(OneHotEncoder(handle_unknown=handle_unknown, **how), table, more)
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
