"""Whether an ONNX graph answers as the pipeline that it was made of: asked before anyone gets it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from rayline.core.errors import ParameterError, first_line
from rayline.core.features import Array, Features
from rayline.core.scores import has_probabilities
from rayline.core.target import Task
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.postprocess.base import Outcome
from rayline.postprocess.chain import StageChain

ROWS = 256
"""Rows of features that model and graph are compared on."""

NEAR_RELATIVE, NEAR = 1e-3, 1e-4
"""What float32 may change."""

SHARE = 0.98
"""The share of rows that must agree: float32 may put a value on the other side of a tree's threshold."""


def sample_rows(pipeline: InferencePipeline) -> Array:
    """Rows of features between those of the pipeline's examples, as float32; of none, normally distributed."""
    random, width = np.random.default_rng(0), len(pipeline.model.schema)
    rows = pipeline.examples
    if rows.height and pipeline.preprocessor is not None:
        rows = pipeline.preprocessor.transform(rows)
    base = random.normal(size=(8, width))
    if rows.height:
        features = Features(rows.select(list(pipeline.model.schema)), schema=pipeline.model.schema)
        known = np.nan_to_num(np.asarray(features.matrix(np.float64)))
        base = known if len(known) > 1 else known + base
    one, other = base[random.integers(len(base), size=ROWS)], base[random.integers(len(base), size=ROWS)]
    sample: Array = (one + random.random((ROWS, width)) * (other - one)).astype(np.float32)
    return sample


def expected(model: Model, matrix: Array) -> Array:
    """Return the expected output of the graph: values, or the probabilities of each class.

    Raises ParameterError for a model without probabilities, or whose labels are not the likeliest classes.
    """
    schema = pl.Schema({name: pl.Float64() for name in model.schema})
    scores = model.adapter.predict(
        model.native, Features(pl.DataFrame(matrix.astype(float), schema=schema, orient="row"), schema=schema)
    )
    kind = type(model.native).__name__
    if not model.target.task.is_classification:
        return scores
    if not has_probabilities(scores):
        raise ParameterError(
            f"to_onnx: {kind} gives no probabilities, and the graph's scores are probabilities.",
            "Expected a classifier with predict_proba.",
            "train one with probabilities (CalibratedClassifierCV around it), or serve the pipeline with rayline.",
        )
    probabilities = model.target.probabilities(scores).to_numpy()
    if scores.dtype.names is not None:
        ends = np.cumsum([len(classes) for classes in model.target.classes])[:-1]
        likeliest = [part.argmax(axis=1) for part in np.split(probabilities, ends, axis=1)]
        if any((one != other).any() for one, other in zip(model.target.codes(scores), likeliest, strict=True)):
            raise ParameterError(
                f"to_onnx: {kind} predicts other labels than the likeliest classes, which is all that the graph can represent.",
                "Expected a model whose labels follow from its probabilities.",
                "apply the threshold where the graph is used, and export the estimator inside.",
            )
    return probabilities


def compare(model: Model, graph: Any, matrix: Array) -> int:
    """Raise ParameterError when a graph of one float32 matrix answers otherwise than the model. Returns the columns of its scores."""
    wanted = expected(model, matrix)
    predicted = _outputs(model, graph, {graph.graph.input[0].name: matrix})[-1]
    _refuse_other(model, predicted, wanted)
    return predicted.size // len(matrix)


def compare_stages(pipeline: InferencePipeline, graph: Any, width: int) -> None:
    """Raise ParameterError when a graph of the stages after the model answers otherwise than they do, on scores drawn at random."""
    target, random = pipeline.model.target.plain, np.random.default_rng(0)
    probabilities = random.random((ROWS, width)).astype(np.float32)
    if target.task is Task.MULTICLASS:
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    elif target.task is Task.BINARY and width == 2 * len(target.columns):
        probabilities[:, ::2] = 1.0 - probabilities[:, 1::2]
    elif not target.task.is_classification:
        probabilities = (random.normal(size=(ROWS, width)) * 10.0 ** random.integers(0, 4, (ROWS, 1))).astype(
            np.float32
        )
    is_paired = target.task is Task.BINARY and width == 2 * len(target.columns)
    scores = probabilities[:, 1::2] if is_paired else probabilities
    outcome = StageChain(pipeline.postprocessing, target).outcome(scores.reshape(ROWS, -1).astype(float), interval=True)
    _refuse_other_outputs(pipeline, graph, {"given": probabilities}, outcome)


def _refuse_other_outputs(pipeline: InferencePipeline, graph: Any, feed: Any, outcome: Outcome) -> None:
    """Compare every output of a graph with the answers of the stages."""
    target, model = outcome.target, pipeline.model
    wanted = {"scores": outcome.probabilities if target.task.is_classification else outcome.values}
    if outcome.sets is not None:
        wanted["set"] = np.concatenate(outcome.memberships(), axis=1)
    elif outcome.lower is not None:
        wanted |= {name: column.to_numpy() for name, column in outcome.intervals().to_dict().items()}
    names = [output.name for output in graph.graph.output]
    labels = target.predictions(outcome.scores)
    wanted |= {name: labels[name].to_numpy() for name in names if name in labels.columns}
    outputs = dict(zip(names, _outputs(model, graph, feed), strict=True))
    for name in names:
        actual, expected_ = outputs[name], wanted[name]
        if actual.dtype.kind in "fc":
            _refuse_other(model, actual, np.asarray(expected_, dtype=float))
        elif np.mean(actual.reshape(len(actual), -1) == np.asarray(expected_).reshape(len(actual), -1)) < SHARE:
            _refuse_other(model, np.empty((0,)), np.asarray(expected_))


def compare_pipeline(pipeline: InferencePipeline, graph: Any) -> None:
    """Raise ParameterError when the whole graph answers otherwise than the pipeline for its example rows."""
    rows = pipeline.examples
    if not rows.height:
        return
    feed: dict[str, Any] = {}
    for name, series in zip(rows.columns, rows.get_columns(), strict=True):
        if series.dtype == pl.Boolean:
            if series.null_count():
                return  # a boolean cannot be missing in the graph
            values = series.to_numpy()
        elif series.dtype.is_numeric():
            values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
        else:
            values = series.cast(pl.String).fill_null("").to_numpy().astype(object)
        feed[name] = values.reshape(-1, 1)
    if pipeline.postprocessing:
        _refuse_other_outputs(pipeline, graph, feed, pipeline.outcome(rows, pipeline.model_scores(rows.lazy())))
        return
    predictions = pipeline.predict_proba(rows) if pipeline.classes else pipeline.predict(rows)
    _refuse_other(pipeline.model, _outputs(pipeline.model, graph, feed)[-1], predictions.cast(pl.Float64).to_numpy())


def _outputs(model: Model, graph: Any, feed: Any) -> list[Array]:
    """The outputs, by ONNX Runtime where it is installed, otherwise by the reference implementation."""
    try:
        try:
            import onnxruntime
        except ImportError:
            from onnx.reference import ReferenceEvaluator

            return [np.asarray(output) for output in ReferenceEvaluator(graph).run(None, feed)]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(graph.SerializeToString(), options)
        return [np.asarray(output) for output in session.run(None, feed)]
    except Exception as error:  # whatever the runtime raises about a graph of a converter's
        raise ParameterError(
            f"to_onnx: the graph of {type(model.native).__name__} does not run: {first_line(error)}",
            "Expected operators of ONNX.",
            "the converter does not support it: choose another model, or serve the pipeline with rayline.",
        ) from error


def _refuse_other(model: Model, predicted: Array, wanted: Array) -> None:
    n = len(wanted)
    wanted = wanted.reshape(n, -1)
    if len(model.target.columns) > 1 and model.target.classes and predicted.size * 2 == wanted.size:
        wanted = wanted[:, 1::2]  # of several targets the second class
    same = predicted.size == wanted.size
    if same:
        near = np.isclose(predicted.reshape(n, -1), wanted, rtol=NEAR_RELATIVE, atol=NEAR).all(axis=1)
        same = bool(near.mean() >= SHARE)
    if not same:
        raise ParameterError(
            f"to_onnx: the graph of {type(model.native).__name__} gives other results than the model.",
            f"Expected results of shape {wanted.shape} for {n} rows; got {np.shape(predicted)}, or other numbers.",
            "the exported graph is wrong or depends on the number of rows: choose another model, or serve the pipeline with rayline.",
        )
