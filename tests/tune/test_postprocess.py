"""Postprocessing stages in a search: scored by rows that they did not see, tuned, learned at the end from all held-out rows.

Covers `tune.postprocessing` too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk

import rayline as rl
from rayline import train, tune
from rayline.postprocess import Calibrate, Clip, Conformal, Round, Threshold
from rayline.postprocess.chain import StageChain
from rayline.tune import postprocessing
from tests.postprocess import tables


def analysis(target: str, config: Any, metric: str, stages: Any, num_samples: int = 2, **options: Any) -> tune.Analysis:
    rows = tables.table(300).select("x", "weight", target)
    return tune.run(
        train.Trainer("least-squares"), train_dataset=rows, target_columns=[target], cv=3, config=config, metric=metric,
        postprocess=stages, num_samples=num_samples, seed=1, verbose=False, **options,
    )  # fmt: skip


def test_a_method_is_chosen_and_carried_by_the_pipelines(tmp_path: Path) -> None:
    config = {"postprocess": {"Calibrate": {"method": tune.grid_search(["isotonic", "sigmoid"])}}}
    found = analysis("late", config, "log_loss", [Calibrate(), Threshold("f1", pos_label="yes")], 1)
    assert {trial.config["postprocess"]["Calibrate"]["method"] for trial in found.trials} == {"isotonic", "sigmoid"}
    plain = analysis("late", {}, "log_loss", None, 1)
    assert found.best_score < plain.best_score  # least squares are no probabilities
    pipeline = found.best_inference_pipeline
    assert pipeline.postprocessing[0].method == found.best_config["postprocess"]["Calibrate"]["method"]  # type: ignore[attr-defined]
    expected = plain.calibrated([pipeline.postprocessing[0], Threshold("f1", pos_label="yes")])
    rows = tables.table(100, seed=2)
    assert pipeline.predict_proba(rows).equals(expected.predict_proba(rows))
    assert found.calibrated().predict(rows).equals(pipeline.predict(rows))
    pipeline.save(tmp_path / "p.rayline")
    assert rl.load(tmp_path / "p.rayline").predict(rows).equals(pipeline.predict(rows))
    assert found.bagged_pipeline().postprocessing == ()
    assert found.ensemble(2).postprocessing == ()


def test_candidates_share_the_stages() -> None:
    rows = tables.table(200).select("x", "late")
    least, stages = train.Trainer("least-squares"), [Calibrate("sigmoid"), Threshold("f1", pos_label="yes")]
    data = {"train_dataset": rows, "target_columns": ["late"], "cv": 3}
    options: Any = {"metric": "log_loss", "postprocess": stages, "seed": 1, "verbose": False}
    both = tune.compare({"a": least, "b": (least, {})}, data, **options)
    alone = tune.run(least, data, {}, num_samples=1, **options)
    for own in both.analyses.values():
        assert [type(stage) for stage in own.best_inference_pipeline.postprocessing] == [Calibrate, Threshold]
        assert own.best_score == alone.best_score
        assert own.best_inference_pipeline.predict_proba(rows).equals(alone.best_inference_pipeline.predict_proba(rows))


def test_rows_are_answered_by_stages_that_did_not_see_them() -> None:
    """Against the definition; and isotonic regression, which would fit noise, finds nothing in it."""
    rows = tables.table(400, seed=3)
    pipeline = tables.fitted("late")
    scores, truth = pipeline.scores(rows.lazy()), pipeline.target.truth(rows)
    found = postprocessing.cross_fitted([Calibrate()], pipeline.target, scores, truth, None, "least-squares")
    order = np.lexsort((scores, truth))
    for part in range(postprocessing.PARTS):
        own = order[part :: postprocessing.PARTS]
        rest = np.setdiff1d(np.arange(400), own)
        learned = pipeline.calibrated([Calibrate()], rows[rest.tolist()]).postprocessing
        assert found[own] == pytest.approx(StageChain(learned, pipeline.target).scores(scores[own]), abs=1e-12)
    mixed = np.random.default_rng(0).permutation(400)
    again = postprocessing.cross_fitted(
        [Calibrate()], pipeline.target, scores[mixed], truth[mixed], None, "least-squares"
    )
    assert np.array_equal(again, found[mixed])
    noise = np.random.default_rng(1).integers(0, 2, 400)
    honest = postprocessing.cross_fitted([Calibrate()], pipeline.target, scores, noise, None, "least-squares")
    seen = pipeline.calibrated([Calibrate()], rows.with_columns(late=pl.Series(np.array(["no", "yes"])[noise])))
    learned = np.clip(seen.predict_proba(rows)["probability_yes"].to_numpy(), 1e-9, 1 - 1e-9)
    assert sk.log_loss(noise, learned) < sk.log_loss(noise, np.clip(honest, 1e-9, 1 - 1e-9))


def test_the_score_is_that_of_the_final_labels() -> None:
    found = analysis(
        "late", {"postprocess": {"Threshold": {"rule": tune.grid_search([0.5, 0.99])}}}, "recall", [Threshold()], 1
    )
    by_rule = {trial.config["postprocess"]["Threshold"]["rule"]: trial.score for trial in found.trials}
    oof = found.predictions(next(t for t in found.trials if t.config["postprocess"]["Threshold"]["rule"] == 0.99))
    recalls = [
        sk.recall_score(own["late"] == "yes", own["probability_yes"] >= 0.99) for own in oof.partition_by("fold")
    ]
    assert by_rule[0.99] == pytest.approx(np.mean(recalls))
    assert by_rule[0.5] is not None
    assert by_rule[0.99] is not None
    assert by_rule[0.5] > by_rule[0.99]


def test_numbers_weights_and_intervals() -> None:
    config = {"postprocess": {"Round": {"decimals": tune.grid_search([0, -2])}}}
    found = analysis("price", config, "mae", [Clip(low=0), Round(), Conformal(0.8)], 1, sample_weight="weight")
    assert found.best_config["postprocess"]["Round"]["decimals"] == 0
    made = found.best_inference_pipeline.predict(tables.table(50, seed=2), interval=True)
    assert made.columns == ["prediction", "lower", "upper"]
    assert made["prediction"].min() == 0
    assert (made["prediction"] == made["prediction"].round(0)).all()


@pytest.mark.parametrize(
    ("stages", "config", "metric", "words"),
    [
        (None, {"postprocess": {"Calibrate": {"method": "beta"}}}, "log_loss", "there are none"),
        ([Calibrate()], {"postprocess": {"Threshold": {"rule": 0.5}}}, "log_loss", "Threshold"),
        ([Calibrate()], {"postprocess": {"Calibrate": {"method": tune.choice(["none"])}}}, "log_loss", "is refused"),
        ([Calibrate()], {"postprocess": {"Calibrate": tune.choice(["beta"])}}, "log_loss", "a dict of the stage's parameters"),
        ([Calibrate(), Calibrate()], {}, "log_loss", "two (postprocessing )?stages"),
        ([Clip(low=0)], {}, "log_loss", "does not fit"),
        (Calibrate(), {}, "log_loss", "a list of postprocessing stages"),
    ],
)  # fmt: skip
def test_wrong_stages(stages: Any, config: Any, metric: str, words: str) -> None:
    with pytest.raises(rl.ParameterError, match=words):
        analysis("late", config, metric, stages, 1)


def test_stages_are_asked_for() -> None:
    with pytest.raises(rl.ParameterError, match="no postprocessing stages"):
        analysis("late", {}, "log_loss", None, 1).calibrated()


@pytest.mark.ray
def test_on_ray_and_in_a_population(ray_session: Any) -> None:
    """The same trials and scores on Ray as in this process, and with a population."""
    config = {"postprocess": {"Calibrate": {"method": tune.grid_search(["isotonic", "sigmoid"])}}}
    here, there = (analysis("late", config, "log_loss", [Calibrate()], 1, run_on=own) for own in ("process", "ray"))
    assert [t.score for t in here.trials] == [t.score for t in there.trials]
    rows = tables.table(50, seed=2)
    assert here.best_inference_pipeline.predict_proba(rows).equals(there.best_inference_pipeline.predict_proba(rows))


def test_in_a_population() -> None:
    pytest.importorskip("xgboost")
    found = tune.run(
        train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=4, seed=1),
        train_dataset=tables.table(200).select("x", "late"), target_columns=["late"], cv=2, metric="f1", num_samples=2,
        config={"eta": tune.uniform(0.1, 0.5)}, scheduler=tune.Population(2), postprocess=[Threshold("f1")], verbose=False,
    )  # fmt: skip
    assert [type(stage) for stage in found.best_inference_pipeline.postprocessing] == [Threshold]
    assert found.best_score > 0.4
