"""Columns whose names are patterns for Polars, or nothing at all: every stage does with them what it does with others."""

from __future__ import annotations

import contextlib
from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline import train
from rayline.core import registry

VALUES: dict[str, Any] = {
    "floats": [1.0, None, 3.0, 4.5] * 10,
    "texts": ["a", "b", None, "a"] * 10,
    "truths": [True, False, None, True] * 10,
    "times": pl.datetime_range(pl.datetime(2020, 1, 1), pl.datetime(2020, 2, 9), interval="1d", eager=True),
    "lists": [[1.0, 2.0]] * 40,
}
STAGES = [name for name in registry.stages() if registry.stage(name).__module__.startswith("rayline.")]


def made(stage: str, column: str) -> Any:
    """Return a stage of one column; None when it needs more than that."""
    for arguments in ({"columns": [column]}, {"column": column}, {}):
        with contextlib.suppress(TypeError, rl.RaylineError):
            return registry.stage(stage)(**arguments)
    return None


def outcome(stage: str, column: str, values: Any) -> Any:
    """Return the shape and the types of the result, or that the stage refuses the column."""
    instance = made(stage, column)
    if instance is None:
        return None
    try:
        table = train.Preprocessor([("stage", instance)]).fit_transform(pl.DataFrame({column: values, "y": range(40)}))
    except rl.RaylineError as error:
        return type(error)
    return table.shape, table.dtypes


@pytest.mark.parametrize("name", ["^x$", "^.*$", "*", ""])
@pytest.mark.parametrize("kind", VALUES)
def test_a_name_is_no_pattern(kind: str, name: str) -> None:
    usual = {stage: outcome(stage, "x", VALUES[kind]) for stage in STAGES}
    assert any(isinstance(result, tuple) for result in usual.values())
    assert {stage: outcome(stage, name, VALUES[kind]) for stage in STAGES} == usual
