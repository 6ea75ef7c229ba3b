"""Tables of every library at the one door: what they become, and in what type results come back.

Covers `engine.local_columns` too.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import rayline as rl
from rayline.engine.local import restore, to_polars
from rayline.stages import StandardScaler

ZONE = "US/Pacific"
PANDAS: dict[str, tuple[Any, pl.Series]] = {
    "numbers with gaps": (pd.array([1, None], dtype="Int64"), pl.Series([1, None], dtype=pl.Int64)),
    "booleans with gaps": (pd.array([True, None], dtype="boolean"), pl.Series([True, None])),
    "strings with gaps": (pd.array(["a", None], dtype="string"), pl.Series(["a", None])),
    "Arrow's": (pd.array([1.5, None], dtype="float64[pyarrow]"), pl.Series([1.5, None])),
    "sparse": (pd.arrays.SparseArray([0, 3]), pl.Series([0, 3])),
    "objects": (np.array(["a", None], dtype=object), pl.Series(["a", None])),
    "objects that are decimals": (np.array([None, 2**70], dtype=object), pl.Series([None, 2**70], dtype=pl.Int128)),
    "with a time zone": (
        pd.date_range("2020-07-01", periods=2, tz=ZONE).astype(f"datetime64[us, {ZONE}]"),
        pl.Series([dt.datetime(2020, 7, 1), dt.datetime(2020, 7, 2)]).dt.replace_time_zone(ZONE),
    ),
    "spans of time": (
        pd.to_timedelta(["1h", None]).astype("timedelta64[us]"),
        pl.Series([dt.timedelta(hours=1), None]),
    ),
    "half precision": (np.array([1.5, 2.0], dtype=np.float16), pl.Series([1.5, 2.0], dtype=pl.Float16)),
}


@pytest.mark.parametrize("name", PANDAS)
def test_types_of_pandas(name: str) -> None:
    values, expected = PANDAS[name]
    found = to_polars(pd.DataFrame({"x": values}))["x"]
    assert found.dtype == expected.dtype
    assert found.equals(expected)


def test_categories_of_pandas() -> None:
    found = to_polars(pd.DataFrame({"x": pd.Categorical(["b", None, "a"])}))["x"]
    assert found.cast(pl.String).to_list() == ["b", None, "a"]


@pytest.mark.parametrize("names", [[0, 1], [("a", 1), ("a", 2)], [1.5, None], ["*", "^x.*$"], ["", "x y"]], ids=str)
def test_any_names_of_columns(names: list[Any]) -> None:
    table = pd.DataFrame([[1.0, 2.0], [3.0, 6.0]], columns=pd.Index(names, dtype=object, tupleize_cols=False))
    scaled = rl.Preprocessor([("scale", StandardScaler())]).fit_transform(table)
    assert list(scaled.columns) == [str(name) for name in names]
    assert scaled.to_numpy().tolist() == [[-1.0, -1.0], [1.0, 1.0]]


FRAME = pl.DataFrame({"x": [1.0, 3.0], "*": ["a", "b"]})


@pytest.mark.parametrize(
    "table",
    [
        FRAME,
        FRAME.lazy(),
        FRAME.to_pandas(),
        FRAME.to_arrow(),
        FRAME.to_arrow().to_batches()[0],
        FRAME.to_dicts(),
        {"x": np.array([1.0, 3.0]), "*": ["a", "b"]},
        {"x": pd.Series([1.0, 3.0]), "*": pa.array(["a", "b"])},
    ],
    ids=lambda table: type(table).__name__,
)
def test_tables_of_every_library(table: Any) -> None:
    assert to_polars(table).equals(FRAME)
    back = restore(table, FRAME.lazy())
    expected = pa.Table if isinstance(table, pa.RecordBatch) else type(table)
    assert isinstance(back, expected)
    assert to_polars(back).equals(FRAME)


@pytest.mark.parametrize("as_tensors", [False, True])
def test_a_part_of_vectors_with_missing_ones(as_tensors: bool) -> None:
    """As Ray cuts blocks; Polars itself refuses them."""
    values = [None if i % 5 == 0 else [float(i), None if i % 3 == 0 else 1.0] for i in range(40)]
    vectors = pa.array(values, pa.list_(pa.float64(), 2))
    if as_tensors:
        vectors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), (2, 1)), vectors)
    for start, n in ((0, 40), (0, 10), (3, 10), (16, 24), (7, 0)):
        table = pa.table({"v": pa.chunked_array([vectors[start : start + n], vectors[1:4]])})
        assert to_polars(table)["v"].to_list() == values[start : start + n] + values[1:4]
        assert to_polars(table).schema == {"v": pl.Array(pl.Float64, 2)}


def test_pandas_keeps_its_index() -> None:
    table = pd.DataFrame({"x": [1.0, 3.0]}, index=pd.Index([7, 7], name="id"))
    assert rl.Preprocessor([("scale", StandardScaler())]).fit_transform(table).index.equals(table.index)
