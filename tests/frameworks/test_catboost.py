from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("catboost", reason="CatBoost is not installed (pip install 'rayline[catboost]')")

import catboost

import rayline as rl
from rayline import train, tune
from rayline.testing import check_framework


def table(n: int = 300) -> pl.DataFrame:
    random = np.random.default_rng(1)
    x, city = random.normal(size=n), random.choice(["Rome", "Oslo", "Łódź"], n)
    return pl.DataFrame({"x": x, "city": city, "y": np.where((x > 0) ^ (city == "Oslo"), "yes", "no")}).with_columns(
        city=pl.when(pl.int_range(n) % 10 != 0).then("city")
    )


def test_contract() -> None:
    check_framework("catboost", {"iterations": 30, "learning_rate": 0.3, "depth": 4})


@pytest.mark.ray
@pytest.mark.slow
def test_contract_on_ray(ray_session: Any) -> None:
    options: dict[str, Any] = {"tasks": ["binary"], "resumes": False, "tuned": {"depth": tune.grid_search([2, 4])}}
    check_framework(
        "catboost", {"iterations": 30, "learning_rate": 0.3}, **options, ray=True, serve=True, in_process=False
    )


def test_categories_are_its_own(tmp_path: Path) -> None:
    data = table()
    trainer = train.CatBoostTrainer({"iterations": 40, "learning_rate": 0.3}, seed=1)
    result = trainer.fit(None, data, data, target_columns="y", metrics=["roc_auc"], verbose=False)
    assert result.metrics["test-roc_auc"] > 0.97
    assert isinstance(trainer.fitted_model, catboost.CatBoost)
    assert result.history.height == 40
    pipeline = result.inference_pipeline
    rows: list[dict[str, Any]] = [{"x": 0.5, "city": "Atlantis"}, {"x": None, "city": None}, {"x": 2.0, "city": "Rome"}]
    assert pipeline.predict(rows)[2] == {"prediction": "yes"}
    pipeline.save(tmp_path / "c.rayline")
    loaded = rl.load(tmp_path / "c.rayline")
    assert loaded.predict_proba(data).equals(pipeline.predict_proba(data))
    assert [loaded.predict_proba([row])[0] for row in rows] == loaded.predict_proba(pl.DataFrame(rows)).to_dicts()


def test_early_stopping_keeps_the_best() -> None:
    data, noise = table(), table().with_columns(pl.col("y").shuffle(seed=3))
    params = {"iterations": 200, "learning_rate": 0.5, "early_stopping_rounds": 5}
    result = train.CatBoostTrainer(params).fit(None, data, noise, target_columns="y", verbose=False)
    assert result.history.height < 100
    assert result.model.native.tree_count_ < result.history.height
    with pytest.raises(rl.ParameterError, match="early_stopping_rounds"):
        train.CatBoostTrainer(params).fit(None, data, target_columns="y", verbose=False)


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(rl.ParameterError, match="iterations"):
        train.CatBoostTrainer({"iteratoins": 3}).fit(None, table(), target_columns="y", verbose=False)


def test_a_callback_may_stop() -> None:
    class Stop(train.Callback):
        def on_iteration(self, run: object, *args: object) -> bool:
            return True

    result = train.CatBoostTrainer({"iterations": 50}).fit(
        None, table(), target_columns="y", callbacks=[Stop()], verbose=False
    )
    assert result.model.native.tree_count_ < 5
