"""The design's own script, line by line, on a small table: every call that a user types, in its order."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xgboost

import rayline as rl
from rayline import data, serve, train, tune
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler


def flights(n: int = 1_500) -> pl.DataFrame:
    random = np.random.default_rng(0)
    hour = random.integers(5, 23, n)
    late = random.random(n) < 1 / (1 + np.exp(-(hour - 18) / 2))
    columns = {"hour": hour.astype(float), "carrier": random.choice(["AA", "UA", "B6"], n), "late": late}
    return pl.DataFrame(columns).with_columns(hour=pl.when(pl.int_range(n) % 20 != 0).then("hour"))


def post(url: str, rows: list[dict[str, Any]]) -> Any:
    request = urllib.request.Request(f"{url}/predict", json.dumps(rows).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.load(response)["predictions"]


@pytest.mark.ray
@pytest.mark.slow
def test_the_designs_path(ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flights().write_parquet("flights.parquet")

    ds = data.read_parquet("flights.parquet")
    trainset, testset = data.train_test_split(ds, percentage=0.2)

    pipeline = train.Preprocessor(
        stages=[("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder())]
    )
    pipeline = pipeline.fit(trainset, target_columns=["late"])
    pipeline.save("preprocessor.json")
    assert train.Preprocessor.load("preprocessor.json") == pipeline

    trainer = train.XGBoostTrainer(
        args=[{"objective": "binary:logistic", "eval_metric": ["logloss", "error"]}],
        kwargs=dict(num_boost_round=20, verbose_eval=False),
        num_workers=2,
        use_gpu=False,
    )
    result = train.fit(
        trainer, pipeline, train_dataset=trainset, test_dataset=testset, target_columns=["late"],
        callbacks=[train.EarlyStopping("test-logloss", patience=5)],
    )  # fmt: skip
    assert isinstance(trainer.fitted_model, xgboost.Booster)
    assert result.metrics["test-logloss"] < 0.6
    assert result.history.height > 1
    assert result.model.classes == [False, True]

    analysis = tune.run(
        train.XGBoostTrainer(*trainer.args, **trainer.kwargs),
        data_config=dict(train_pipeline=pipeline, train_dataset=trainset, cv=3, target_columns=["late"]),
        config={
            "max_depth": tune.randint(3, 10),
            "eta": tune.loguniform(0.01, 0.3),
            "preprocessor": {"impute": {"strategy": tune.choice(["mean", "median"])}},
        },
        metric="logloss",
        mode="min",
        num_samples=2,
    )
    model, best = analysis.best_model, analysis.best_pipeline

    by_hand = ds.map_batches(best.transform).map_batches(model.predict)
    inference_pipeline = best.chain(model)
    predictions = inference_pipeline.transform(ds)
    assert predictions.count() == 1_500
    chained = predictions.to_pandas()
    assert sorted(by_hand.to_pandas()["prediction"]) == sorted(chained["prediction"])
    native = pipeline.chain(trainer.fitted_model)  # a native Booster works too, and remembers its labels
    assert native.predict(flights().head(3)).schema == pl.Schema({"prediction": pl.Boolean()})

    inference_pipeline.save("late.rayline")
    loaded = rl.load("late.rayline")
    rows = flights().head(7).drop("late").to_dicts()
    deployment = serve.to_deployment(loaded, name="late")
    try:
        deployment.deploy()
        assert post(deployment.url, rows) == [row["prediction"] for row in inference_pipeline.predict(rows)]
    finally:
        deployment.delete()

    booster = trainer.fitted_model
    bare = serve.to_deployment(booster, name="bare")
    try:
        bare.deploy()
        features = pipeline.transform(flights().head(3)).select(pipeline.output_schema.names()).to_dicts()
        assert post(bare.url, features) == [int(v) for v in native.predict(flights().head(3))["prediction"]]
    finally:
        bare.delete()
