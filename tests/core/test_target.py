"""The target of a fit, its labels and scores (core.labels, core.scores).

Covers `core.labels` and `core.task` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

import rayline as rl
from rayline.core.errors import DataError
from rayline.core.scan_results import statistics_of
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import ValueCounts
from rayline.core.target import Target, Task


def learn(table: pl.DataFrame, *columns: str, task: Task | None = None) -> Target:
    requests = [StatisticRequest(ValueCounts, (c,)) for c in columns]
    answers = statistics_of(table.lazy(), requests)
    return Target.learn(columns, table.schema, [answers[r] for r in requests], task)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("labels", "dtype", "task", "classes"),
    [
        (["b", "a", "b"], pl.String, None, ("a", "b")),
        (["b", "a", "b"], pl.Categorical, None, ("a", "b")),
        ([True, False, True], pl.Boolean, None, (False, True)),
        ([3, 1, 2], pl.Int64, Task.MULTICLASS, (1, 2, 3)),
        (["x", "y", "z"], pl.String, None, ("x", "y", "z")),
        ([1, 0, 1], pl.Int8, Task.BINARY, (0, 1)),
    ],
)
def test_labels_go_to_codes_and_back(
    labels: list[object], dtype: pl.DataType, task: Task | None, classes: tuple[object, ...]
) -> None:
    table = pl.DataFrame({"y": pl.Series(labels, dtype=dtype)})
    target = learn(table, "y", task=task)
    assert target.classes == (classes,)
    codes = target.encode(table)
    assert [classes[c] for c in codes] == labels
    scores = np.eye(len(classes))[codes]
    back = target.predictions(scores)
    assert back["prediction"].to_list() == labels
    assert back.schema["prediction"] == (pl.String if dtype == pl.Categorical else dtype)
    assert target.predictions(codes).equals(back)
    assert [target.row_prediction(scores[i : i + 1])["prediction"] for i in range(len(labels))] == labels
    probabilities = target.probabilities(scores)
    assert probabilities.columns == [f"probability_{str(c).lower() if isinstance(c, bool) else c}" for c in classes]
    assert target.row_probabilities(scores[:1]) == probabilities.row(0, named=True)
    assert Target.from_json(target.to_json()) == target


def test_binary_scores_may_be_one_column() -> None:
    target = learn(pl.DataFrame({"y": ["no", "yes"]}), "y")
    scores = np.array([0.2, 0.9], dtype=np.float32)
    assert target.predictions(scores)["prediction"].to_list() == ["no", "yes"]
    assert target.probabilities(scores)["probability_yes"].to_list() == scores.astype(float).tolist()


def test_several_targets() -> None:
    table = pl.DataFrame({"a": [True, False], "b": ["x", "y"]})
    target = learn(table, "a", "b")
    assert target.encode(table).tolist() == [[1, 0], [0, 1]]
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert target.predictions(scores).to_dict(as_series=False) == {
        "prediction_a": [True, False],
        "prediction_b": ["x", "y"],
    }
    assert target.probabilities(scores).columns == [
        "probability_a_false", "probability_a_true", "probability_b_x", "probability_b_y",
    ]  # fmt: skip
    numbers = learn(pl.DataFrame({"a": [1.0, 2.0], "b": [3, 4]}), "a", "b")
    assert numbers.task is Task.REGRESSION
    assert numbers.row_prediction(np.array([[1.5, 2.5]])) == {"prediction_a": 1.5, "prediction_b": 2.5}
    assert numbers.predictions(np.array([[1.5, 2.5]])).row(0) == (1.5, 2.5)


def test_what_cannot_be_a_target() -> None:
    with pytest.raises(rl.DataError, match="one class only"):
        learn(pl.DataFrame({"y": ["a", "a"]}), "y")
    with pytest.raises(rl.DataError, match="1 missing"):
        learn(pl.DataFrame({"y": ["a", "b", None]}), "y")
    with pytest.raises(rl.DataError, match="objective is binary"):
        learn(pl.DataFrame({"y": ["a", "b", "c"]}), "y", task=Task.BINARY)
    with pytest.raises(rl.DataError, match="objective is a regression"):
        learn(pl.DataFrame({"y": ["a", "b"]}), "y", task=Task.REGRESSION)
    with pytest.raises(rl.DataError, match="one model for each target"):
        learn(pl.DataFrame({"y": ["a", "b", "c"], "z": ["a", "b", "c"]}), "y", "z")
    target = learn(pl.DataFrame({"y": ["a", "b"]}), "y")
    with pytest.raises(rl.DataError, match=r"did not see.*\n.*'c'"):
        target.encode(pl.DataFrame({"y": ["a", "c"]}))
    with pytest.raises(rl.DataError, match="1 missing value"):
        learn(pl.DataFrame({"y": [1.0, 2.0]}), "y").encode(pl.DataFrame({"y": [1.0, None]}))
    with pytest.raises(rl.ParameterError, match="no probabilities"):
        learn(pl.DataFrame({"y": [1.0, 2.0]}), "y").probabilities(np.array([1.0]))


@pytest.mark.parametrize("labels", [[1.0, 2.0, 4.0], ["a", "b", "a"]])
def test_labels_may_be_written_to(labels: list[object]) -> None:
    """One chunk of numbers is Polars' own memory, which must not be changed."""
    table = pl.DataFrame({"y": labels})
    assert learn(table, "y").encode(table).flags.writeable
    assert table["y"].to_list() == labels


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("xgboost", [{}]),
        ("xgboost", [{"objective": "binary:logistic"}]),
        ("xgboost", [{"objective": "reg:squarederror"}]),
        ("catboost", [{"iterations": 2}]),
        ("lightgbm", [{}]),
        ("torch", ["Linear"]),
    ],
)
def test_numbers_and_classes_are_no_targets_of_one_model(name: str, args: list[Any]) -> None:
    from rayline import train

    table = pl.DataFrame({"x": [0.0, 1.0] * 20, "late": ["no", "yes"] * 20, "delay": [float(i) for i in range(40)]})
    try:
        trainer = train.Trainer(name, *args)
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.raises(DataError, match=r"\['delay'\] are numbers, \['late'\] have classes") as caught:
        trainer.fit(None, table, None, ["late", "delay"], verbose=False)
    assert "train one model for each target" in str(caught.value)


def test_targets_from_files_are_checked() -> None:
    target = Target(("y",), Task.REGRESSION, (pl.Float64(),), quantiles=(0.1, 0.9))
    assert Target.from_json(target.to_json()) == target
    for change in (  # type: ignore[var-annotated]
        {"quantiles": [0.1, 1.5]},
        {"quantiles": [0.1, 0.1]},
        {"task": "ranking"},
        {"task": "survival", "event": True},
        {"dtypes": []},
    ):
        with pytest.raises(ValueError, match=r"quantile|target|different numbers"):
            Target.from_json({**target.to_json(), **change})


@pytest.mark.parametrize(
    ("classes", "dtype", "labels", "bad"),
    [
        ((False, True), pl.Boolean(), ["true", "yes"], "yes"),
        ((False, True), pl.Boolean(), [1, 2], "2"),
        ((False, True), pl.Boolean(), [1.0, float("inf")], "inf"),
        ((0, 1), pl.Int64(), [0.0, 0.7], "0.7"),
        ((0, 1), pl.Int64(), ["1", "one"], "one"),
        ((0, 1), pl.Int64(), [0.0, float("nan")], "missing"),
        ((False, True), pl.Boolean(), [1.0, float("nan")], "missing"),
    ],
)
def test_labels_of_another_type_are_no_other_labels(
    classes: tuple[object, ...], dtype: pl.DataType, labels: list[object], bad: str
) -> None:
    target = Target(("y",), Task.BINARY, (dtype,), (classes,))
    table = pl.DataFrame({"y": labels})
    assert target.truth(table.head(1)).tolist() == [int(labels[0] in (1, "1", "true"))]
    with pytest.raises(DataError, match=bad):
        target.truth(table)
