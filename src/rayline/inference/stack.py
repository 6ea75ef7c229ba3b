"""A stack of inference pipelines: a model on top learns from their predictions; the whole predicts, saves and deploys like one pipeline.

Wolpert, "Stacked generalization" (1992). The members take the raw rows, each through its own preprocessor; the model on top takes
their scores, one column for each value or class. All are saved as artifacts of their own inside the model's directory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy.typing as npt
import polars as pl

from rayline.core.errors import ParameterError, at
from rayline.core.features import Features
from rayline.core.target import Target, Task
from rayline.inference import artifact
from rayline.inference.members import NESTED, FrameworkOfMembers, Members, averageable, joined_schema
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.inference.scorer import no_scores

Array = npt.NDArray[Any]

FINAL = "final.rayline"


@dataclass(frozen=True)
class StackMembers(Members):
    """Inference pipelines, and the one that takes their scores."""

    final: InferencePipeline

    @property
    def every(self) -> list[InferencePipeline]:
        return [*self.pipelines, self.final]

    def of(self, every: Sequence[InferencePipeline]) -> Self:
        return replace(self, pipelines=every[:-1], final=every[-1])


class Stack(FrameworkOfMembers):
    """A model on the scores of other models."""

    name = "stack"
    native = StackMembers
    made_by = "stacked_pipeline()"

    def predict(self, model: StackMembers, features: Features) -> Array:
        table = features.table.lazy()
        parts = [member_scores(p.scores(table), p.target, i) for i, p in enumerate(model.pipelines)]
        return model.final.scores(pl.concat(parts, how="horizontal").lazy())

    def save(self, model: StackMembers, directory: Path) -> None:
        artifact.save(model.final, directory / FINAL)
        self.save_members(model, directory)

    def load(self, directory: Path) -> StackMembers:
        *pipelines, final = (artifact.load(file) for file in self.member_files(directory, FINAL))
        return StackMembers(pipelines, final)


def member_scores(scores: Array, target: Target, number: int) -> pl.DataFrame:
    """Return the scores of a member as features of the model on top: of two classes the probability of the second one, of more one
    column for each class, otherwise one for each value. Raises ParameterError for a model that answers with classes."""
    values = averageable(scores, target)
    values = values if values.ndim == 2 else values[:, None]
    if target.task is Task.MULTICLASS:
        names = [f"member_{number}_{c}" for c in target.classes[0]]
    else:
        names = [
            f"member_{number}_{name}" if values.shape[1] > 1 else f"member_{number}" for name in target.value_names
        ]
    return pl.DataFrame({name: values[:, i] for i, name in enumerate(names)})


def stack(
    pipelines: Sequence[InferencePipeline], final: InferencePipeline, *, metrics: Mapping[str, float] | None = None
) -> InferencePipeline:
    """Put a pipeline that takes the scores of other pipelines (see `member_scores`) on top of them.

    Raises ParameterError when there are no members, one is an ensemble, or the one on top takes other columns than the members' scores,
    and SchemaError when two members take one column in different types.

    Parameters
    ----------
    pipelines
        The members, over the same raw rows. None of them is an ensemble or a stack.
    final
        The pipeline on top. It predicts the target of the whole.
    metrics
        The metrics of the stack, by name.
    """
    nested = [p for p in (*pipelines, final) if p.model.framework in NESTED]
    if not pipelines or nested:
        raise ParameterError.value(
            "pipelines", "at least one pipeline, and no ensemble", list(pipelines), where="stack"
        )
    empty = [member_scores(no_scores(p.target.n_outputs), p.target, i) for i, p in enumerate(pipelines)]
    columns = [name for part in empty for name in part.columns]
    if [*final.input_schema] != columns:
        raise ParameterError(
            "stack: the pipeline on top does not take the members' scores.",
            f"Expected the columns {columns}; got {[*final.input_schema]}.",
            "train it on the held-out scores of these members.",
        )
    members = StackMembers(list(pipelines), final)
    examples = pipelines[0].model.examples
    with at("stack"):
        schema = joined_schema(pipelines)
    model = Model("stack", members, schema, final.target.plain, metrics=metrics, examples=examples)
    return InferencePipeline(None, model)
