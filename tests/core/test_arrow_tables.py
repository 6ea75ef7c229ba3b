"""Tables of Polars that Arrow cannot hold are refused by column; names of columns that stand for values always fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rayline import data, train
from rayline.core.arrow_tables import to_arrow
from rayline.core.errors import SchemaError
from rayline.stages import MultiHotEncoder, OneHotEncoder, TargetEncoder

LABELS = ["a\0b", "c", "d"] * 20


def test_a_type_that_arrow_lacks_is_named() -> None:
    table = pl.DataFrame({"x": [1.0], "big": pl.Series([1], dtype=pl.Int128)})
    for convert in (to_arrow, data.from_polars):
        with pytest.raises(SchemaError, match="'big' holds Int128"):
            convert(table)  # type: ignore[operator]


def test_a_name_with_nul_is_refused() -> None:
    with pytest.raises(SchemaError, match="NUL character"):
        to_arrow(pl.DataFrame({"a\0b": [1]}))


@pytest.mark.parametrize(
    ("stage", "column", "name"),
    [
        (OneHotEncoder(columns=["city"]), LABELS, "city_a\u2400b"),
        (MultiHotEncoder(columns=["city"]), [[label] for label in LABELS], "city_a\u2400b"),
        (TargetEncoder(columns=["city"]), ["x", "y", "z"] * 20, "city_a\u2400b"),
    ],
)
def test_columns_that_stand_for_values_have_names_of_arrow(stage: Any, column: list[Any], name: str) -> None:
    table = pl.DataFrame({"city": column, "y": LABELS})
    made = train.Preprocessor([("encode", stage)]).fit(table, target_columns=["y"]).transform(table.drop("y"))
    assert name in made.columns
    assert to_arrow(made).num_rows == table.height


def test_classes_with_nul_are_trained_predicted_and_written(tmp_path: Path) -> None:
    table = pl.DataFrame({"x": [0.0, 1.0, 2.0] * 20, "city": LABELS, "y": LABELS})
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    stages = train.Preprocessor([("onehot", OneHotEncoder(columns=["city"]))])
    pipeline = train.fit(trainer, stages, table, target_columns=["y"], verbose=False).inference_pipeline
    assert pipeline.write_predictions(table, tmp_path / "rows", proba=True) == table.height
    written = pl.read_parquet(tmp_path / "rows" / "*.parquet")
    assert written["prediction"].to_list() == LABELS
    assert "probability_a\u2400b" in written.columns


def test_rows_that_parquet_cannot_hold_are_refused(tmp_path: Path) -> None:
    table = pl.DataFrame({"x": [0.0, 1.0] * 20, "y": [0.0, 2.0] * 20})
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    pipeline = train.fit(trainer, None, table, target_columns=["y"], verbose=False).inference_pipeline
    with pytest.raises(SchemaError, match="'id' holds Int128"):
        pipeline.write_predictions(table.with_columns(id=pl.lit(1, pl.Int128)), tmp_path / "rows")
