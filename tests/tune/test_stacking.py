"""Pipelines made of several models of a search: the models of all folds, and a model on top of the best trials.

Covers `inference.stack` too.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn.metrics import log_loss

import rayline as rl
from rayline import train, tune
from rayline.core.errors import ArtifactError, ParameterError
from rayline.inference.ensemble import Ensemble, WeightedMembers
from rayline.inference.stack import Stack, StackMembers
from rayline.stages import OneHotEncoder, StandardScaler
from rayline.tune.analysis import Analysis

pytest.importorskip("xgboost")


def rows(n: int = 240) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x, city = random.normal(size=n), random.choice(["Oslo", "Rome"], n)
    score = x + (city == "Rome") + random.normal(size=n) * 0.5
    return pl.DataFrame(
        {
            "x": x,
            "z": random.normal(size=n),
            "city": city,
            "late": np.where(score > 0.5, "yes", "no"),
            "gate": np.digitize(score, [0.0, 1.0]).astype(str),
            "delay": score * 10,
            "query": np.repeat(np.arange(n // 8), 8),
            "stars": np.digitize(score, [0.0, 1.0]),
        }
    )


FEATURES = ["x", "z", "city"]


def search(target: str, params: dict[str, Any] | None = None, **more: Any) -> Analysis:
    table = rows().select(*FEATURES, target, *more.values())
    preprocessor = train.Preprocessor([("scale", StandardScaler()), ("onehot", OneHotEncoder())])
    return tune.run(
        train.XGBoostTrainer(params or {}, num_boost_round=8, seed=1), preprocessor=preprocessor, train_dataset=table,
        target_columns=[target], cv=3, config={"max_depth": tune.grid_search([1, 3])}, verbose=False, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def late() -> Analysis:
    return search("late")


def goes_the_whole_path(pipeline: rl.InferencePipeline, folder: Path) -> None:
    table = rows().select(FEATURES)
    expected = pipeline.predict(table)
    pipeline.save(folder / "p.rayline")
    assert rl.load(folder / "p.rayline").predict(table).equals(expected)
    assert pickle.loads(pickle.dumps(pipeline)).predict(table).equals(expected)
    one, few = pl.DataFrame(pipeline.predict(table.head(2).to_dicts())), expected.head(2)
    assert_frame_equal(one, few, rel_tol=1e-12)  # a linear model on top adds in another order
    transformed = pipeline.transform(table.to_pandas())
    assert pl.from_pandas(transformed[list(expected.columns)]).equals(expected)


def test_bagged_folds_are_their_mean(late: Analysis, tmp_path: Path) -> None:
    pipeline = late.bagged_pipeline()
    members = pipeline.model.native.pipelines
    assert len(members) == 3
    table = rows()
    parts = [m.predict_proba(table)["probability_yes"].to_numpy() for m in members]
    found = pipeline.predict_proba(table)["probability_yes"].to_numpy()
    assert np.allclose(found, np.mean(parts, axis=0), rtol=1e-6)
    # Each member is the model of its fold: it gives the held-out predictions of the search.
    for fold, member in enumerate(members):
        held = late.oof.filter(pl.col("fold") == fold)
        own = member.predict_proba(held.select(FEATURES))["probability_yes"].to_numpy()
        assert np.allclose(own, held["probability_yes"].to_numpy(), rtol=1e-5)
    assert pipeline.model.metrics == {"cv-log_loss": late.best_score}
    goes_the_whole_path(pipeline, tmp_path)
    assert len(late.bagged_pipeline(trial=0).model.native.pipelines) == 3


def test_a_linear_model_on_held_out_predictions(late: Analysis, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    pipeline = late.stacked_pipeline(top=2)
    order = sorted(late.trials, key=lambda trial: trial.score)
    held = [late.predictions(trial) for trial in order]
    features = np.stack([h["probability_yes"].to_numpy() for h in held], axis=1)
    labels, fold = held[0]["late"].to_numpy(), held[0]["fold"].to_numpy()
    own = LogisticRegression(max_iter=1000).fit(features, labels)
    table = rows()
    members = [late.refit(trial).inference_pipeline for trial in order]
    tested = np.stack([m.predict_proba(table)["probability_yes"].to_numpy() for m in members], axis=1)
    found = pipeline.predict_proba(table)
    assert np.allclose(found["probability_yes"], own.predict_proba(tested)[:, 1], rtol=1e-6)
    # What it says of itself is measured on folds that the model on top has not seen.
    honest = []
    for k in range(3):
        model = LogisticRegression(max_iter=1000).fit(features[fold != k], labels[fold != k])
        honest.append(log_loss(labels[fold == k], model.predict_proba(features[fold == k])[:, 1]))
    assert pipeline.model.metrics["oof-log_loss"] == pytest.approx(np.mean(honest), rel=1e-6)
    goes_the_whole_path(pipeline, tmp_path)


@pytest.mark.parametrize("target", ["gate", "delay"])
def test_other_tasks_and_trainers(target: str, tmp_path: Path) -> None:
    analysis = search(target)
    pipeline = analysis.stacked_pipeline()
    assert pipeline.predict(rows())["prediction"].dtype == rows()[target].dtype
    goes_the_whole_path(pipeline, tmp_path)
    boosted = analysis.stacked_pipeline(train.XGBoostTrainer({"max_depth": 2}, num_boost_round=5), top=1)
    assert boosted.model.native.final.model.framework == "xgboost"
    assert boosted.predict(rows()).height == rows().height
    goes_the_whole_path(analysis.bagged_pipeline(), tmp_path)


def test_rankings_and_quantiles(tmp_path: Path) -> None:
    ranked = search("stars", {"objective": "rank:ndcg"}, group="query")
    goes_the_whole_path(ranked.bagged_pipeline(), tmp_path)
    with pytest.raises(ParameterError, match="no linear model on top for ranking"):
        ranked.stacked_pipeline()
    on_top = train.XGBoostTrainer({"objective": "rank:pairwise"}, num_boost_round=5, seed=1)
    pipeline = ranked.stacked_pipeline(on_top)
    assert pipeline.model.metrics["oof-ndcg"] > 0.7
    goes_the_whole_path(pipeline, tmp_path)
    quantiles = search("delay", {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]})
    assert quantiles.metric == "pinball"
    bagged = quantiles.bagged_pipeline()
    assert bagged.predict(rows()).columns == ["prediction_0.1", "prediction_0.9"]
    goes_the_whole_path(bagged, tmp_path)


def test_what_is_refused(late: Analysis, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="learns another target"):
        search("stars", {"objective": "multi:softprob"}).stacked_pipeline(train.XGBoostTrainer({}, num_boost_round=2))
    with pytest.raises(ParameterError, match="trainer has a wrong value"):
        late.stacked_pipeline(trainer="linear")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="top has a wrong value"):
        late.stacked_pipeline(top=0)
    # Files as only an attacker writes them: ensembles inside of ensembles, and members that are missing.
    bagged, stacked = late.bagged_pipeline(), late.stacked_pipeline(top=1)
    for i, (adapter, native) in enumerate(
        [(Stack(), StackMembers([bagged], stacked.model.native.final)), (Ensemble(), WeightedMembers([stacked], [1.0]))]
    ):
        folder = tmp_path / str(i)
        folder.mkdir()
        adapter.save(native, folder)  # type: ignore[arg-type]
        with pytest.raises(ArtifactError, match="is an ensemble"):
            adapter.load(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="incomplete"):
        Stack().load(tmp_path / "empty")
