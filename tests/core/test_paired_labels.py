"""Labels of two numbers: groups of any type, and the bounds of times."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline.core import paired_labels
from rayline.core.errors import DataError

VALUES = ["a", "c", "b", "a", "b", "a"]


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(["a", "b", "c"]), pl.Enum(["c", "b", "a"])])
def test_groups_are_equal_in_any_block(dtype: Any) -> None:
    table = pl.DataFrame({"y": np.arange(6.0), "g": pl.Series(VALUES).cast(dtype)})
    whole = paired_labels.of_ranking(table, ["y", "g"], dtype)
    # Blocks whose categories came in another order, as they do from other files.
    blocks = [table.slice(i, 2).with_columns(pl.col("g").cast(pl.String).cast(dtype)) for i in (4, 2, 0)]
    parts = np.concatenate([paired_labels.of_ranking(block, ["y", "g"], dtype) for block in blocks[::-1]])
    assert np.array_equal(whole, parts)
    strings = paired_labels.of_ranking(table.with_columns(pl.col("g").cast(pl.String)), ["y", "g"], pl.String())
    assert np.array_equal(whole, strings)
    assert [*map(VALUES.index, VALUES)] == [list(whole[:, 1]).index(code) for code in whole[:, 1]]


def test_rows_of_a_group_keep_their_order() -> None:
    table = pl.DataFrame({"g": VALUES, "i": range(6)})
    found = paired_labels.in_groups(table, "g")
    assert found["i"].to_list() == [0, 3, 5, 2, 4, 1]
    codes = paired_labels.of_ranking(found.with_columns(y=0.0), ["y", "g"], pl.String())[:, 1]
    assert paired_labels.sizes(codes).tolist() == [3, 2, 1]
    assert paired_labels.sizes(np.empty(0)).tolist() == []


def test_bounds_of_times() -> None:
    table = pl.DataFrame({"low": [0.0, 1.0, 2.0, 3.0], "high": [1.0, 1.0, None, float("nan")]})
    found = paired_labels.of_survival(table, ["low", "high"], event=False)
    assert found.tolist() == [[0.0, 1.0], [1.0, 1.0], [2.0, np.inf], [3.0, np.inf]]
    event = pl.DataFrame({"days": [1, 2], "died": [True, False]})
    assert paired_labels.of_survival(event, ["days", "died"], event=True).tolist() == [[1.0, 1.0], [2.0, np.inf]]
    assert paired_labels.of_survival(event, ["days"], event=False).tolist() == [[1.0, 1.0], [2.0, 2.0]]
    for low, high in (([-1.0], [1.0]), ([2.0], [1.0]), ([0.0], [0.0]), ([float("inf")], [None])):
        wrong = pl.DataFrame({"low": low, "high": pl.Series(high, dtype=pl.Float64)})
        with pytest.raises(DataError, match=r"'low'|'high'"):
            paired_labels.of_survival(wrong, ["low", "high"], event=False)
