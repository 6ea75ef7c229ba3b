"""Checks of data."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from rayline.core.errors import DataError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import (
    CheckCategories,
    CheckMissing,
    CheckRange,
)


def run(stage: Any, table: pl.DataFrame, new: pl.DataFrame | None = None) -> pl.DataFrame:
    return Preprocessor([("stage", stage)]).fit(table).transform(table if new is None else new)


CITIES = pl.DataFrame({"c": ["Oslo", "Rome", "Oslo", None]})
NEW = pl.DataFrame({"c": ["Rome", "Lima", None]})


def test_checks(caplog: pytest.LogCaptureFixture) -> None:
    table = pl.DataFrame({"x": [1.0, 5.0], "c": ["a", "b"]})
    for stage, bad in (
        (CheckRange(), {"x": [6.0], "c": ["a"]}),
        (CheckCategories(), {"x": [1.0], "c": ["z"]}),
        (CheckMissing(), {"x": [None], "c": ["a"]}),
    ):
        with pytest.raises(DataError, match="stage 'stage'"):
            run(stage, table, pl.DataFrame(bad, schema=table.schema))
    with caplog.at_level("WARNING", "rayline.checks"):
        new = pl.DataFrame({"x": [6.0, 7.0, 1.0], "c": ["a", "z", None]}, schema=table.schema)
        for stage in (CheckRange(action="warn"), CheckCategories(action="warn"), CheckMissing(action="warn")):
            assert run(stage, table, new).equals(new)
    assert [record.args[1] for record in caplog.records] == [2, 1, 1]
    gone = run(CheckRange(high=2, action="missing"), table)
    assert gone["x"].to_list() == [1.0, None]
