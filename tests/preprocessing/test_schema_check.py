"""The check of a table before a transformation: the accepted values of each type, their conversion, and the refused values.

That rows and JSON are taken the same way is tested in tests/inference/test_values.py.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pytest

from rayline import SchemaError
from rayline.preprocessing.schema_check import SchemaCheck


def checked(values: pl.Series, dtype: Any) -> pl.Series:
    check = SchemaCheck({"x": dtype}, "Preprocessor.transform")
    return check(pl.DataFrame({"x": values, "other": range(len(values))}).lazy()).collect()["x"]


DAY = dt.date(2026, 11, 29)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        (pl.Series([1.0, float("nan"), None]), pl.Float64(), [1.0, None, None]),
        (pl.Series([1.0, float("nan")], dtype=pl.Float32), pl.Float64(), [1.0, None]),
        (pl.Series([1, 2]), pl.Float64(), [1.0, 2.0]),
        (pl.Series([1.0, float("nan"), 3.0]), pl.Int64(), [1, None, 3]),
        (pl.Series([1, 255], dtype=pl.Int64), pl.UInt8(), [1, 255]),
        (pl.Series(["a", None]), pl.String(), ["a", None]),
        (pl.Series(["a", "b"], dtype=pl.Categorical), pl.String(), ["a", "b"]),
        (pl.Series(["a", "new"]), pl.Enum(["a", "b"]), ["a", None]),
        (pl.Series(["2026-11-29", None]), pl.Date(), [DAY, None]),
        (pl.Series([dt.datetime(2026, 11, 29)]), pl.Date(), [DAY]),
        (pl.Series([None, None]), pl.Int64(), [None, None]),
        (pl.Series([float("nan")]), pl.String(), [None]),
    ],
)
def test_what_is_taken(values: pl.Series, dtype: Any, expected: list[Any]) -> None:
    assert checked(values, dtype).to_list() == expected


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        (pl.Series([1.5]), pl.Int64(), "numbers with a fraction"),
        (pl.Series([float("inf")]), pl.Int64(), "numbers with a fraction"),
        (pl.Series([256]), pl.UInt8(), "a whole number from 0 to 255.*got 256"),
        (pl.Series(["1"]), pl.Float64(), "got"),
        (pl.Series(["soon"]), pl.Date(), "soon"),
        (pl.Series([dt.datetime(2026, 11, 29, 12)]), pl.Date(), "2026-11-29 12:00:00"),
        (pl.Series([1.0]), pl.String(), "got"),
    ],
)
def test_what_is_refused(values: pl.Series, dtype: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=rf"(?s)Preprocessor.transform.*'x'.*{message}"):
        checked(values, dtype)


def test_other_columns_pass_and_the_order_does_not_matter() -> None:
    check = SchemaCheck({"a": pl.Int64(), "b": pl.String()}, "here")
    table = pl.DataFrame({"b": ["x"], "id": [7.5], "a": [1]})
    assert check(table.lazy()).collect().equals(table)


def test_missing_columns_are_named_unless_they_are_not_asked_for() -> None:
    check = SchemaCheck({"a": pl.Int64(), "b": pl.String()}, "here")
    with pytest.raises(SchemaError, match="here: it needs column 'b', which is missing"):
        check(pl.LazyFrame({"a": [1]}))
    assert check.only(["a"])(pl.LazyFrame({"a": [1]})).collect()["a"].to_list() == [1]


def test_nan_may_stay_where_it_does_not_matter() -> None:
    table = pl.DataFrame({"a": [1.0, float("nan")], "b": [1.0, float("nan")]})
    check = SchemaCheck(table.schema, "here").only(["a", "b"], frozenset({"a"}))
    assert check(table.lazy()).collect().select(pl.all().null_count()).row(0) == (0, 1)
    narrow = check(table.cast({"a": pl.Float32}).lazy()).collect()
    assert narrow.schema == table.schema
