from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed (pip install 'rayline[mlflow]')")

from rayline import ArtifactError, train
from rayline.stages import Log, OneHotEncoder
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's own dependencies


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs.db'}")
    yield
    mlflow.set_tracking_uri(None)


def test_a_logged_model_predicts_as_the_pipeline(store: None) -> None:
    import rayline.mlflow

    preprocessor = train.Preprocessor([("onehot", OneHotEncoder())])
    trainer = train.XGBoostTrainer({"nthread": 1}, num_boost_round=5)
    result = trainer.fit(preprocessor, toy.table(), toy.table(), target_columns="late", verbose=False)
    with mlflow.start_run() as run:
        info = rayline.mlflow.log_model(result.inference_pipeline, "late")
    table = toy.table().drop("late").to_pandas()
    expected = result.inference_pipeline.predict(table)
    assert mlflow.pyfunc.load_model(info.model_uri).predict(table).equals(expected)
    assert rayline.mlflow.load_model(info.model_uri).predict(table).equals(expected)
    kept = mlflow.get_run(run.info.run_id).data.metrics
    assert kept["test-roc_auc"] == pytest.approx(result.metrics["test-roc_auc"])
    files = [p.name for p in Path(mlflow.artifacts.download_artifacts(info.model_uri)).rglob("*")]
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".cloudpickle"))]


def test_target_stages_go_along(store: None) -> None:
    import rayline.mlflow

    table = toy.table().with_columns(price=pl.col("size") * 10.0 + 1).drop("late")
    steps = train.Preprocessor([("onehot", OneHotEncoder())], target_stages=[("log", Log())])
    result = train.XGBoostTrainer({"nthread": 1}, num_boost_round=9).fit(
        steps, table, target_columns="price", verbose=False
    )
    with mlflow.start_run() as run:
        info = rayline.mlflow.log_model(result.inference_pipeline, "price")
    rows = table.drop("price").to_pandas()
    assert mlflow.pyfunc.load_model(info.model_uri).predict(rows).equals(result.inference_pipeline.predict(rows))
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(result.metrics)


def test_a_folder_without_a_pipeline_is_named(tmp_path: Path) -> None:
    import rayline.mlflow

    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(ArtifactError, match="holds no pipeline of Rayline"):
        rayline.mlflow.load_model(str(tmp_path))
