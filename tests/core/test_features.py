"""Features as a matrix: every number of the table in its row and column, whatever the size of the tiles that it is copied in."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline.core import features
from rayline.core.features import Features


def _table(n: int) -> pl.DataFrame:
    random = np.random.default_rng(n)
    return pl.DataFrame({
        "x": random.normal(size=n), "single": random.normal(size=n).astype(np.float32), "huge": np.full(n, 1e300),
        "whole": random.integers(-5, 5, n), "byte": random.integers(0, 2, n).astype(np.uint8), "flag": random.integers(0, 2, n) == 1,
        "gaps": pl.Series([None if i % 7 == 3 else float(i) for i in range(n)], dtype=pl.Float64),
        "integers with gaps": pl.Series([None if i % 5 == 1 else i for i in range(n)], dtype=pl.Int64),
        "category": pl.Series(["ab"[i % 2] for i in range(n)], dtype=pl.Enum(["b", "a"])),
    })  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_rows", [0, 1, 255, 256, 257, 1000])
@pytest.mark.parametrize("n_bytes", [1, 16 << 20])
def test_each_number_is_in_its_place(monkeypatch: pytest.MonkeyPatch, n_rows: int, n_bytes: int, dtype: Any) -> None:
    monkeypatch.setattr(features, "TILE_ROWS", 400)
    monkeypatch.setattr(features, "TILE_BYTES", n_bytes)
    table = _table(n_rows)
    matrix = Features(table, schema=table.schema).matrix(dtype)
    assert matrix.shape == (n_rows, table.width)
    assert matrix.dtype == dtype
    assert matrix.flags.c_contiguous
    for place, column in enumerate(table.get_columns()):
        physical = column.to_physical() if isinstance(column.dtype, pl.Enum) else column
        expected = [np.nan if value is None else float(value) for value in physical.to_list()]
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(matrix[:, place], np.array(expected, dtype=np.float64).astype(dtype))


def test_a_matrix_is_kept_where_it_is_wanted() -> None:
    table = _table(9)
    plain, kept = Features(table, schema=table.schema), Features(table, schema=table.schema).kept()
    assert plain.matrix() is not plain.matrix()
    assert kept.matrix() is kept.matrix()
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(kept.matrix(dtype), plain.matrix(dtype))
    assert kept.of_rows(table.to_dicts()[:2]).n_rows == 2


def test_a_tensor_takes_as_many_columns_as_it_has_values() -> None:
    image = pl.Series(np.arange(36.0).reshape(3, 2, 3, 2), dtype=pl.Array(pl.Float64, (2, 3, 2)))
    table = pl.DataFrame({"image": image, "x": [0.5, 1.5, 2.5]})
    found = Features(table, schema=table.schema)
    assert found.places == {"image": range(12), "x": range(12, 13)}
    assert found.dense_width == 13
    assert found.matrix()[:, found.places["x"].start].tolist() == table["x"].to_list()
