"""Postprocessing stages in a graph: every output against the pipeline.

Covers `inference.onnx_check` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

for needed in ("onnxmltools", "skl2onnx", "onnxruntime", "xgboost"):
    pytest.importorskip(needed, reason=f"{needed} is not installed (pip install 'rayline[onnx]' onnxruntime)")

import onnxruntime

import rayline as rl
from rayline import train
from rayline.inference import onnx_check
from rayline.onnx import _stages_alone, to_onnx
from rayline.postprocess import Calibrate, Clip, Conformal, Round, Threshold
from rayline.stages import OneHotEncoder
from tests.postprocess import tables

pytestmark = pytest.mark.filterwarnings("ignore")  # the converters' own

COST = [[0, 1, 4], [2, 0, 1], [9, 3, 0]]


def fitted(target: str) -> tuple[rl.InferencePipeline, pl.DataFrame]:
    """A pipeline of boosted trees for this target, and other rows with labels."""
    rows = tables.table(seed=1).with_columns(
        kind=pl.when(pl.col("x") > 0.7)
        .then(pl.lit("a"))
        .when(pl.col("price") > 0)
        .then(pl.lit("b"))
        .otherwise(pl.lit("c")),
        city=pl.col("region").fill_null("south"),
    )
    own = rows.select("x", "city", "weight", *(target.split(",")))
    steps = rl.Preprocessor([("onehot", OneHotEncoder(["city"]))])
    trainer = train.XGBoostTrainer({"nthread": 1, "max_depth": 3}, num_boost_round=10)
    made = trainer.fit(steps, own.head(300), target_columns=target.split(","), verbose=False)
    return made.inference_pipeline, own.tail(300)


def answers(pipeline: rl.InferencePipeline, rows: pl.DataFrame) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(to_onnx(pipeline).SerializeToString())
    feed: dict[str, Any] = {}
    for column in session.get_inputs():
        values = rows[column.name]
        is_text = values.dtype == pl.String
        filled = values.fill_null("") if is_text else values.cast(pl.Float64).fill_null(float("nan"))
        feed[column.name] = filled.to_numpy().astype(object if is_text else float).reshape(-1, 1)
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


CASES = [
    ("late", [Calibrate("isotonic"), Threshold("f1", pos_label="yes"), Conformal(0.9)]),
    ("late", [Calibrate("sigmoid"), Threshold("cost", pos_label="no", cost={"fp": 1, "fn": 4})]),
    ("late", [Calibrate("beta"), Threshold(0.3)]),
    ("late", [Calibrate("temperature"), Conformal(0.8)]),
    ("kind", [Calibrate("isotonic"), Conformal(0.9)]),
    ("kind", [Calibrate("temperature"), Threshold("cost", cost=COST), Conformal(0.9)]),
    ("price", [Conformal(0.9), Clip(low=0, high=9), Round(1)]),
    ("price", [Round(-1)]),
]


@pytest.mark.parametrize(("target", "stages"), CASES, ids=str)
def test_a_graph_answers_as_the_pipeline(target: str, stages: list[Any]) -> None:
    pipeline, rows = fitted(target)
    pipeline = pipeline.calibrated(stages, rows)
    found = answers(pipeline, rows)
    has_intervals = any(isinstance(stage, Conformal) for stage in stages)
    expected = pipeline.predict(rows, interval=has_intervals)
    wanted = pipeline.predict_proba(rows) if pipeline.classes else expected.select("prediction")
    near = np.isclose(found.pop("scores"), wanted.to_numpy(), rtol=1e-4, atol=1e-5).all(axis=1)
    assert near.mean() > 0.99  # single precision may put a row beside a step
    if any(isinstance(stage, Threshold) for stage in stages):
        assert (found.pop("prediction")[:, 0] == expected["prediction"].to_numpy()).mean() > 0.99
    if has_intervals and not pipeline.classes:
        for name in ("lower", "upper"):
            assert np.isclose(found.pop(name)[:, 0], expected[name], rtol=1e-4, atol=1e-5).mean() > 0.99
    elif has_intervals:
        members = np.array([[label in own for label in pipeline.classes] for own in expected["set"].to_list()])
        assert (found.pop("set") == members).all(axis=1).mean() > 0.99
    assert not found


@pytest.mark.parametrize("width", [2, 4], ids=["second classes", "all classes"])
def test_several_targets(width: int) -> None:
    """No converter here exports several targets of boosted trees: only the stages are asked."""
    pipeline, rows = fitted("late,early")
    pipeline = pipeline.calibrated([Calibrate("beta"), Threshold("f1", pos_label={"late": "no"}), Conformal(0.9)], rows)
    graph = _stages_alone(pipeline, width)
    assert [output.name for output in graph.graph.output] == ["scores", "prediction_late", "prediction_early", "set"]
    onnx_check.compare_stages(pipeline, graph, width)
    other = pipeline.calibrated([Threshold(0.9)])
    with pytest.raises(rl.ParameterError, match="gives other results than the model"):
        onnx_check.compare_stages(other, graph, width)


def test_what_has_no_form_is_refused_by_name() -> None:
    pipeline, rows = fitted("price")
    by = pipeline.calibrated([Conformal(0.8, by="city")], rows)
    with pytest.raises(rl.ParameterError, match="Conformal with by='city'"):
        to_onnx(by)
