"""The positive class: what one-class metrics measure, what the framework learns as 1, and what people are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import sklearn.metrics as sk
import xgboost

import rayline as rl
from rayline import train
from rayline.core.target import OF_ONE_CLASS
from rayline.evaluate import metrics


def fit(table: pl.DataFrame, target: str, pos_label: Any = None, **options: Any) -> Any:
    features = table.select("x", "z", target)
    trainer = train.XGBoostTrainer(
        {"max_depth": 2, "eval_metric": "aucpr"}, num_boost_round=5, metrics=["f1", "precision", "average_precision"]
    )
    return trainer.fit(None, features[:400], features[400:], [target], pos_label=pos_label, verbose=False, **options)


@pytest.mark.parametrize("pos_label", [None, "no", "yes"])
def test_metrics_measure_it(table: pl.DataFrame, pos_label: str | None) -> None:
    result, held = fit(table, "late", pos_label), table[400:]
    positive = pos_label or "yes"
    labels = result.model.predict(held.select("x", "z"))["prediction"].to_numpy()
    chance = result.model.predict_proba(held.select("x", "z"))[f"probability_{positive}"].to_numpy()
    truth = held["late"].to_numpy()
    average = sk.average_precision_score(truth == positive, chance)
    assert result.metrics["test-f1"] == pytest.approx(sk.f1_score(truth, labels, pos_label=positive))
    assert result.metrics["test-precision"] == pytest.approx(sk.precision_score(truth, labels, pos_label=positive))
    assert result.metrics["test-average_precision"] == pytest.approx(average)
    learned = xgboost.DMatrix(held.select("x", "z").to_numpy(), feature_names=["x", "z"])
    assert result.model.native.predict(learned) == pytest.approx(chance)  # the framework's own 1
    assert result.model.classes[-1] == positive


@pytest.mark.parametrize(("target", "pos_label"), [("late", "no"), ("is_late", False)])
def test_it_is_kept_in_the_artifact_and_said(table: pl.DataFrame, tmp_path: Path, target: str, pos_label: Any) -> None:
    result = fit(table, target, pos_label)
    result.inference_pipeline.save(tmp_path / "late.rayline")
    loaded = rl.load(tmp_path / "late.rayline")
    assert loaded.model.classes[-1] == pos_label
    assert loaded.predict(table).equals(result.inference_pipeline.predict(table))
    assert f"f1 of {pos_label!r}" in repr(result)
    assert f"test-f1 of {pos_label!r}" in repr(loaded.model)
    assert f"f1 of {pos_label!r}" in rl.model_card(loaded)


def test_of_several_targets(table: pl.DataFrame) -> None:
    rows = table.select("x", "late", early=pl.when(pl.col("late") == "no").then(pl.lit("yes")).otherwise(pl.lit("no")))
    trainer = train.XGBoostTrainer({"objective": "binary:logistic"}, num_boost_round=3, pos_label={"early": "no"})
    result = trainer.fit(None, rows, None, ["late", "early"], verbose=False)
    assert result.model.target.classes == (("no", "yes"), ("yes", "no"))
    with pytest.raises(rl.ParameterError, match="unknown target 'lat'"):
        trainer.fit(None, rows, None, ["late", "early"], pos_label={"lat": "no"}, verbose=False)


def test_it_is_refused_where_there_is_none(table: pl.DataFrame) -> None:
    with pytest.raises(rl.ParameterError, match=r"Expected one of the classes \['no', 'yes'\] of 'late'; got 'maybe'"):
        fit(table, "late", "maybe")
    with pytest.raises(rl.ParameterError, match="is a regression"):
        train.XGBoostTrainer({}, pos_label=1).fit(None, table.select("x", "delay"), None, "delay", verbose=False)
    with pytest.raises(rl.ParameterError, match="more than two classes"):
        fit(table, "city", "Oslo")


def test_every_metric_of_one_class_is_named_so() -> None:
    names = [*metrics.names(), *metrics.aliases()]
    measured = {name for name in names if metrics.get(name).name in ("f1", "precision", "recall", "average_precision")}
    assert measured <= OF_ONE_CLASS
    assert not OF_ONE_CLASS & (set(names) - measured)
