"""A weighted mean of inference pipelines that is an inference pipeline itself: it predicts, saves and deploys like one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayline.core import strict_json
from rayline.core.errors import ArtifactError, ParameterError, at
from rayline.core.features import Features
from rayline.core.target import Target
from rayline.inference import artifact
from rayline.inference.members import FrameworkOfMembers, Members, averageable, joined_schema
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class WeightedMembers(Members):
    """Inference pipelines with one target, and the weight of each."""

    weights: Sequence[float]


class Ensemble(FrameworkOfMembers):
    """A weighted mean of models of any frameworks."""

    name = "ensemble"
    native = WeightedMembers
    made_by = "ensemble(top=…)"

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
        self.save_members(model, directory)

    def load(self, directory: Path) -> WeightedMembers:
        files, path = self.member_files(directory), directory / "weights.json"
        weights = strict_json.loads(path.read_bytes(), path.name) if path.is_file() else None
        if not isinstance(weights, list) or len(weights) != len(files) or not all(map(_is_weight, weights)):
            raise ArtifactError(
                "The saved ensemble is incomplete.", f"Expected a weight for each of {len(files)} members."
            )
        return WeightedMembers([artifact.load(file) for file in files], weights)


def combine(
    pipelines: Sequence[InferencePipeline], weights: Sequence[float], *, metrics: Mapping[str, float] | None = None
) -> InferencePipeline:
    """Combine inference pipelines over the same raw rows into one, whose scores are the weighted mean of theirs.

    Raises ParameterError when there are no members, a weight is not positive, or the targets differ, and SchemaError when two members
    take one column in different types.

    Parameters
    ----------
    pipelines
        The members. They predict the same target; preprocessors and frameworks may differ. The members of an ensemble
        take its place.
    weights
        One positive number each; only their proportions matter.
    metrics
        The metrics of the ensemble, by name.
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


def _is_weight(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
