"""Which types become which (`conversion`, `refuse_types`): for every pair of types it says what a table of one value does.

`column_choice`, `json_values` and `value_readers` are tested with what uses them: stages, artifacts, rows and JSON.
"""

from __future__ import annotations

import datetime as dt
import itertools

import polars as pl
import pytest

from rayline.core.errors import SchemaError
from rayline.core.schema import category_of, conversion, converted, refuse_types, remembered_schema, stacked
from rayline.preprocessing.schema_check import SchemaCheck

DAY = dt.datetime(2013, 12, 25)
VALUES: list[tuple[pl.DataType, object]] = [
    (pl.Int8(), 1), (pl.UInt64(), 1), (pl.Float32(), 1.0), (pl.Float64(), 1.0), (pl.Boolean(), True), (pl.Date(), DAY.date()),
    (pl.Datetime("us"), DAY), (pl.Datetime("ms"), DAY), (pl.Datetime("us", "UTC"), DAY), (pl.Time(), dt.time(12)),
    (pl.Duration("us"), dt.timedelta(1)), (pl.Categorical(), "a"), (pl.Enum(["a"]), "a"), (category_of(pl.Int64()), "1"),
    (category_of(pl.Boolean()), "true"), (category_of(pl.Date()), "2013-12-25"), (pl.List(pl.Int64()), [1, 2]),
    (pl.List(pl.Float64()), [1.0, 2.0]), (pl.Array(pl.Float64(), 2), [1.0, 2.0]), (pl.Binary(), b"a"), (pl.Struct({"a": pl.Int64()}), {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("got", "dtype"), list(itertools.product(VALUES, VALUES)))
def test_types_are_refused_of_which_no_value_is_taken(
    got: tuple[pl.DataType, object], dtype: tuple[pl.DataType, object]
) -> None:
    table, schema = pl.DataFrame({"x": pl.Series([got[1]]).cast(got[0])}), {"x": dtype[0]}
    try:
        checked = SchemaCheck(schema)(table.lazy()).collect()
    except SchemaError:
        with pytest.raises(SchemaError, match="'x'"):
            refuse_types(schema, table.schema)
        return
    refuse_types(schema, table.schema)
    assert checked.schema["x"] == converted(dtype[0])
    assert checked["x"].null_count() == 0 or isinstance(dtype[0], pl.Enum)  # of which it is no category


@pytest.mark.parametrize("dtype", [dtype for dtype, _ in VALUES])
def test_missing_values_become_any_type(dtype: pl.DataType) -> None:
    assert conversion(pl.Null(), dtype) is not None
    if not dtype.is_temporal():
        assert conversion(pl.Float64(), dtype) is not None  # NaN, as pandas has it
        assert conversion(pl.Datetime("us"), dtype) is not None  # NaT


def test_a_remembered_schema_is_taken_from_what_was_remembered() -> None:
    given = {str(i): dtype for i, (dtype, _) in enumerate(VALUES)} | {"none": pl.Null(), "money": pl.Decimal(10, 2)}
    refuse_types(remembered_schema(given), given)
    assert remembered_schema(remembered_schema(given)) == remembered_schema(given)


def test_columns_that_are_missing_are_named() -> None:
    with pytest.raises(SchemaError, match=r"'y', which is missing"):
        refuse_types({"x": pl.Int64(), "y": pl.Int64()}, {"x": pl.Int64()})


def test_tables_with_columns_in_another_order_are_stacked() -> None:
    one = pl.DataFrame({"a": pl.Series([1], dtype=pl.Int32), "b": ["x"], "c": [None]})
    other = pl.DataFrame({"c": [2.5], "b": ["y"], "a": pl.Series([2], dtype=pl.Int64)})
    expected = pl.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [None, 2.5]})
    assert stacked([one, other]).equals(expected)
    assert stacked([one]) is one
