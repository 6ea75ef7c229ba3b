"""Ensembles, stacks and bagged folds over the whole path: measured, explained, calibrated, saved, served, on a Dataset.

Covers `tune.ensemble` too.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk

import rayline as rl
from rayline import train, tune
from rayline.inference.pipeline import InferencePipeline
from rayline.postprocess import Calibrate, Conformal, Threshold
from rayline.serve.app import create_app
from rayline.stages import OneHotEncoder
from rayline.tune.analysis import Analysis
from tests.serve.conftest import Client
from tests.tune.test_stacking import FEATURES, rows

pytest.importorskip("xgboost")

KINDS = ("ensemble", "stack", "bagged")
RAW = rows(120)


@pytest.fixture(scope="module")
def search() -> dict[str, Analysis]:
    return {
        target: tune.run(
            train.XGBoostTrainer({"max_depth": 2}, num_boost_round=8, seed=1),
            preprocessor=train.Preprocessor([("onehot", OneHotEncoder(["city"]))]),
            train_dataset=rows().select(*FEATURES, target), target_columns=[target], cv=3, num_samples=3, seed=1, verbose=False,
            config={"eta": tune.uniform(0.1, 0.5)}, metric="log_loss" if target == "late" else "rmse",
        )
        for target in ("late", "delay")
    }  # fmt: skip


def made(analysis: Analysis, kind: str) -> InferencePipeline:
    if kind == "stack":
        return analysis.stacked_pipeline()
    return analysis.ensemble() if kind == "ensemble" else analysis.bagged_pipeline()


@pytest.mark.parametrize("target", ["late", "delay"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pipeline_of_several_models_does_what_one_does(
    kind: str, target: str, search: dict[str, Analysis], tmp_path: Path
) -> None:
    pipeline = made(search[target], kind)
    features = RAW.select(FEATURES)
    predicted = pipeline.predict(features)

    # measured
    report = pipeline.evaluate(RAW, by=["city"], replicates=20)
    if target == "late":
        chance = pipeline.predict_proba(features)["probability_yes"]
        assert report.metrics["roc_auc"].value == pytest.approx(sk.roc_auc_score(RAW["late"] == "yes", chance))
    else:
        assert report.metrics["rmse"].value == pytest.approx(
            sk.root_mean_squared_error(RAW["delay"], predicted["prediction"])
        )
    assert report.slices["slice"].n_unique() == 2

    # explained: contributions of raw columns add up to the score
    few = features.head(8)
    found = pipeline.explain(few, background=features)
    total = found.select(pl.sum_horizontal("base_value", *FEATURES)).to_series().to_numpy()
    score = pipeline.predict_proba(few)["probability_yes"] if target == "late" else predicted["prediction"].head(8)
    assert total == pytest.approx(score.to_numpy(), abs=1e-6)

    # calibrated, saved and loaded
    stages = [Calibrate("sigmoid"), Threshold("f1"), Conformal(0.8)] if target == "late" else [Conformal(0.8)]
    after = pipeline.calibrated(stages, RAW)
    expected = after.predict(features, interval=True)
    held = expected.with_columns(truth=RAW[target])
    inside = (
        held.select(pl.col("truth").is_in(pl.col("set"))).to_series()
        if target == "late"
        else held.select(pl.col("truth").is_between("lower", "upper")).to_series()
    )
    assert inside.mean() >= 0.8  # type: ignore[operator]
    after.save(tmp_path / "whole.rayline")
    loaded = rl.load(tmp_path / "whole.rayline")
    assert loaded.predict(features, interval=True).equals(expected)
    assert loaded.model.framework == {"ensemble": "ensemble", "stack": "stack", "bagged": "ensemble"}[kind]

    # served
    with contextlib.closing(Client(create_app(loaded, name="whole"))) as client:
        answer = client.post("/predict", json=few.to_dicts()).json()
        assert answer["predictions"] == pytest.approx(expected["prediction"].head(8).to_list())
        assert ("sets" if target == "late" else "intervals") in answer
        explained = client.post("/explain", json=few.to_dicts()[:2])
        assert explained.status_code == 200, explained.text


@pytest.mark.ray
def test_on_a_dataset(ray_session: Any, search: dict[str, Analysis]) -> None:
    data = rl.data.from_polars(RAW).repartition(3)
    data.context.execution_options.preserve_order = True  # Ray Data passes on the blocks that are ready first
    for kind in KINDS:
        pipeline = made(search["late"], kind)
        here, there = (pipeline.evaluate(own, metrics=["roc_auc", "log_loss"], replicates=20) for own in (RAW, data))
        for name in here.metrics:
            assert there.metrics[name] == pytest.approx(here.metrics[name], rel=1e-9)
        found = pl.DataFrame(pipeline.transform(data).select_columns(["prediction"]).take_all())
        assert found["prediction"].to_list() == pipeline.predict(RAW.select(FEATURES))["prediction"].to_list()
    stages = [Calibrate("sigmoid"), Threshold("f1")]
    pipeline = made(search["late"], "stack")
    both = [pipeline.calibrated(stages, own).predict_proba(RAW.select(FEATURES)).to_numpy() for own in (RAW, data)]
    assert np.array_equal(both[0], both[1])
