"""Stages after the model, learned from the held-out predictions of a search.

Covers `tune.held_out` too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression

import rayline as rl
from rayline import train, tune
from rayline.postprocess import Calibrate, Clip, Conformal, Threshold
from tests.postprocess import tables


def analysis(target: str, **options: Any) -> tune.Analysis:
    rows = tables.table().select("x", "region", "weight", target)
    stages = train.Preprocessor([("drop", rl.stages.DropColumns(["region"]))])
    return tune.run(
        train.Trainer("least-squares"), train_dataset=rows, preprocessor=stages, target_columns=[target], cv=4,
        config={"ridge": tune.choice([1e-6, 1.0])}, num_samples=2, seed=1, verbose=False, **options,
    )  # fmt: skip


def test_probabilities_are_calibrated_on_held_out_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    found = analysis("late")
    expected_model = found.best_inference_pipeline
    monkeypatch.setattr("rayline.tune.analysis.fit", None)  # nothing is trained any more
    made = found.calibrated([Calibrate("isotonic"), Threshold("f1", pos_label="yes")])
    oof = found.oof
    oracle = IsotonicRegression(out_of_bounds="clip").fit(oof["probability_yes"].clip(0, 1), oof["late"] == "yes")
    rows = tables.table(seed=2)
    p = expected_model.predict_proba(rows)["probability_yes"].to_numpy()
    inside = (p > 0) & (p < 1)  # least squares go beyond
    mine = made.predict_proba(rows)["probability_yes"].to_numpy()
    np.testing.assert_allclose(mine[inside], oracle.predict(p[inside]), atol=1e-9)
    assert made.model is expected_model.model


@pytest.mark.parametrize("weighted", [False, True])
def test_intervals_come_from_held_out_errors(weighted: bool) -> None:
    found = analysis("price", sample_weight="weight" if weighted else None)
    made = found.calibrated([Clip(high=100), Conformal(0.9, by="region")])
    oof = found.oof
    errors = np.abs(oof["price"] - oof["prediction"]).to_numpy()
    state = made.postprocessing[1].state
    if not weighted:
        assert state["radius"] == [np.sort(errors)[int(np.ceil(601 * 0.9)) - 1]]
    assert [name for name, _ in state["groups"]][1:] == ["north", "south"]
    new = tables.table(4_000, seed=2)
    table = new.with_columns(made.predict(new, interval=True))
    assert table.select(pl.col("price").is_between("lower", "upper").mean()).item() == pytest.approx(0.9, abs=0.03)


def test_cv_plus_predicts_with_the_fold_models(tmp_path: Path) -> None:
    rows = tables.table().select("x", "weight", "price")
    found = tune.run(
        train.SklearnTrainer(LinearRegression()),
        train_dataset=rows,
        target_columns=["price"],
        cv=4,
        config={},
        num_samples=1,
        seed=1,
        verbose=False,
    )
    made = found.calibrated([Conformal(0.9, method="cv+")])
    oof = found.oof
    new = tables.table(30, seed=2)
    centers = []
    for fold in range(4):
        own = oof.filter(pl.col("fold") != fold)
        model = LinearRegression().fit(own.select("x", "weight"), own["price"])
        centers.append(model.predict(new.select("x", "weight")))
    errors, folds = np.abs(oof["price"] - oof["prediction"]).to_numpy(), oof["fold"].to_numpy()
    rank = int(np.ceil(601 * 0.9))
    table = made.predict(new, interval=True)
    for i, row in enumerate(table.iter_rows(named=True)):
        around = np.array(centers)[folds, i]
        assert row["upper"] == pytest.approx(np.sort(around + errors)[rank - 1], rel=1e-9)
        assert row["lower"] == pytest.approx(np.sort(around - errors)[600 - rank], rel=1e-9)
        assert row["prediction"] == pytest.approx(np.mean(centers, axis=0)[i], rel=1e-9)
    rows = new.drop("late", "early", "price")
    assert [made.predict([row], interval=True)[0]["lower"] for row in rows.head(3).to_dicts()] == pytest.approx(
        table["lower"][:3].to_list()
    )
    made.save(tmp_path / "p.rayline")
    assert rl.load(tmp_path / "p.rayline").predict(new, interval=True).equals(table)


def test_wrong_use_is_refused_before_anything_is_trained() -> None:
    found = analysis("price")
    for stages in ([Calibrate()], [Threshold(0.5)], [], [Conformal(by="town")]):
        with pytest.raises(rl.ParameterError):
            found.calibrated(stages)
