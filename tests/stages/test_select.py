"""Stages that choose columns, against `DataFrame.drop` and `DataFrame.select`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from polars import selectors as cs

from rayline import ParameterError, SchemaError
from rayline.stages import DropColumns, SelectColumns
from rayline.train import Preprocessor

TABLE = pl.DataFrame({"id": [1, 2], "x": [0.5, None], "name": ["a", None], "late": ["no", "yes"]})


@pytest.mark.parametrize(("columns", "chosen"), [(["id", "name"], ["id", "name"]), (cs.string(), ["name"])])
def test_drop(columns: Any, chosen: Sequence[str]) -> None:
    p = Preprocessor([("drop", DropColumns(columns))]).fit(TABLE, target_columns=["late"])
    assert p.transform(TABLE).equals(TABLE.drop(chosen))
    assert [*p.output_schema] == [name for name in TABLE.columns if name not in (*chosen, "late")]


@pytest.mark.parametrize(("columns", "chosen"), [(["x"], ["x"]), (cs.numeric(), ["id", "x"])])
def test_select_keeps_targets_and_columns_that_fit_did_not_see(columns: Any, chosen: Sequence[str]) -> None:
    p = Preprocessor([("keep", SelectColumns(columns))]).fit(TABLE, target_columns=["late"])
    assert p.transform(TABLE).equals(TABLE.select(*chosen, "late"))
    later = TABLE.with_columns(row=pl.Series([7, 8]))
    assert p.transform(later).columns == [*chosen, "late", "row"]


def test_the_way_back_has_no_values() -> None:
    p = Preprocessor([("keep", SelectColumns(["x"]))]).fit(TABLE.drop("late"))
    back = p.inverse_transform(p.transform(TABLE.drop("late")))
    assert back["x"].to_list() == [0.5, None]
    assert back["name"].to_list() == [None, None]


@pytest.mark.parametrize("stage", [DropColumns, SelectColumns])
def test_wrong_columns(stage: Any) -> None:
    with pytest.raises(ParameterError, match="columns is missing"):
        stage()
    with pytest.raises(SchemaError, match="'nope'"):
        Preprocessor([("s", stage(["nope"]))]).fit(TABLE)
