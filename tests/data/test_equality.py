"""Equality of learned values within rounding.

Covers `testing.compare` and `testing.partial_scans` too.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from rayline import train
from rayline.data.equality import same
from rayline.stages import PCA, SimpleImputer, StandardScaler
from rayline.testing.compare import assert_same_frames
from rayline.testing.partial_scans import RandomPartsEngine


def chain() -> train.Preprocessor:
    return train.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler()), ("pca", PCA())])


def test_rows_in_parts_give_an_equal_preprocessor(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(501, 3)) * [1.0, 1e-9, 1e9]
    table = pl.DataFrame(values - values.mean(axis=0) + [0.0, 1e-9, 1e9], schema=["a", "b", "c"])
    whole = chain().fit(table)
    monkeypatch.setattr("rayline.core.registry.engine_for", lambda data: RandomPartsEngine(3))
    parts = chain().fit(table)
    assert parts == whole
    assert parts.to_json() != whole.to_json(), "the parts change no bit: this proves nothing"
    other = table.with_columns(pl.col("b") + 1e-14)  # a hundred-thousandth of its scale
    assert chain().fit(other) != whole


def test_what_is_not_rounding_differs() -> None:
    assert same({"mean": 1e-8, "scale": 1e6}, {"mean": -3e-8, "scale": 1e6})
    assert not same({"mean": 1e-8, "scale": 1.0}, {"mean": -3e-8, "scale": 1.0})
    assert not same({"a": 1}, {"a": 1.0})
    assert not same([1.0, 2.0], [1.0])
    assert not same({"a": True}, {"a": 1})


def test_frames_that_differ_say_where() -> None:
    a = pl.DataFrame({"x": [1.0, 2.0, 3.0], "y": ["a", "b", "c"]})
    with pytest.raises(
        AssertionError, match=r"column 'x' differs in row 1: 2.5, expected 2.0, and 1 more rows; column 'y' differs"
    ):
        assert_same_frames(pl.DataFrame({"x": [1.0, 2.5, 4.0], "y": ["a", "b", "d"]}), a)
    with pytest.raises(AssertionError, match="'x' is Int64, expected Float64"):
        assert_same_frames(a.with_columns(pl.col("x").cast(pl.Int64)), a)
    with pytest.raises(AssertionError, match="there are 2 rows, expected 3"):
        assert_same_frames(a.head(2), a)
