"""`rl.compare`, with a plain paired bootstrap as the oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk
from sklearn.linear_model import LogisticRegression

import rayline as rl
from rayline import train
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.postprocess import Conformal
from tests.evaluate.conftest import rows


@pytest.fixture(scope="module")
def weak() -> InferencePipeline:
    table = rows(600, seed=9).select("x", "late")
    trainer = train.SklearnTrainer(LogisticRegression())
    return train.fit(trainer, None, table, target_columns=["late"], verbose=False).inference_pipeline


def test_differences_have_paired_intervals(weak: InferencePipeline, binary: InferencePipeline) -> None:
    table = rows(2_000, seed=5)
    comparison = rl.compare({"old": weak, "new": binary}, table, metrics=["roc_auc", "log_loss"], confidence=0.9)
    truth = (table["late"] == "yes").to_numpy()
    old, new = (p.predict_proba(table)["probability_yes"].to_numpy() for p in (weak, binary))
    random, drawn = np.random.default_rng(0), []
    for _ in range(300):
        own = random.integers(0, len(truth), len(truth))
        drawn.append(sk.roc_auc_score(truth[own], new[own]) - sk.roc_auc_score(truth[own], old[own]))
    low, high = np.quantile(drawn, [0.05, 0.95])
    found = comparison.difference("roc_auc")
    assert found.value == pytest.approx(sk.roc_auc_score(truth, new) - sk.roc_auc_score(truth, old), rel=1e-9)
    assert (found.high - found.low) / (high - low) == pytest.approx(1, abs=0.25)
    alone = comparison.reports["new"].metrics["roc_auc"]
    assert found.high - found.low < alone.high - alone.low
    assert comparison.reports["old"].metrics["log_loss"].value == pytest.approx(sk.log_loss(truth, old), rel=1e-9)
    assert comparison.table.height == 4
    assert comparison.table["difference"].null_count() == 2
    for text in (repr(comparison), comparison._repr_html_(), comparison.to_markdown()):
        assert "paired interval" in text
    assert comparison.plot("roc_auc").get_xlabel() == "difference in roc_auc"


def test_assert_better(weak: InferencePipeline, binary: InferencePipeline) -> None:
    comparison = rl.compare(
        {"old": weak, "new": binary}, rows(3_000, seed=5), metrics=["roc_auc", "log_loss", "accuracy"]
    )
    comparison.assert_better("roc_auc", by=0.002)
    comparison.assert_better("log_loss", by=0.01)
    with pytest.raises(rl.NotBetterError, match=r"'new' is not better than 'old' in roc_auc by 0.5"):
        comparison.assert_better("roc_auc", by=0.5)
    with pytest.raises(AssertionError):
        rl.compare({"old": binary, "new": weak}, rows(3_000, seed=5), metrics=["log_loss"]).assert_better("log_loss")
    comparison.assert_better("roc_auc", by=np.float32(0.002))  # type: ignore[arg-type]
    one_class = rows(3_000, seed=5).filter(pl.col("late") == "yes")
    undefined = rl.compare({"old": weak, "new": binary}, one_class, metrics=["roc_auc"])
    with pytest.raises(rl.NotBetterError, match="only one class occurs"):
        undefined.assert_better("roc_auc")
    without = rl.compare({"old": weak, "new": binary}, rows(500), metrics=["roc_auc"], replicates=0)
    with pytest.raises(rl.NotBetterError, match="compare with replicates"):
        without.assert_better("roc_auc")
    with pytest.raises(rl.ParameterError, match="load it first"):
        rl.compare({"old": "old.rayline", "new": binary}, rows(500))
    with pytest.raises(rl.NotBetterError):  # equal is not better
        rl.compare({"old": binary, "new": binary}, rows(500), metrics=["roc_auc"]).assert_better("roc_auc")
    with pytest.raises(rl.ParameterError, match="unknown metric"):
        comparison.assert_better("f1")

    def mine(y_true: Any, y_pred: Any) -> float:
        return float((y_true == y_pred).mean())

    with pytest.raises(rl.ParameterError, match="direction"):
        rl.compare({"old": weak, "new": binary}, rows(300), metrics=[mine]).assert_better("mine")
    declared = rl.evaluate.metric(mode="max")(mine)
    rl.compare({"old": weak, "new": binary}, rows(3_000, seed=5), metrics=[declared]).assert_better("mine")


def test_wrong_pipelines(binary: InferencePipeline, multiclass: InferencePipeline, table: pl.DataFrame) -> None:
    for given in ({"one": binary}, [binary, binary], {}):
        with pytest.raises(rl.ParameterError, match="two pipelines or more"):
            rl.compare(given, table)  # type: ignore[arg-type]
    with pytest.raises(rl.ParameterError, match="another target"):
        rl.compare({"a": binary, "b": multiclass}, table)
    words = table.with_columns(late=pl.col("late").replace({"yes": "so"}))
    other = train.fit(
        train.SklearnTrainer(LogisticRegression()), None, words.select("x", "late"), None, ["late"], verbose=False
    )
    with pytest.raises(rl.ParameterError, match="another target"):
        rl.compare({"a": binary, "b": other.inference_pipeline}, table)


@pytest.mark.parametrize("label", ["late", "kind"])
def test_classes_in_another_order_are_put_into_that_of_the_first(label: str) -> None:
    table = rows(600, seed=9).with_columns(
        kind=pl.when(pl.col("x") > 0.5).then(pl.lit("a")).when(pl.col("z") > 0).then(pl.lit("b")).otherwise(pl.lit("c"))
    )
    own = table.select("x", "z", label)
    trainer = train.SklearnTrainer(LogisticRegression())
    usual = train.fit(trainer, None, own, target_columns=[label], verbose=False).inference_pipeline
    if label == "late":
        other = train.fit(trainer, None, own, target_columns=[label], pos_label="no", verbose=False).inference_pipeline
    else:
        other = _shuffled(usual)
    assert usual.classes != other.classes
    options: dict[str, Any] = {"metrics": ["log_loss", "roc_auc", "accuracy", "f1", "brier", "ece"], "replicates": 20}
    for first, second in ((usual, other), (other, usual)):
        found = rl.compare({"first": first, "second": second}, table, **options)
        alone = first.evaluate(table, **options)
        for report in found.reports.values():
            for name, own_estimate in alone.metrics.items():
                assert report.metrics[name] == pytest.approx(own_estimate, rel=1e-5), name
        assert found.difference("log_loss").value == pytest.approx(0, abs=1e-6)


def test_intervals_of_classes_in_another_order() -> None:
    table = rows(900, seed=9)
    own = table.select("x", "z", "late")
    made = []
    for positive in ("yes", "no"):
        fitted = train.fit(
            train.SklearnTrainer(LogisticRegression()),
            None,
            own,
            target_columns=["late"],
            pos_label=positive,
            verbose=False,
        )
        made.append(fitted.inference_pipeline.calibrated([Conformal(0.8)], table))
    found = rl.compare(dict(zip("ab", made, strict=True)), table, metrics=["coverage", "interval_width"], replicates=5)
    for name in ("coverage", "interval_width"):
        assert found.reports["a"].metrics[name].value == pytest.approx(found.reports["b"].metrics[name].value, abs=0.01)


def _shuffled(pipeline: InferencePipeline) -> InferencePipeline:
    """The same pipeline with its classes in another order."""
    estimator = pipeline.model.native
    order = [2, 0, 1]
    changed = LogisticRegression()
    changed.classes_ = np.arange(3)
    changed.coef_, changed.intercept_ = estimator.coef_[order], estimator.intercept_[order]
    changed.n_features_in_ = estimator.n_features_in_
    target = pipeline.model.target
    model = Model(
        pipeline.model.framework, changed, pipeline.model.schema,
        replace(target, classes=(tuple(target.classes[0][i] for i in order),)),
    )  # fmt: skip
    return InferencePipeline(None, model)
