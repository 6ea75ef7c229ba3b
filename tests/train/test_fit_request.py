"""The request of a fit: built by one function for a fit and a fold, and each schema read once on the way (decision 0024).

Covers `train.table_training` too.
"""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import train, tune
from rayline.engine.local import LocalEngine
from rayline.stages import OneHotEncoder, StandardScaler
from rayline.train import fit_request, table_training
from rayline.train.fit_request import FitRequest
from rayline.tune import evaluate
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.tune_data import search_data

TABLE = pl.DataFrame(
    {"x": [0.0, 1.0, 2.0, 3.0] * 25, "c": ["a", "b"] * 50, "w": [1.0, 2.0] * 50, "y": ["no", "no", "yes", "yes"] * 25}
)


def stages() -> train.Preprocessor:
    return train.Preprocessor([("scale", StandardScaler()), ("onehot", OneHotEncoder())])


@pytest.mark.parametrize("is_fitted", [False, True])
@pytest.mark.parametrize("has_test", [False, True])
def test_each_schema_is_read_once(monkeypatch: pytest.MonkeyPatch, is_fitted: bool, has_test: bool) -> None:
    preprocessor = stages()
    if is_fitted:
        preprocessor.fit(TABLE.drop("w"), target_columns=["y"])
    read = []
    schema = LocalEngine.schema
    monkeypatch.setattr(LocalEngine, "schema", lambda self, data: read.append(1) or schema(self, data))
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=2)
    test = TABLE.head(20) if has_test else None
    trainer.fit(preprocessor, TABLE, test, ["y"], sample_weight="w", verbose=False)
    assert len(read) == 1 + has_test


def test_a_fit_and_a_fold_hand_over_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[FitRequest] = []

    def remembered(request: FitRequest, *args: Any) -> Any:
        seen.append(request)
        return train_on(request, *args)

    train_on = table_training.train_on  # type: ignore[attr-defined]
    monkeypatch.setattr(table_training, "train_on", remembered)
    monkeypatch.setattr(evaluate, "train_on", remembered)
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=2, seed=3, class_weight="balanced")
    half, rest = TABLE.head(60), TABLE.tail(40)
    trainer.fit(stages(), half, None, ["y"], sample_weight="w", verbose=False)
    data = {
        "train_pipeline": stages(),
        "train_dataset": half,
        "test_dataset": rest,
        "target_columns": ["y"],
        "sample_weight": "w",
    }
    prepared = tune.drivers.prepare(
        SearchRequest(trainer, search_data(data), {"eta": 0.3}, SearchOptions(metric="accuracy", num_samples=1))
    )
    evaluator = evaluate.FoldEvaluator(prepared.problem, prepared.groups)
    evaluator(prepared.problem.candidate({}), 0)
    one, two = seen
    assert one.spec.features == two.spec.features == pl.Schema({"x": pl.Float64, "c_a": pl.UInt8, "c_b": pl.UInt8})
    assert one.spec.lineage() == two.spec.lineage() == {"x": ["x"], "c": ["c_a", "c_b"]}
    # The fold's test rows have weights, and the fit has none; the search evaluates training rows only where it must, and keeps no model.
    assert two.spec.test_weight == "w"
    one = dataclasses.replace(one, spec=dataclasses.replace(one.spec, lineage=dict, test_weight="w"), made_at="")
    two = dataclasses.replace(
        two, spec=dataclasses.replace(two.spec, lineage=dict), made_at="", log_train_metrics=True, fingerprint=True
    )
    assert one == two


def test_a_request_is_frozen_and_can_be_sent() -> None:
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=2)
    kept: list[Any] = []

    class Keep(train.Callback):
        def on_start(self, run: train.Run) -> None:
            kept.append(run)

    result = trainer.fit(None, TABLE.select("x", "y"), None, ["y"], callbacks=[Keep()], verbose=False)
    spec = fit_request.TrainingSpec(result.model.target, pl.Schema(result.model.schema))
    request = FitRequest.of(trainer, spec)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 2  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(request)) == request
    assert request.with_callbacks([]) is request
    assert request.with_callbacks([len]).kwargs == {"num_boost_round": 2, "callbacks": [len]}
    rows = spec.prepare(None)(TABLE.lazy()).collect()
    assert rows.columns == ["x", "y"]
    assert np.array_equal(rows["x"], TABLE["x"])
