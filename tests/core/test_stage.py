"""The contract of stages: the name that a stage has in its preprocessor is context, and no argument."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pytest

from rayline import DataError, Preprocessor
from rayline.core.errors import place
from rayline.core.operations.base import Affine, Operation
from rayline.core.stage import NumberStage, operations_of
from rayline.stages import StandardScaler


@dataclass(frozen=True)
class Halved(NumberStage):
    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        if column == "wrong":
            raise DataError.here("no number.")
        return [Affine(column, 0.0, 2.0)]


@dataclass(frozen=True)
class Named(NumberStage):
    """As stages were written before: they take their name."""

    def column_to_operations(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:  # type: ignore[override]
        return [Affine(column, 0.0, float(len(where)))]

    def invert(self, where: str, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:  # type: ignore[override]
        return [Affine(name, 0.0, 1.0 / len(where)) for name in schema]


TABLE = pl.DataFrame({"x": [4.0, 8.0]})


def test_an_error_names_the_stage() -> None:
    assert Preprocessor([("half", Halved())]).fit_transform(TABLE)["x"].to_list() == [2.0, 4.0]
    with pytest.raises(DataError, match=r"^half: no number"):
        Preprocessor([("half", Halved())]).fit(TABLE.rename({"x": "wrong"}))
    assert place() == ""


def test_a_stage_that_takes_its_name_still_works() -> None:
    fitted = Preprocessor([("four", Named())]).fit(TABLE)
    assert fitted.transform(TABLE)["x"].to_list() == [1.0, 2.0]
    assert fitted.inverse_transform(fitted.transform(TABLE))["x"].to_list() == [4.0, 8.0]


def test_operations_of_a_name() -> None:
    stage = Preprocessor([("scale", StandardScaler())]).fit(TABLE).leaves[0][1]
    assert operations_of("any", stage) == stage.to_operations() == operations_of("any", stage, training=True)
