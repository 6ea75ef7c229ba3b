"""Moments and extremes of columns in memory: to the bit those of the query, on both ways, whatever the values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline.core.scan_results import statistics_of, statistics_of_rows
from rayline.core.statistics import moments
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.moments import MinMax, Moments


def table() -> pl.DataFrame:
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "normal": random.normal(size=50),
        "zeros": random.choice([0.0, -0.0], 50),
        "ends": random.choice([-math.inf, 5e-324, 1e308, math.inf], 50),
        "float32": random.normal(size=50).astype(np.float32),
        "integers": random.integers(-5, 5, 50),
        "truths": random.random(50) < 0.5,
        "nan": np.where(random.random(50) < 0.1, math.nan, 1.5),
    }
    present = pl.Series(random.random(50) < 0.7)
    rows = pl.DataFrame(columns)
    missing = rows.select(pl.when(present).then(pl.all()).name.suffix(" or missing"))
    return pl.concat([rows, missing], how="horizontal").with_columns(empty=pl.lit(None, dtype=pl.Float64))


@pytest.mark.parametrize("limit", [1 << 22, 0])
@pytest.mark.parametrize("statistic", [MinMax, Moments])
def test_columns_in_memory_have_the_bits_of_the_query(
    statistic: type[MinMax | Moments], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "SERIAL_VALUES", limit)
    monkeypatch.setattr(moments, "SERIAL_ROWS", limit)
    rows = table()
    requests = [StatisticRequest(statistic, (name,)) for name in rows.columns]
    known = statistic.of_columns(rows, rows.columns)
    assert [known[i] is None for i in map(rows.columns.index, ("normal", "nan", "zeros or missing"))] == [0, 1, 0]
    assert repr(statistics_of_rows(rows, requests)) == repr(statistics_of(rows.lazy(), requests))
