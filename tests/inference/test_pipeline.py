"""The inference pipeline: rows, tables and probabilities, as the framework itself gives them.

Covers `inference.model` and `inference.scorer` too.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import rayline as rl
from rayline import train
from rayline.inference.pipeline import as_pipeline
from rayline.stages import Vectorizer
from tests import toy


@pytest.fixture(scope="module")
def pipeline() -> rl.InferencePipeline:
    return toy.pipeline()


def _as(kind: str, table: pl.DataFrame) -> Any:
    return {
        "polars": table,
        "lazy": table.lazy(),
        "pandas": table.to_pandas(),
        "arrow": table.to_arrow(),
        "arrays": {name: table[name].to_numpy() for name in table.columns},
        "rows": table.to_dicts(),
    }[kind]


@pytest.mark.parametrize("kind", ["polars", "lazy", "pandas", "arrow", "arrays", "rows"])
def test_predict_gives_back_the_type_it_was_given(pipeline: rl.InferencePipeline, kind: str) -> None:
    table = toy.table().drop("late")
    expected = pipeline.predict(table)["prediction"].to_list()
    got = pipeline.predict(_as(kind, table))
    expected_type = {"lazy": pl.LazyFrame, "polars": pl.DataFrame, "arrow": pa.Table, "arrays": dict, "rows": list}.get(
        kind
    )
    assert expected_type is None or isinstance(got, expected_type)
    values = {
        "lazy": lambda: list(got.collect()["prediction"]),
        "rows": lambda: [row["prediction"] for row in got],
        "arrow": lambda: list(got.column("prediction").to_pylist()),
    }.get(kind, lambda: list(got["prediction"]))()
    assert values == expected
    assert set(expected) == {"no", "yes"}


def test_one_row_gives_the_same_bits_as_many(pipeline: rl.InferencePipeline) -> None:
    rows = toy.table().drop("late").to_dicts()
    many = pipeline.predict_proba(rows)
    assert [pipeline.predict_proba([row])[0] for row in rows] == many
    assert [pipeline.predict([row])[0] for row in rows] == pipeline.predict(rows)


def test_transform_adds_to_what_is_kept(pipeline: rl.InferencePipeline) -> None:
    table = toy.table()
    assert pipeline.transform(table).columns == [*table.columns, "prediction"]
    assert pipeline.transform(table, keep_columns=["late"], proba=True).columns == [
        "late", "prediction", "probability_no", "probability_yes",
    ]  # fmt: skip
    assert pipeline.transform(table, keep_columns=[]).columns == ["prediction"]
    with pytest.raises(rl.SchemaError, match="keep_columns"):
        pipeline.transform(table, keep_columns=["lateness"])


def test_columns_may_come_in_any_order_and_with_others(pipeline: rl.InferencePipeline) -> None:
    table = toy.table()
    shuffled = table.select(["late", "city", "size", "age"]).with_columns(id=pl.lit("x"))
    assert pipeline.predict(shuffled).equals(pipeline.predict(table))


@pytest.mark.parametrize("rows", [1, 30])
def test_missing_and_wrong_columns_are_named(pipeline: rl.InferencePipeline, rows: int) -> None:
    data = toy.table().head(rows)
    with pytest.raises(rl.SchemaError, match="'city'"):
        pipeline.predict(data.drop("city").to_dicts())
    with pytest.raises(rl.SchemaError, match="'age'"):
        pipeline.predict(data.with_columns(age=pl.lit("old")).to_dicts())
    with pytest.raises(rl.SchemaError, match="'size'"):
        pipeline.predict(data.with_columns(size=pl.lit(1.5)).to_dicts())


def test_no_rows_give_no_predictions(pipeline: rl.InferencePipeline) -> None:
    got = pipeline.predict(toy.table().head(0))
    assert got.schema == pl.Schema({"prediction": pl.String()})
    assert pipeline.predict([]) == []
    empty = pipeline.transform(toy.table().head(0), proba=True, on_error="collect")
    assert empty.columns[-4:] == ["prediction", "probability_no", "probability_yes", "prediction_error"]
    assert empty.height == 0


def test_native_models_chain() -> None:
    pipeline = toy.pipeline()
    assert pipeline.preprocessor is not None
    native = pipeline.model.native
    chained = pipeline.preprocessor.chain(native)
    raw = pipeline.preprocessor.chain(native).predict(toy.table())["prediction"]
    assert chained.target.task == "regression"
    assert np.allclose(raw, pipeline.predict_proba(toy.table())["probability_yes"])
    with pytest.raises(rl.ParameterError, match="not a model that Rayline knows"):
        pipeline.preprocessor.chain(object())
    with pytest.raises(rl.ParameterError, match="does not name its features"):
        as_pipeline(native)
    with pytest.raises(rl.NotFittedError):
        pipeline.preprocessor.clone().chain(native)


def test_pickles_through_the_frameworks_own_files(pipeline: rl.InferencePipeline) -> None:
    copy = pickle.loads(pickle.dumps(pipeline))
    assert copy.predict(toy.table()).equals(pipeline.predict(toy.table()))


def test_regressions_have_no_probabilities() -> None:
    pipeline = toy.pipeline()
    assert pipeline.preprocessor is not None
    with pytest.raises(rl.ParameterError, match="no probabilities"):
        pipeline.preprocessor.chain(pipeline.model.native).predict_proba(toy.table())


def test_loading_imports_neither_ray_nor_training(tmp_path: Any) -> None:
    path = tmp_path / "x.rayline"
    toy.pipeline().save(path)
    code = (
        "import sys; from tests import toy; import rayline as rl\n"
        f"p = rl.load({str(path)!r}); p.predict(toy.table().to_dicts()[:1])\n"
        "bad = [m for m in sys.modules if m == 'ray' or m.startswith(('ray.', 'rayline.train', 'rayline.tune', 'rayline.serve'))]\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_sparse_vectors_may_come_back_as_a_batch_of_numpy_has_them() -> None:
    """By hand, `ds.map_batches(pipeline.transform).map_batches(model.predict)` hands structs over as dicts of int64."""
    table = pl.DataFrame({"note": ["the good lamp is nice", "a bad one it is"] * 10, "y": ["a", "b"] * 10})
    trainer = train.XGBoostTrainer({"nthread": 1}, num_boost_round=2)
    result = train.fit(trainer, train.Preprocessor([("words", Vectorizer())]), table, target_columns="y", verbose=False)
    vectors = np.empty(table.height, dtype=object)
    vectors[:] = result.preprocessor.transform(table.drop("y"))["note"].to_list()
    assert list(result.model.predict({"note": vectors})["prediction"]) == table["y"].to_list()
    vectors[0] = {"size": 3, "indices": [-1], "values": [1.0]}
    with pytest.raises(rl.SchemaError, match="'note'"):
        result.model.predict({"note": vectors})


def test_a_loaded_pipeline_has_a_preprocessor_that_chains(tmp_path: Path) -> None:
    table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": [0.0, 1.0, 2.0, 3.0]})
    inner = rl.Preprocessor([("scale", rl.stages.StandardScaler())])
    trainer = train.XGBoostTrainer({"min_child_weight": 0}, num_boost_round=2, seed=1)
    pipeline = trainer.fit(rl.Preprocessor([("inner", inner)]), table, None, "y", verbose=False).inference_pipeline
    pipeline.save(tmp_path / "x.rayline")
    loaded = rl.load(tmp_path / "x.rayline").preprocessor
    assert type(loaded) is rl.Preprocessor
    assert type(loaded["inner"]) is rl.Preprocessor
    assert loaded.chain(pipeline.model).predict(table).equals(pipeline.predict(table))
