"""Models that consist of other inference pipelines: their files, their device, and the raw columns that they take.

The members take the raw rows, each through its own preprocessor. They are saved as artifacts of their own inside the model's directory, and
checked like any artifact when they are loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import ArtifactError, ParameterError, SchemaError, at
from rayline.core.framework import Framework, TrainContext
from rayline.core.scores import has_probabilities
from rayline.core.target import Target, Task
from rayline.inference import artifact
from rayline.inference.pipeline import InferencePipeline

Array = npt.NDArray[Any]

NESTED = ("ensemble", "stack")
"""Frameworks whose models hold pipelines, and which are members of none."""


@dataclass(frozen=True)
class Members:
    """The native model: inference pipelines over the same raw rows."""

    pipelines: Sequence[InferencePipeline]

    @property
    def every(self) -> list[InferencePipeline]:
        """All pipelines that it consists of."""
        return list(self.pipelines)

    def of(self, every: Sequence[InferencePipeline]) -> Self:
        """Return the same model of other pipelines, in the order of `every`."""
        return replace(self, pipelines=every)


class FrameworkOfMembers(Framework):
    """Consists of trained members and cannot be trained itself."""

    string_features = "text"
    predicts_on_gpu = True
    native: ClassVar[type[Members]]
    made_by: ClassVar[str]

    def train(self, context: TrainContext) -> Any:
        raise ParameterError(
            f"The framework {self.name!r} is not trained.", "Expected trained members.", f"use analysis.{self.made_by}."
        )

    def save_members(self, model: Any, directory: Path) -> None:
        """Write the members, numbered."""
        for i, pipeline in enumerate(model.pipelines):
            artifact.save(pipeline, directory / f"member-{i:03d}.rayline")

    def member_files(self, directory: Path, *names: str) -> list[Path]:
        """Return the files of the members and further ones. Raises ArtifactError when there is no member, another file is missing, or a
        member is an ensemble: none is written, and it would be unpacked inside of the unpacked."""
        files, more = sorted(directory.glob("member-*.rayline")), [directory / name for name in names]
        if not files or not all(file.is_file() for file in more):
            raise ArtifactError(
                f"The saved {self.name} is incomplete.",
                f"Expected {' and '.join(['members', *names])}.",
                "save it again.",
            )
        for file in (*files, *more):
            if artifact.read_manifest(file).get("framework") in NESTED:
                raise ArtifactError(
                    f"The member {file.name} of the saved {self.name} is an ensemble.",
                    "Expected trained models.",
                    "save it again.",
                )
        return [*files, *more]

    def owns(self, model: Any) -> bool:
        return isinstance(model, self.native)

    def predicts_on_cpu(self, model: Any) -> str:
        return "; ".join(dict.fromkeys(reason for p in model.every if (reason := p.model.without_gpu())))

    def place(self, model: Any, device: Any) -> Any:
        every = [pipeline.on_gpu(device.is_gpu) for pipeline in model.every]
        for pipeline in every:
            with at(self.name):
                pipeline.model.place()
        return model.of(every)


def joined_schema(pipelines: Sequence[InferencePipeline]) -> dict[str, pl.DataType]:
    """Return the raw columns of all pipelines. Raises SchemaError when two take one column in different types."""
    schema: dict[str, pl.DataType] = {}
    for pipeline in pipelines:
        for name, dtype in pipeline.input_schema.items():
            if schema.setdefault(name, dtype) != dtype:
                raise SchemaError.dtype(name, schema[name], dtype)
    return schema


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
