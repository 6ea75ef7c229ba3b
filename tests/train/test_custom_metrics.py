"""Functions and scikit-learn's scorers as metrics, with scikit-learn called directly as the oracle.

Covers `evaluate.class_order` and `evaluate.custom_metrics` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk

import rayline as rl
from rayline import evaluate, train, tune
from rayline.evaluate import custom_metrics
from rayline.evaluate.batch import ScoredBatch
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.tune_data import search_data


def missed(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    return float(np.average((y_true == "yes") & (y_pred == "no"), weights=sample_weight))


def worst(y_true: Any, y_pred: Any) -> float:
    return float(np.abs(y_true - y_pred).max())


def trainer(**options: Any) -> train.Trainer:
    return train.XGBoostTrainer({"max_depth": 2}, num_boost_round=5, **options)


class Missed(evaluate.MetricStatistic):
    """The same as `missed`, from parts."""

    name, mode, tasks = "missed_share", "min", ("binary",)

    def __init__(self, missed: float = 0.0, weight: float = 0.0) -> None:
        self.missed, self.weight = missed, weight

    @classmethod
    def of(cls, batch: evaluate.ScoredBatch) -> Missed:
        weight = np.ones(len(batch)) if batch.weight is None else batch.weight
        return cls(float(weight @ ((batch.y_true == "yes") & (batch.y_pred == "no"))), float(weight.sum()))

    def merge(self, other: Any) -> Any:
        return Missed(self.missed + other.missed, self.weight + other.weight)

    def value(self) -> float:
        return self.missed / self.weight if self.weight else float("nan")


def fit(table: pl.DataFrame, target: str, metrics: Any, **options: Any) -> Any:
    features = table.select("x", "z", target, *([options["sample_weight"]] if "sample_weight" in options else []))
    options = {"verbose": False, **options}
    return train.fit(trainer(), None, features[:400], features[400:], [target], metrics=metrics, **options)


def test_functions_and_scorers_of_classes(table: pl.DataFrame) -> None:
    scorers = {
        "f1_of_no": sk.make_scorer(sk.f1_score, pos_label="no"),
        "area": sk.make_scorer(sk.roc_auc_score, response_method="predict_proba"),
    }
    for pos_label in (None, "no"):
        result = fit(table, "late", {"missed": missed, **scorers}, pos_label=pos_label)
        held = table[400:]
        labels, truth = result.model.predict(held.select("x", "z"))["prediction"].to_numpy(), held["late"].to_numpy()
        chance = result.model.predict_proba(held.select("x", "z"))["probability_yes"].to_numpy()
        assert result.metrics["test-missed"] == missed(truth, labels)
        assert result.metrics["test-f1_of_no"] == pytest.approx(sk.f1_score(truth, labels, pos_label="no"))
        assert result.metrics["test-area"] == pytest.approx(sk.roc_auc_score(truth == "yes", chance))


def test_weights_reach_a_function_that_takes_them(table: pl.DataFrame) -> None:
    result = fit(table, "late", [missed, "accuracy"], sample_weight="weight")
    held = table[400:]
    labels = result.model.predict(held.select("x", "z"))["prediction"].to_numpy()
    assert result.metrics["test-missed"] == missed(held["late"].to_numpy(), labels, held["weight"].to_numpy())


def test_a_function_of_numbers(table: pl.DataFrame) -> None:
    result = fit(table, "delay", worst)
    held = table[400:]
    predicted = result.model.predict(held.select("x", "z"))["prediction"].to_numpy()
    assert result.metrics["test-worst"] == pytest.approx(worst(held["delay"].to_numpy(), predicted))
    named = trainer(metrics=[worst])
    assert train.fit(named, X=table.select("x"), y=table["delay"], X_test=table.select("x"), y_test=table["delay"],
                     verbose=False).metrics["test-worst"] > 0  # fmt: skip


@pytest.mark.parametrize(
    ("metrics", "match"),
    [
        ([lambda y_true, y_pred: 0.0], "has no name"),
        ({"cost": lambda y_true: 0.0}, "cannot be called with labels and predictions alone"),
        ({"f1": missed}, "the name of a metric of Rayline's"),
        ([3], "names of metrics, functions"),
        (3, "names of metrics, functions"),
        (["f2"], "unknown metric 'f2'"),
    ],
)
def test_others_are_refused_before_the_training(table: pl.DataFrame, metrics: Any, match: str) -> None:
    with pytest.raises(rl.ParameterError, match=match):
        fit(table, "late", metrics)
    with pytest.raises(rl.ParameterError, match=match):
        trainer(metrics=metrics)


def test_a_function_that_fails_says_which(table: pl.DataFrame) -> None:
    with pytest.raises(rl.TrainingError, match=r"metric 'roc_auc_score': the function failed with ValueError"):
        fit(table, "late", [sk.roc_auc_score])


def test_a_statistic_is_a_metric_everywhere(table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayline.evaluate import metrics as named
    from rayline.tune.drivers import prepare

    declared = evaluate.metric(missed, mode="min")
    result = fit(table, "late", [Missed, declared], sample_weight="weight")
    assert result.metrics["test-missed_share"] == pytest.approx(result.metrics["test-missed"])
    report = result.evaluate(metrics=[Missed, declared])
    assert report.metrics["missed_share"].value == pytest.approx(result.metrics["test-missed"])
    assert (
        report.metrics["missed_share"].low < report.metrics["missed_share"].value < report.metrics["missed_share"].high
    )
    monkeypatch.setattr(named, "_REGISTERED", {})
    evaluate.register_metric(Missed)
    assert fit(table, "late", "missed_share").metrics["test-missed_share"] > 0
    data = {"train_dataset": table.select("x", "z", "late"), "target_columns": ["late"], "cv": 3}
    for metric in (Missed, declared, "missed_share"):
        found = prepare(
            SearchRequest(
                trainer(),
                search_data(data),
                {"max_depth": tune.randint(2, 5)},
                SearchOptions(metric=metric, num_samples=2),
            )
        )
        assert found.modes == ("min",)

    class Nameless(evaluate.MetricStatistic):
        of, merge, value = Missed.of, Missed.merge, Missed.value  # type: ignore[assignment]

    with pytest.raises(rl.ParameterError, match="name, mode"):
        fit(table, "late", [Nameless])
    with pytest.raises(rl.ParameterError, match="one of 'min', 'max'"):
        evaluate.metric(missed, mode="lowest")  # type: ignore[call-overload]


def wrong(y_true: Any, y_pred: Any) -> float:
    return float((y_true != y_pred).mean())


def test_weights_that_a_function_does_not_take_are_said(table: pl.DataFrame) -> None:
    with pytest.warns(UserWarning, match="wrong is not weighted: its function has no parameter sample_weight"):
        result = fit(table, "late", [wrong, "accuracy"], sample_weight="weight")
    report = result.evaluate(metrics=[wrong, missed], replicates=10)
    assert [note for note in report.notes if "weighted" in note] == [
        "wrong is not weighted: its function has no parameter sample_weight."
    ]
    plain = fit(table, "late", [wrong]).evaluate(metrics=[wrong], replicates=10)
    assert not plain.notes


def test_a_function_is_called_for_so_many_replicates(table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as 4 million rows allow; labels are converted once, and the replicates are what they were."""
    result = fit(table, "late", [missed])
    usual = result.evaluate(metrics=[wrong], replicates=60)
    monkeypatch.setattr(custom_metrics, "MAX_RESAMPLED", 40 * (table.height - 400))
    calls, converted = [], []
    own = ScoredBatch.y_true.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(ScoredBatch, "y_true", property(lambda batch: converted.append(1) or own(batch)))  # type: ignore[func-returns-value, misc]

    def counted(y_true: Any, y_pred: Any) -> float:
        calls.append(len(y_true))
        return wrong(y_true, y_pred)

    report = result.evaluate(metrics={"wrong": counted}, replicates=60)
    assert len(calls) == 41
    assert len(converted) == 1
    assert report.notes == ["The interval of wrong uses 40 replicates, not 60: a function is called again for each."]
    assert report.metrics["wrong"].value == usual.metrics["wrong"].value
    assert report.metrics["wrong"].low == pytest.approx(usual.metrics["wrong"].low, abs=0.05)
    scorer = sk.make_scorer(sk.roc_auc_score, response_method="predict_proba")
    area = result.evaluate(metrics={"area": scorer}, replicates=40)
    assert area.metrics["area"].value == pytest.approx(result.evaluate(metrics=["roc_auc"]).metrics["roc_auc"].value)
