"""Stages that change which rows are trained on."""

from __future__ import annotations

import polars as pl
import pytest

from rayline.core.errors import ParameterError, SchemaError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import Downsample, DropRows, StandardScaler, Upsample

TABLE = pl.DataFrame(
    {"x": [float(i) for i in range(1000)], "y": ["rare" if i % 20 == 0 else "common" for i in range(1000)]}
)


def test_drop_rows_in_training_only() -> None:
    fitted = Preprocessor([("drop", DropRows(where=["<", ["col", "x"], 10])), ("scale", StandardScaler())]).fit(TABLE)
    assert fitted.transform_training(TABLE).height == 990
    assert fitted.transform(TABLE).height == 1000
    mean = fitted["scale"].learned["columns"]["x"]["mean"]  # type: ignore[index]  # what comes after sees the rows that are left
    assert mean == pytest.approx(TABLE["x"].tail(990).mean())


def test_upsample() -> None:
    counts = Preprocessor([("up", Upsample())]).fit_transform(TABLE, target_columns=["y"])["y"].value_counts()
    assert dict(counts.rows()) == {"common": 950, "rare": 950}


def test_downsample() -> None:
    result = Preprocessor([("down", Downsample(seed=1))]).fit_transform(TABLE, target_columns=["y"])
    counts = dict(result["y"].value_counts().rows())
    assert counts["rare"] == 50
    assert 25 < counts["common"] < 80
    other = Preprocessor([("down", Downsample(seed=2))]).fit_transform(TABLE, target_columns=["y"])
    assert not other.equals(result)


def test_wrong_use() -> None:
    with pytest.raises(SchemaError, match="no class column"):
        Preprocessor([("up", Upsample())]).fit(TABLE)
    with pytest.raises(SchemaError, match="no condition"):
        Preprocessor([("drop", DropRows(where=["+", 1, 2]))]).fit(TABLE)
    with pytest.raises(ParameterError):
        Downsample(ratio=2)
