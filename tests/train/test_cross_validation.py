"""`train.cross_validate`, with scikit-learn's as the oracle, and the report of a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk
from polars.testing import assert_frame_equal
from sklearn.linear_model import LogisticRegression

import rayline as rl
from rayline import train
from rayline.data import KFold, TimeSeriesSplit
from rayline.engine.local import LocalEngine
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler
from tests.evaluate.conftest import rows


def test_folds_predictions_and_models() -> None:
    table = rows(400)
    features = table.select("x", "z", "late")
    trainer = train.SklearnTrainer(LogisticRegression())
    stages = train.Preprocessor([("scale", StandardScaler())])
    scores = train.cross_validate(
        trainer,
        stages,
        train_dataset=features,
        target_columns=["late"],
        cv=4,
        metrics=["roc_auc", "log_loss"],
        verbose=False,
    )
    assert not stages.is_fitted
    assert scores.folds["fold"].to_list() == [0, 1, 2, 3]
    held = scores.predictions
    assert held.height == 400
    assert held.select("x", "z", "late").sort("x").equals(features.sort("x"))
    for fold, own in enumerate(held.partition_by("fold", maintain_order=True)):
        rest = held.filter(pl.col("fold") != fold)
        model = LogisticRegression()
        mean, std = rest.select("x", "z").to_numpy().mean(axis=0), rest.select("x", "z").to_numpy().std(axis=0)
        model.fit((rest.select("x", "z").to_numpy() - mean) / std, rest["late"].to_numpy())
        chance = model.predict_proba((own.select("x", "z").to_numpy() - mean) / std)[:, 1]
        assert own["probability_yes"].to_numpy() == pytest.approx(chance, abs=1e-4)
        assert scores.folds["roc_auc"][fold] == pytest.approx(
            sk.roc_auc_score(own["late"] == "yes", own["probability_yes"])
        )
        assert (
            abs(
                own["late"].value_counts().sort("late")["count"][1]
                - features["late"].value_counts().sort("late")["count"][1] / 4
            )
            <= 1
        )
    values = scores.folds["roc_auc"].to_numpy()
    assert scores.metrics["roc_auc"].mean == pytest.approx(values.mean())
    assert scores.metrics["roc_auc"].standard_error == pytest.approx(values.std(ddof=1) / 2)
    assert scores.mean["log_loss"] == scores.metrics["log_loss"].mean
    assert len(scores.models) == len(scores.pipelines) == 4
    assert "roc_auc" in repr(scores)
    assert "standard error" in scores._repr_html_()
    report = scores.evaluate(metrics=["roc_auc"])
    assert report.metrics["roc_auc"].value == pytest.approx(
        sk.roc_auc_score(held["late"] == "yes", held["probability_yes"]), rel=1e-9
    )


@pytest.mark.parametrize("kind", ["pandas", "arrow", "lazy", "arrays"])
def test_predictions_come_in_the_type_of_the_data(kind: str) -> None:
    table = rows(200).select("x", "z", "delay", "w")
    given: Any = {"pandas": table.to_pandas, "arrow": table.to_arrow, "lazy": table.lazy, "arrays": table.to_dict}[  # type: ignore[operator]
        kind
    ]()
    trainer = train.XGBoostTrainer({}, num_boost_round=3, seed=1)
    scores = train.cross_validate(
        trainer,
        train_dataset=given,
        target_columns=["delay"],
        cv=KFold(3, seed=1),
        sample_weight="w",
        verbose=False,
        metrics=["rmse"],
    )
    held = scores.predictions
    if kind == "arrays":
        assert len(held["prediction"]) == 200
    else:
        assert type(held) is type(given)
    frame = held.collect() if kind == "lazy" else pl.DataFrame(held)
    own = frame.filter(pl.col("fold") == 0)
    expected = sk.root_mean_squared_error(own["delay"], own["prediction"], sample_weight=own["w"])
    assert scores.folds["rmse"][0] == pytest.approx(expected, rel=1e-5)


def test_the_stages_of_all_folds_come_from_one_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights and target stages, as for `fit_folds`; and equal to fits on each fold's rows up to rounding."""
    table = rows(300).select("x", "z", "region", "delay", "w")
    stages = train.Preprocessor(
        [("impute", SimpleImputer()), ("scale", StandardScaler()), ("onehot", OneHotEncoder(["region"]))],
        target_stages=[("label", StandardScaler())],
    )
    scans, own = list[Any](), LocalEngine.scan

    def counted(self: Any, data: Any, scan: Any) -> Any:
        scans.append(scan)
        return own(self, data, scan)

    monkeypatch.setattr(LocalEngine, "scan", counted)
    trainer, cv = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1), KFold(4, seed=3)
    scores = train.cross_validate(
        trainer, stages, table, ["delay"], sample_weight="w", cv=cv, metrics=["rmse"], verbose=False
    )
    of_stages = [scan for scan in scans if scan.cells is not None and len(scan.requests) > 2]
    assert len(of_stages) == 1
    for fold, (train_rows, held) in enumerate(cv.split(table)):
        alone = train.fit(
            trainer, stages.clone(), train_rows, held, ["delay"], sample_weight="w", metrics=["rmse"], verbose=False
        )
        assert scores.folds["rmse"][fold] == pytest.approx(alone.metrics["test-rmse"], rel=1e-6)
        both = [
            p.preprocessor.transform(held) for p in (scores.pipelines[fold], alone.inference_pipeline) if p.preprocessor
        ]
        assert_frame_equal(*both, rel_tol=1e-12)


def test_an_error_names_the_fold() -> None:
    table = pl.DataFrame({"x": range(8), "late": ["yes"] * 2 + ["no"] * 6})
    trainer = train.SklearnTrainer(LogisticRegression())
    with pytest.raises(rl.DataError, match="cross_validate: fold 1"):
        train.cross_validate(trainer, None, table, ["late"], cv=TimeSeriesSplit(3, column="x"), verbose=False)


def test_x_and_y() -> None:
    table = rows(200)
    trainer = train.SklearnTrainer(LogisticRegression())
    scores = train.cross_validate(
        trainer, X=table.select("x", "z").to_numpy(), y=table["late"].to_numpy(), cv=3, verbose=False
    )
    assert isinstance(scores.predictions, pl.DataFrame)
    assert {"prediction", "fold"} <= set(scores.predictions.columns)


@pytest.mark.ray
def test_a_dataset(ray_session: Any) -> None:
    table = rows(300).select("x", "z", "late", "region")
    trainer = train.XGBoostTrainer({}, num_boost_round=3, seed=1)
    options: dict[str, Any] = {"target_columns": ["late"], "cv": 3, "metrics": ["roc_auc"], "verbose": False}
    stages = train.Preprocessor([("drop", rl.stages.DropColumns(["region"]))])
    here = train.cross_validate(trainer, stages, train_dataset=table, **options)
    there = train.cross_validate(trainer, stages, train_dataset=rl.data.from_polars(table).repartition(4), **options)
    assert there.folds["roc_auc"].to_list() == pytest.approx(here.folds["roc_auc"].to_list())
    assert there.predictions.count() == 300
    both = [scores.evaluate(metrics=["roc_auc"], by=["region"]) for scores in (here, there)]
    assert both[0].metrics["roc_auc"] == pytest.approx(both[1].metrics["roc_auc"], rel=1e-9)


def test_a_metric_that_a_fold_does_not_define_has_no_error() -> None:
    table = rows(40).select("x", "late")
    scores = train.cross_validate(
        train.SklearnTrainer(LogisticRegression()), train_dataset=table, target_columns=["late"], cv=40, verbose=False,
        metrics=["roc_auc", "accuracy"],
    )  # fmt: skip
    assert np.isnan(scores.metrics["roc_auc"].mean)
    assert np.isnan(scores.metrics["roc_auc"].standard_error)
    assert scores.metrics["accuracy"].standard_error > 0


def test_wrong_arguments() -> None:
    table = rows(60).select("x", "late")
    trainer = train.SklearnTrainer(LogisticRegression())
    data: dict[str, Any] = {"train_dataset": table, "target_columns": ["late"], "verbose": False}
    for options, message in (
        ({"cv": 1}, "at least 2"),
        ({"cv": 3, "groups": "x", "time": "x"}, "cannot be combined"),
        ({"metrics": ["rmse"]}, r"cross_validate: fold 1: .*not for a binary target"),
        ({"train_dataset": table.with_columns(late=pl.lit("no"))}, "fold 1: .*one class only"),
        ({"train_dataset": None}, "nothing to train on"),
    ):
        with pytest.raises(rl.RaylineError, match=f"(?s){message}"):
            train.cross_validate(trainer, **{**data, **options})


def test_the_report_of_a_fit(tmp_path: Path) -> None:
    table = rows(400).select("x", "z", "late", "w")
    trainer = train.SklearnTrainer(LogisticRegression())
    result = train.fit(
        trainer, None, table[:300], table[300:], ["late"], sample_weight="w", metrics=["roc_auc"], verbose=False
    )
    report = result.save_report(tmp_path / "report.html", metrics=["roc_auc"])
    assert report.metrics["roc_auc"].value == pytest.approx(result.metrics["test-roc_auc"], rel=1e-9)
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    other = result.save_report(
        tmp_path / "other.md", rows(100, seed=4), metrics=["roc_auc"], by=["region"], sample_weight=None
    )
    assert other.slices.height == 3
    alone = train.fit(trainer, None, table, target_columns=["late"], sample_weight="w", verbose=False)
    with pytest.raises(rl.ParameterError, match="had no test set"):
        alone.save_report(tmp_path / "none.html")
    assert np.isfinite(report.metrics["roc_auc"].low)
