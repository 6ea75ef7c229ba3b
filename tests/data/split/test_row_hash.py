"""Row hashes: pinned values, equal for equal values whatever the library and the type, spread well."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given

from rayline.core import registry
from rayline.core.errors import SchemaError
from rayline.data.split.row_hash import RowHash

UTC = dt.UTC
TABLE = pl.DataFrame(
    {
        "i": [1, -2, None],
        "f": [0.5, -0.0, None],
        "s": ["a", "a longer text than eight bytes", None],
        "b": [True, None, False],
        "d": [dt.date(2013, 1, 1), None, dt.date(1969, 12, 31)],
        "l": [[1, 2], [], None],
    }
)


def hashes(table: Any, columns: list[str] | None = None, **options: Any) -> list[int]:
    frame = registry.engine("local").collect(table)
    return RowHash(tuple(columns or frame.columns), **options).of(frame).tolist()


def test_hashes_are_the_same_for_ever() -> None:
    # Existing splits depend on these numbers: they change with the major version only.
    assert hashes(TABLE) == PINNED


def test_hashes_are_the_same_in_another_process() -> None:
    code = (
        "import polars as pl; from rayline.data.split.row_hash import RowHash;"
        "print(RowHash(('x', 's'), seed=3).of(pl.DataFrame({'x': [1.5], 's': ['Ærø']}))[0])"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(got) == hashes(pl.DataFrame({"x": [1.5], "s": ["Ærø"]}), seed=3)[0]


@pytest.mark.parametrize(
    "variants",
    [
        [
            pl.Series([1, 2, None]).cast(d)
            for d in (pl.Int8, pl.Int64, pl.UInt16, pl.Float32, pl.Float64, pl.Decimal(5, 2))
        ],
        [pl.Series([1.0, float("nan")]), pl.Series([1.0, None]), pl.Series([1, None])],
        [pl.Series([0.0, 1.0]), pl.Series([-0.0, 1.0]), pl.Series([False, True])],
        [pl.Series(["a", None, "b"]).cast(d) for d in (pl.String, pl.Categorical, pl.Enum(["b", "a"]))],
        [
            pl.Series([dt.date(2020, 1, 1), None]).cast(d)
            for d in (pl.Date, pl.Datetime("ms"), pl.Datetime("ns", "UTC"))
        ],
        [pl.Series([[1, 2]], dtype=d) for d in (pl.List(pl.Float64), pl.Array(pl.Float32, 2), pl.List(pl.Int64))],
        [pl.Series([None, None], dtype=d) for d in (pl.Null, pl.String, pl.Int32, pl.Date, pl.List(pl.Int8))],
        [pl.Series([2**62, -1]).cast(d) for d in (pl.Int64, pl.Int128)],
        [pl.Series([2**63 + 1, 3, None], dtype=d) for d in (pl.UInt64, pl.Int128)],
    ],
)
def test_types_do_not_matter(variants: list[pl.Series]) -> None:
    found = [hashes(pl.DataFrame({"x": variant})) for variant in variants]
    assert all(other == found[0] for other in found)


@pytest.mark.parametrize("dtype", [pl.UInt64, pl.Int128])
def test_large_neighbours_are_told_apart(dtype: type[pl.DataType]) -> None:
    values = pl.Series([2**63 + i for i in range(4)] + [2**64 - 1 - i for i in range(4)], dtype=dtype)
    assert len(set(hashes(pl.DataFrame({"x": values})))) == 8


def test_libraries_do_not_matter() -> None:
    frame = TABLE.drop("l")
    for table in (
        frame.to_pandas(),
        frame.to_arrow(),
        frame.to_dicts(),
        frame.lazy(),
        {c: frame[c].to_numpy() for c in frame.columns},
    ):
        assert hashes(table) == hashes(frame), type(table)


@given(st.permutations(TABLE.columns), st.permutations(range(3)))
def test_order_of_columns_and_rows_does_not_matter(columns: list[str], rows: list[int]) -> None:
    assert hashes(TABLE[rows].select(columns)) == [hashes(TABLE)[row] for row in rows]


@given(st.lists(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=20), min_size=1, max_size=4))
def test_chunks_do_not_matter(parts: list[list[str | None]]) -> None:
    chunks = [pl.DataFrame({"x": part}, schema={"x": pl.String}) for part in parts]
    whole = pl.concat(chunks, rechunk=False)
    assert hashes(whole) == [h for chunk in chunks for h in hashes(chunk)]
    assert hashes(whole[1:]) == hashes(whole)[1:]
    assert hashes(whole.to_arrow().slice(1)) == hashes(whole)[1:]


VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.text(max_size=30)), unique=True, max_size=30),
    # 2^64 integers and null are one more than there are words: one integer shares the word of null.
    st.lists(
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1).filter(lambda i: i != 0x7FF8_0000_0000_DEAD)),
        unique=True,
        max_size=30,
    ),
    st.lists(st.floats(allow_nan=False).map(lambda x: x + 0.0), unique=True, max_size=30),
    st.lists(st.lists(st.integers(0, 2), max_size=4), unique_by=tuple, max_size=30),
    st.lists(st.datetimes(), unique=True, max_size=30),
)


@given(VALUES)
def test_different_values_have_different_hashes(values: list[Any]) -> None:
    series = pl.Series("x", values)
    assert len(set(hashes(pl.DataFrame({"x": series})))) == len(values)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(100_000),
        np.arange(100_000) * 1000.0,
        np.arange(100_000) * 2.0**-20,
        np.arange(100_000) + 10**18,
        [f"{i}" for i in range(100_000)],
        [f"the same beginning of all texts, then {i}" for i in range(100_000)],
    ],
)
def test_hashes_are_spread_evenly(values: Any) -> None:
    found = RowHash(("x",)).of(pl.DataFrame({"x": values}))
    assert len(np.unique(found)) == 100_000
    for bits in (found >> np.uint64(57), found & np.uint64(63)):
        counts = np.bincount(bits.astype(np.int64), minlength=64)
        chi2 = ((counts - 100_000 / 64) ** 2 / (100_000 / 64)).sum()
        assert chi2 < 130  # 63 degrees of freedom: beyond this once in a million


def test_nearby_rows_are_told_apart() -> None:
    rows = pl.DataFrame({"a": [0, 0, 1, 1], "b": [0, 1, 0, 1]})
    assert len(set(hashes(rows))) == 4
    assert hashes(pl.DataFrame({"a": [1], "b": [2]})) != hashes(pl.DataFrame({"a": [2], "b": [1]}))
    assert hashes(pl.DataFrame({"x": [dt.datetime(1, 1, 1)]})) != hashes(
        pl.DataFrame({"x": [dt.datetime(1, 1, 1, 0, 0, 0, 1)]})
    )
    nanoseconds = pl.DataFrame({"x": pl.Series([1, 2], dtype=pl.Int64).cast(pl.Datetime("ns"))})
    assert len(set(hashes(nanoseconds))) == 2


def test_seed_and_purpose_change_it() -> None:
    table = pl.DataFrame({"x": [1]})
    assert len({hashes(table)[0], hashes(table, seed=1)[0], hashes(table, purpose="folds")[0]}) == 3


def test_empty_and_odd_tables() -> None:
    assert hashes(pl.DataFrame(schema={"x": pl.String, "y": pl.List(pl.Int64)})) == []
    assert hashes(pl.DataFrame({"*": [1], "^x$": [2.5]})) == hashes(pl.DataFrame({"^x$": [2.5], "*": [1]}))
    assert hashes(pl.DataFrame({"s": [{"a": 1, "b": None}]})) != hashes(pl.DataFrame({"s": [{"a": None, "b": 1}]}))
    assert hashes(pl.DataFrame({"x": ["z" * 600, "z" * 601, ""]})) == hashes(
        pl.DataFrame({"x": [b"z" * 600, b"z" * 601, b""]})
    )


def test_python_objects_are_refused() -> None:
    table = pl.DataFrame({"x": pl.Series([object()], dtype=pl.Object)})
    with pytest.raises((SchemaError, pl.exceptions.PolarsError), match=r"'x'|[Oo]bject"):
        hashes(table)


def test_pandas_time_zones_and_arrow_dictionaries() -> None:
    zoned = pd.DataFrame({"x": pd.to_datetime(["2020-01-01T12:00"]).tz_localize("Europe/Berlin")})
    assert hashes(zoned) == hashes(pl.DataFrame({"x": [dt.datetime(2020, 1, 1, 11, tzinfo=UTC)]}))
    words = pa.table({"x": pa.array(["b", "a"]).dictionary_encode()})
    assert hashes(words) == hashes(pl.DataFrame({"x": ["b", "a"]}))


PINNED = [572366908646806453, 4816851151935371063, 2343427018841683789]


def test_a_nan_elsewhere_changes_no_hash() -> None:
    x = np.random.default_rng(0).normal(size=100_000)
    some = pl.DataFrame({"x": x, "y": [None, 0.0, -0.0, float("inf")] * 25_000})
    rows = RowHash(("x", "y"), seed=3)
    more = pl.concat([some, pl.DataFrame({"x": [float("nan")], "y": [float("nan")]})])
    assert (rows.of(some) == rows.of(more)[:-1]).all()
    assert rows.of(more[-1:]) == rows.of(pl.DataFrame({"x": [None], "y": [None]}, schema=some.schema))
