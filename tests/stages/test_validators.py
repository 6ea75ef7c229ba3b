"""Checks of data."""

from __future__ import annotations

import polars as pl
import pytest

from rayline.core.errors import DataError
from rayline.core.stage import ColumnStage
from rayline.engine.local import to_polars
from rayline.inference.pipeline import Preprocessor
from rayline.stages import (
    CheckCategories,
    CheckMissing,
    CheckRange,
)

from .one_stage import run


@pytest.mark.parametrize(
    ("stage", "column", "expected"),
    [
        (CheckRange(), "x", "values from 1.0 to 5.0; got 9.0"),
        (CheckRange(low=2.0), "x", "values of at least 2.0; got 1.0"),
        (CheckRange(high=6.0), "x", "values of at most 6.0; got 9.0"),
        (CheckCategories(), "c", "one of 2 categories seen in fit, ['a', 'b']; got 'z'"),
        (CheckMissing(["y"]), "y", "a value in every row; got None"),
    ],
)
@pytest.mark.parametrize("rows", ["table", "lazy", "arrow", "columns"])
def test_errors_of_checks_say_the_values_alone(stage: ColumnStage, column: str, expected: str, rows: str) -> None:
    seen = pl.DataFrame({"x": [1.0, 5.0], "c": ["a", "b"], "y": [1, 2]})
    checked = Preprocessor([("checked", stage)]).fit(seen)
    new = pl.DataFrame({"x": [1.0, 9.0], "c": ["z", "a"], "y": [None, 1]}, schema=seen.schema)
    given = {"table": new, "lazy": new.lazy(), "arrow": new.to_arrow(), "columns": new.to_dict(as_series=False)}
    with pytest.raises(DataError) as caught:
        to_polars(checked.transform(given[rows]))  # a LazyFrame fails when it is computed
    assert str(caught.value) == (
        f"Preprocessor.transform: stage 'checked' refuses values of column {column!r}.\n  Expected {expected}.\n"
        '  Hint: correct the data, or set action="missing" and impute afterwards.'
    )


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
    assert [record.args[1] for record in caplog.records] == [2, 1, 1]  # type: ignore[index]
    removed = run(CheckRange(high=2, action="missing"), table)
    assert removed["x"].to_list() == [1.0, None]
