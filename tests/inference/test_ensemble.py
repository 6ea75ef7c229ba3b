"""A weighted mean of pipelines: its scores are the mean, and it is saved, loaded and sent like any pipeline."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline import Preprocessor, train
from rayline.core.errors import ArtifactError, ParameterError
from rayline.core.target import Target, Task
from rayline.inference.ensemble import Ensemble, WeightedMembers, combine
from rayline.inference.members import averageable
from rayline.inference.pipeline import InferencePipeline
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler
from tests import toy


@pytest.fixture(scope="module")
def members() -> list[InferencePipeline]:
    """Two pipelines that differ in everything."""
    data = toy.table()
    one = train.fit(
        train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=0),
        Preprocessor([("onehot", OneHotEncoder())]),
        data,
        target_columns=["late"],
        verbose=False,
    )
    stages = [
        ("impute", SimpleImputer(strategy="median", columns=["age"])),
        ("scale", StandardScaler()),
        ("onehot", OneHotEncoder()),
    ]
    two = train.fit(train.Trainer("least-squares"), Preprocessor(stages), data, target_columns=["late"], verbose=False)
    return [one.inference_pipeline, two.inference_pipeline]


def test_the_weighted_mean(members: list[InferencePipeline], tmp_path: Path) -> None:
    data = toy.table()
    whole = combine(members, [1, 3], metrics={"oof-log_loss": 0.5})
    parts = [m.predict_proba(data)["probability_yes"].to_numpy() for m in members]
    found = whole.predict_proba(data)["probability_yes"].to_numpy()
    assert found == pytest.approx(0.25 * parts[0] + 0.75 * parts[1])
    assert whole.predict(data)["prediction"].to_list() == ["yes" if p > 0.5 else "no" for p in found]
    assert whole.predict(data.head(2).to_dicts()) == whole.predict(data).head(2).to_dicts()
    whole.save(tmp_path / "e.rayline")
    loaded = rl.load(tmp_path / "e.rayline")
    assert loaded.predict_proba(data).equals(whole.predict_proba(data))
    assert loaded.model.metrics == {"oof-log_loss": 0.5}
    sent = pickle.loads(pickle.dumps(whole))
    assert sent.predict_proba(data).equals(whole.predict_proba(data))


def test_an_ensemble_of_ensembles_is_one(members: list[InferencePipeline], tmp_path: Path) -> None:
    data, inner = toy.table(), combine(members, [1, 3])
    whole = combine([members[0], inner], [1, 2])
    assert [type(p.model.native) is WeightedMembers for p in whole.model.native.pipelines] == [False] * 3
    a, b = (p.predict_proba(data)["probability_yes"].to_numpy() for p in (members[0], inner))
    assert whole.predict_proba(data)["probability_yes"].to_numpy() == pytest.approx((a + 2 * b) / 3)
    with pytest.raises(ParameterError, match="behind a preprocessor"):
        combine([InferencePipeline(Preprocessor().fit(data.drop("late")), inner.model)], [1])
    Ensemble().save(WeightedMembers([inner, *members], [1, 1, 1]), tmp_path)  # as only an attacker writes it
    with pytest.raises(ArtifactError, match="is an ensemble"):
        Ensemble().load(tmp_path)


def test_members_must_agree(members: list[InferencePipeline]) -> None:
    other = train.fit(
        train.Trainer("least-squares"),
        Preprocessor([("onehot", OneHotEncoder())]),
        toy.table().with_columns(late=pl.col("size")),
        target_columns=["late"],
        verbose=False,
    )
    with pytest.raises(ParameterError, match="different targets"):
        combine([members[0], other.inference_pipeline], [1, 1])
    for weights in ([], [1], [1, 0], [1, -1], [1, True]):
        with pytest.raises(ParameterError, match="weights"):
            combine(members, weights)


@pytest.mark.parametrize("weights", ["[1]", "[1, 0]", '["a", 1]', "{}", "nonsense"])
def test_a_damaged_ensemble_is_refused(members: list[InferencePipeline], tmp_path: Path, weights: str) -> None:
    Ensemble().save(WeightedMembers(members, [1, 1]), tmp_path)
    (tmp_path / "weights.json").write_text(weights)
    with pytest.raises(ArtifactError):
        Ensemble().load(tmp_path)


@pytest.mark.parametrize(
    ("task", "n", "scores", "expected"),
    [
        (Task.BINARY, 2, [[0.25, 0.75]], [0.75]),
        (Task.BINARY, 2, [0.75], [0.75]),
        (Task.BINARY, 2, [[0.75]], [0.75]),
        (Task.MULTICLASS, 3, [[0.1, 0.2, 0.7]], [[0.1, 0.2, 0.7]]),
        (Task.REGRESSION, 0, [[5.0]], [5.0]),
    ],
)
def test_scores_of_any_shape(task: Task, n: int, scores: Any, expected: Any) -> None:
    found = averageable(np.array(scores), Target.unnamed(task, n))
    assert found.tolist() == expected


def test_classes_have_no_mean() -> None:
    with pytest.raises(ParameterError, match="cannot be averaged"):
        averageable(np.array([1, 0]), Target.unnamed(Task.BINARY))
