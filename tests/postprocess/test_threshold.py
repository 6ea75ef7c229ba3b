"""Thresholds against an exhaustive search with scikit-learn's F1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, f1_score

import rayline as rl
from rayline.postprocess import Threshold
from tests.postprocess import tables


@pytest.mark.parametrize("positive", ["yes", "no"])
def test_f1_is_the_largest_of_all_thresholds(positive: str) -> None:
    rows, pipeline = tables.table(seed=1), tables.fitted("late")
    made = pipeline.calibrated([Threshold("f1", pos_label=positive)], rows)
    p = pipeline.predict_proba(rows)[f"probability_{positive}"].to_numpy()
    truth = (rows["late"] == positive).to_numpy()
    best = max(f1_score(truth, p >= t) for t in p)
    assert f1_score(truth, (made.predict(rows)["prediction"] == positive).to_numpy()) == pytest.approx(best, abs=1e-12)
    assert made.predict_proba(rows).equals(pipeline.predict_proba(rows))


def test_cost_is_the_smallest_of_all_thresholds() -> None:
    rows, pipeline = tables.table(seed=1), tables.fitted("late")
    p = pipeline.predict_proba(rows)["probability_yes"].to_numpy()
    truth = (rows["late"] == "yes").to_numpy()
    cost = {"fp": 1.0, "fn": 4.0, "tp": -0.5}

    def total(predicted: object) -> float:
        (tn, fp), (fn, tp) = confusion_matrix(truth, predicted, labels=[False, True])
        return float(fp * cost["fp"] + fn * cost["fn"] + tp * cost["tp"] + 0 * tn)

    made = pipeline.calibrated([Threshold("cost", cost=cost)], rows)
    found = total((made.predict(rows)["prediction"] == "yes").to_numpy())
    assert found == pytest.approx(min(total(p >= t) for t in [*p, 2.0]))


def test_several_classes_by_expected_cost(tmp_path: Path) -> None:
    pipeline, rows = tables.multiclass()
    cost = [[0, 1, 4], [2, 0, 1], [9, 3, 0]]
    made = pipeline.calibrated([Threshold("cost", cost=cost)])
    cheapest = (pipeline.predict_proba(rows).to_numpy() @ np.array(cost)).argmin(axis=1)
    found = made.predict(rows)
    assert found["prediction"].to_list() == [pipeline.classes[code] for code in cheapest]
    assert found["prediction"].to_list() != pipeline.predict(rows)["prediction"].to_list()
    assert [made.predict([row])[0] for row in rows.head(40).to_dicts()] == found.head(40).to_dicts()
    assert made.predict_proba(rows).equals(pipeline.predict_proba(rows))
    made.save(tmp_path / "p.rayline")
    assert rl.load(tmp_path / "p.rayline").predict(rows).equals(found)
    usual = pipeline.calibrated(
        [Threshold("cost", cost=(1 - np.eye(3)).tolist())]
    )  # every mistake alike: the likeliest class
    assert usual.predict(rows).equals(pipeline.predict(rows))


def test_wrong_costs() -> None:
    pipeline, _ = tables.multiclass()
    for stage, words in (
        (Threshold("f1"), "a matrix of costs"),
        (Threshold("cost", cost={"fp": 1}), "a matrix of costs"),
        (Threshold("cost", cost=[[0, 1], [1, 0]]), "3 rows and columns"),
    ):
        with pytest.raises(rl.ParameterError, match=words):
            pipeline.calibrated([stage])
    with pytest.raises(rl.ParameterError, match="more than two classes for a matrix"):
        tables.fitted("late").calibrated([Threshold("cost", cost=[[0, 1], [1, 0]])])
    with pytest.raises(rl.ParameterError, match="square matrix"):
        Threshold("cost", cost=[[0, 1], [1]])


def test_nothing_is_predicted_where_that_costs_least() -> None:
    rows, pipeline = tables.table(seed=1), tables.fitted("late")
    made = pipeline.calibrated([Threshold("cost", cost={"fp": 1, "tp": 1})], rows)
    assert set(made.predict(rows)["prediction"]) == {"no"}


@pytest.mark.parametrize("value", [0, 0.3, 1])
@pytest.mark.parametrize("positive", ["yes", "no"])
def test_a_given_threshold_needs_no_rows(value: float, positive: str) -> None:
    rows, pipeline = tables.table(seed=1), tables.fitted("late")
    made = pipeline.calibrated([Threshold(value, pos_label=positive)])
    p = pipeline.predict_proba(rows)[f"probability_{positive}"].to_numpy()
    np.testing.assert_array_equal((made.predict(rows)["prediction"] == positive).to_numpy(), p >= value)


@pytest.mark.parametrize(
    "arguments", [{"rule": "cost"}, {"cost": {"fp": 1}}, {"rule": 1.5}, {"rule": True}, {"rule": "cost", "cost": {"false": 1}}]
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(rl.ParameterError, match="Threshold"):
        Threshold(**arguments)  # type: ignore[arg-type]
