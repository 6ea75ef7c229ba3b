"""A weighted mean of inference pipelines that is an inference pipeline itself: it predicts, saves and deploys like one.

The members take the raw rows, each through its own preprocessor. They are saved as artifacts of their own inside the
model's directory, and checked like any artifact when they are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core import strict_json
from rayline.core.errors import ArtifactError, ParameterError, SchemaError, at
from rayline.core.features import Features
from rayline.core.framework import Framework, TrainContext
from rayline.core.scores import has_probabilities
from rayline.core.target import Target, Task
from rayline.inference import artifact
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline

Array = npt.NDArray[Any]

NESTED = ("ensemble", "stack")
"""Frameworks whose models hold pipelines, and which are members of none."""


@dataclass(frozen=True)
class WeightedMembers:
    """The native model: inference pipelines with one target, and the weight of each."""

    pipelines: Sequence[InferencePipeline]
    weights: Sequence[float]


class Ensemble(Framework):
    """A weighted mean of models of any frameworks. It consists of trained members and cannot be trained itself."""

    name = "ensemble"
    string_features = "text"
    predicts_on_gpu = True

    def train(self, context: TrainContext) -> WeightedMembers:
        raise ParameterError(
            "An ensemble is not trained.", "Expected trained members.", "use analysis.ensemble(top=…)."
        )

    def predict(self, model: WeightedMembers, features: Features) -> Array:
        total = sum(model.weights)
        table = features.table.lazy()
        parts = [
            weight / total * averageable(pipeline.scores(table), pipeline.target)
            for pipeline, weight in zip(model.pipelines, model.weights, strict=True)
        ]
        mean: Array = np.sum(parts, axis=0)
        return mean

    def members(self, model: WeightedMembers, features: Features, target: Target) -> Array | None:
        table, n = features.table.lazy(), features.n_rows
        values = [averageable(pipeline.scores(table), pipeline.target).reshape(n, -1) for pipeline in model.pipelines]
        return np.stack(values, axis=1)

    def save(self, model: WeightedMembers, directory: Path) -> None:
        (directory / "weights.json").write_bytes(strict_json.dumps(list(model.weights)))
        save_members(model.pipelines, directory)

    def load(self, directory: Path) -> WeightedMembers:
        path = directory / "weights.json"
        weights = strict_json.loads(path.read_bytes(), "weights.json") if path.is_file() else None
        files = sorted(directory.glob("member-*.rayline"))
        if (
            not files
            or not isinstance(weights, list)
            or len(weights) != len(files)
            or not all(map(_is_weight, weights))
        ):
            raise ArtifactError(
                "The saved ensemble is incomplete.", f"Expected a weight for each of {len(files)} members."
            )
        refuse_nested(files, "ensemble")
        return WeightedMembers([artifact.load(file) for file in files], weights)

    def owns(self, model: Any) -> bool:
        return isinstance(model, WeightedMembers)

    def predicts_on_cpu(self, model: WeightedMembers) -> str:
        return reasons_without_gpu(model.pipelines)

    def place(self, model: WeightedMembers, device: Any) -> WeightedMembers:
        return WeightedMembers(placed(model.pipelines, device, "an ensemble"), model.weights)


def save_members(pipelines: Sequence[InferencePipeline], directory: Path) -> None:
    """Write the members of an ensemble or a stack, numbered."""
    for i, pipeline in enumerate(pipelines):
        artifact.save(pipeline, directory / f"member-{i:03d}.rayline")


def refuse_nested(files: Sequence[Path], what: str) -> None:
    """Raise ArtifactError when a member is an ensemble: none is written, and it would be unpacked inside of the unpacked."""
    for file in files:
        if artifact.read_manifest(file).get("framework") in NESTED:
            raise ArtifactError(
                f"The member {file.name} of the saved {what} is an ensemble.",
                "Expected trained models.",
                "save it again.",
            )


def reasons_without_gpu(pipelines: Sequence[InferencePipeline]) -> str:
    """Return why members cannot predict on a GPU; empty when all can."""
    return "; ".join(dict.fromkeys(reason for p in pipelines if (reason := p.model.without_gpu())))


def placed(pipelines: Sequence[InferencePipeline], device: Any, what: str) -> list[InferencePipeline]:
    """Return the members with their models on a device."""
    members = [pipeline.on_gpu(device.is_gpu) for pipeline in pipelines]
    for pipeline in members:
        with at(what):
            pipeline.model.place()
    return members


def combine(
    pipelines: Sequence[InferencePipeline], weights: Sequence[float], *, metrics: Mapping[str, float] | None = None
) -> InferencePipeline:
    """Combine inference pipelines over the same raw rows into one, whose scores are the weighted mean of theirs.

    Parameters
    ----------
    pipelines
        The members. They predict the same target; preprocessors and frameworks may differ. The members of an ensemble
        take its place.
    weights
        One positive number each; only their proportions matter.
    metrics
        What is known of the whole, by name.

    Raises
    ------
    ParameterError
        When there are no members, a weight is not positive, or the targets differ.
    SchemaError
        When two members take one column in different types.
    """
    if not pipelines or len(pipelines) != len(weights) or not all(map(_is_weight, weights)):
        raise ParameterError.value(
            "weights", "a positive number for each of at least one member", list(weights), where="combine"
        )
    pipelines, weights = _flat(pipelines, weights)
    first = pipelines[0]
    for pipeline in pipelines:
        if pipeline.target.plain != first.target.plain:
            raise ParameterError(
                "combine: the members predict different targets.", f"Expected {first.target}; got {pipeline.target}."
            )
    with at("combine"):
        schema = joined_schema(pipelines)
    model = Model(
        "ensemble",
        WeightedMembers(list(pipelines), list(weights)),
        schema,
        first.target.plain,
        metrics=metrics,
        examples=first.model.examples,
    )
    return InferencePipeline(None, model)


def joined_schema(pipelines: Sequence[InferencePipeline]) -> dict[str, pl.DataType]:
    """Return the raw columns of all pipelines. Raises SchemaError when two take one column in different types."""
    schema: dict[str, pl.DataType] = {}
    for pipeline in pipelines:
        for name, dtype in pipeline.input_schema.items():
            if schema.setdefault(name, dtype) != dtype:
                raise SchemaError.dtype(name, schema[name], dtype)
    return schema


def _flat(
    pipelines: Sequence[InferencePipeline], weights: Sequence[float]
) -> tuple[list[InferencePipeline], list[float]]:
    weighted: list[tuple[InferencePipeline, float]] = []
    for pipeline, weight in zip(pipelines, weights, strict=True):
        members = pipeline.model.native
        if not isinstance(members, WeightedMembers):
            weighted.append((pipeline, weight))
            continue
        if pipeline.preprocessor is not None:
            raise ParameterError(
                "combine: an ensemble behind a preprocessor cannot be a member.",
                "Expected ensembles of pipelines.",
                "put the preprocessor before its members.",
            )
        total = sum(members.weights)
        weighted += [(p, weight * w / total) for p, w in zip(members.pipelines, members.weights, strict=True)]
    return [p for p, _ in weighted], [w for _, w in weighted]


def averageable(scores: Array, target: Target) -> Array:
    """Scores in the one form in which those of all frameworks can be averaged: values on the scale of the labels, or probabilities of shape (n,)
    or (n, targets) in a binary task and (n, classes) in a multiclass one.

    Raises ParameterError for models that answer with classes.
    """
    if target.task.is_classification and not has_probabilities(scores):
        raise ParameterError(
            "A model that predicts classes only cannot be averaged.",
            "Expected probabilities.",
            "choose another member.",
        )
    scores = scores if scores.dtype.names is None else scores["probability"]
    scores = target.values(scores).astype(np.float64)
    if target.task is Task.BINARY and len(target.columns) == 1 and scores.ndim == 2 and scores.shape[1] == 2:
        return scores[:, 1]
    return scores.reshape(len(scores)) if target.n_outputs == 1 else scores


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
