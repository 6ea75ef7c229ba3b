"""The stages of a pipeline after its model: checked, learned one after the other, applied to many rows or to one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from rayline.core import registry
from rayline.core.errors import ParameterError
from rayline.core.target import Target, Task
from rayline.postprocess.base import (
    Array,
    CalibrationRows,
    Outcome,
    PostprocessingStage,
    RowOutcome,
    own_codes,
    plain_values,
)

WHERE = "calibrated"

Stages = tuple[PostprocessingStage, ...]


class StageChain:
    """Fitted postprocessing stages and the target of their model.

    Parameters
    ----------
    stages
        The stages, in the order in which they are applied.
    target
        The target of the model. Where there are stages, `self.target` is the same without target stages: they are undone
        before the first one.
    """

    def __init__(self, stages: Sequence[PostprocessingStage], target: Target) -> None:
        if not isinstance(stages, Sequence) or not all(isinstance(stage, PostprocessingStage) for stage in stages):
            raise ParameterError.value("postprocessing", "a list of stages of rayline.postprocess", stages)
        self.stages: Stages = tuple(stages)
        self._model_target = target
        self.target = target.plain if stages else target
        self.group_columns = tuple(dict.fromkeys(name for stage in stages for name in stage.group_columns))
        self.needs_members = any(stage.needs_members for stage in stages)
        self.has_intervals = any(stage.has_intervals for stage in stages)

    def outcome(
        self, scores: Array, *, groups: pl.Series | None = None, members: Array | None = None, interval: bool = False
    ) -> Outcome:
        """Return the answers for the scores of a model."""
        outcome = self._start(scores, groups, members)
        for stage in self.stages:
            if interval or not stage.has_intervals:
                outcome = stage.apply(outcome)
        return outcome

    def _start(self, scores: Array, groups: pl.Series | None, members: Array | None) -> Outcome:
        values = plain_values(scores, self._model_target)
        return Outcome(self.target, values, own_codes(scores), groups=groups, members=members)

    def row(
        self, scores: Array, *, group: str | None = None, members: Any = None, interval: bool = False
    ) -> RowOutcome:
        """Return the same for the scores of one row."""
        codes = own_codes(scores)
        row_codes = None if codes is None else codes[0].tolist()
        outcome = RowOutcome(self.target, self._row_values(scores), row_codes, group, members)
        for change in self._row_functions if interval else self._row_decisions:
            change(outcome)
        return outcome

    def _row_values(self, scores: Array) -> list[float]:
        target = self._model_target
        if scores.dtype.names is not None or target.stages:
            values: list[float] = plain_values(scores, target)[0].tolist()
            return values
        values = scores.ravel().tolist()
        is_pair = target.task is Task.BINARY and len(target.columns) == 1 and len(values) == 2
        return values[1:] if is_pair else values

    @cached_property
    def _row_functions(self) -> list[Callable[[RowOutcome], None]]:
        return [stage.row_function() for stage in self.stages]

    @cached_property
    def _row_decisions(self) -> list[Callable[[RowOutcome], None]]:
        return [stage.row_function() for stage in self.stages if not stage.has_intervals]

    def scores(self, scores: Array) -> Array:
        """Return the model's scores after the stages, in the form that `target` reads."""
        if not self.stages:
            return scores
        if len(scores) == 1:
            return self.row(scores).scores
        return self.outcome(scores).scores

    def verify(self, columns: Mapping[str, pl.DataType]) -> None:
        """Apply the stages to one made-up row; raises whatever is wrong with values that were read from a file. `columns` are
        those of the raw rows."""
        shares = np.full((1, self.target.n_outputs), 0.5)
        members = np.full((1, 1, self.target.n_outputs), 0.5) if self.needs_members else None
        groups = pl.Series("group", ["x"]) if self.group_columns else None
        for stage in self.stages:
            stage.check(self.target)
            _check_groups(stage, columns)
        self._run(shares, groups, members)

    def _run(self, values: Array, groups: pl.Series | None, members: Array | None) -> None:
        outcome = Outcome(self.target, values, groups=groups, members=members)
        row = RowOutcome(self.target, values[0].tolist(), group="x", members=None if members is None else members[0])
        for stage in self.stages:
            if not stage.needs_members:
                outcome = stage.apply(outcome)
                stage.row_function()(row)
        if self.has_intervals and not self.needs_members:
            outcome.intervals()
            row.intervals()
        _ = outcome.scores, row.scores

    def __getstate__(self) -> dict[str, Any]:
        return {"stages": self.stages, "target": self._model_target}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(state["stages"], state["target"])  # type: ignore[misc]


def checked(stages: Sequence[Any], target: Target, columns: Mapping[str, pl.DataType]) -> Stages:
    """Return the stages to learn. Raises ParameterError on anything else, in a wrong order, or that does not fit the target."""
    if isinstance(stages, PostprocessingStage) or not isinstance(stages, Sequence) or isinstance(stages, str):
        raise ParameterError.value("stages", "a list of postprocessing stages, such as [Calibrate()]", stages)
    if not stages:
        raise ParameterError.value("stages", "at least one postprocessing stage", stages)
    for stage in stages:
        if not isinstance(stage, PostprocessingStage):
            raise ParameterError.value("stages", "stages of rayline.postprocess only", stage)
        stage.check(target)
        _check_groups(stage, columns)
    check_order(stages)
    return tuple(stages)


def check_order(stages: Sequence[PostprocessingStage]) -> None:
    """Raise ParameterError when two stages are of one class, or Calibrate comes after Threshold."""
    names = [type(stage).__name__ for stage in stages]
    for name in names:
        if names.count(name) > 1:
            raise ParameterError.here(f"two stages are {name}.", "Expected one.", "keep one of them.")
    if "Threshold" in names and "Calibrate" in names[names.index("Threshold") :]:
        raise ParameterError.here(
            "Calibrate comes after Threshold, whose threshold is one of probabilities before it.",
            f"Expected Calibrate first; got {names}.",
            "pass both in this order in one call: calibrated([Calibrate(), Threshold(…)], rows).",
        )


def _check_groups(stage: PostprocessingStage, columns: Mapping[str, pl.DataType]) -> None:
    name = type(stage).__name__
    if unknown := [c for c in stage.group_columns if c not in columns]:
        raise ParameterError.unknown(unknown, columns, "column", where=f"{name}: by")
    for column in stage.group_columns:
        dtype = columns[column]
        if not (dtype.is_integer() or dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum)):
            raise ParameterError(
                f"{name}: by={column!r} holds {dtype}.",
                "Expected strings, integers or booleans.",
                "use another column, or one that names the groups.",
            )


def learn(stages: Stages, rows: CalibrationRows) -> Stages:
    """Return the stages fitted to scored rows, each to the answers of those before it."""
    fitted = []
    rows = rows.with_weight()
    for stage in stages:
        fitted_stage = stage.fitted(stage.learn(rows))
        fitted.append(fitted_stage)
        if stage is not stages[-1]:
            rows = replace(rows, outcome=fitted_stage.apply(rows.outcome))
    return tuple(fitted)


def replaced(old: Stages, new: Stages) -> Stages:
    """Return the earlier stages that stay when others are added: those of a class that is not among the new ones."""
    return tuple(stage for stage in old if type(stage) not in {type(s) for s in new})


def no_rows(target: Target) -> CalibrationRows:
    """Return no rows, for stages that learn nothing from rows."""
    nothing, none = np.empty((0, target.n_outputs)), np.empty(0)
    return CalibrationRows(Outcome(target.plain, nothing), np.empty((0, len(target.columns))), none, none)


def to_json(stages: Stages) -> list[dict[str, Any]]:
    """Return the stages as an artifact stores them."""
    return [stage.to_json() for stage in stages]


def from_json(data: Any) -> Stages:
    """Return the stages of an artifact. Raises anything when the data is malformed, and ParameterError on an unknown stage."""
    if not isinstance(data, list):
        raise TypeError(f"expected a list of stages; got {data!r:.80}")
    return tuple(registry.postprocessing_stage(str(stage["stage"])).from_json(stage) for stage in data)
