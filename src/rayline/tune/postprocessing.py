"""Postprocessing stages in a search: their parameters by name, and predictions by stages that did not see the rows.

A trial is scored with its stages, which can only be learned from the held-out rows of a fold. So these rows are divided
into parts: the stages for a part are learned from the other parts. Neither the model nor the stages of a part have seen
its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import ParameterError
from rayline.core.target import Target
from rayline.inference.calibration import refuse_classes_only
from rayline.postprocess import chain
from rayline.postprocess.base import CalibrationRows, Outcome, own_codes, plain_values
from rayline.postprocess.chain import StageChain, Stages

Array = npt.NDArray[Any]

PARTS = 5
"""The number of parts of the held-out rows of a fold."""


def check_stages(stages: Any, target: Target, columns: Mapping[str, pl.DataType]) -> Stages:
    """Return the stages of a search. Raises ParameterError as `chain.checked`, and on two stages of one class, which would share a name."""
    if stages is None:
        return ()
    checked = chain.checked(stages, target, columns)
    names = [type(stage).__name__ for stage in checked]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ParameterError.here(
            f"two postprocessing stages are {twice[0]}.", "Expected each class once.", "keep one of them."
        )
    return checked


def with_parameters(stages: Stages, changes: Mapping[str, Any]) -> Stages:
    """Return the stages with other parameters, by the names of their classes.

    Raises ParameterError on a name that no stage has, and on a wrong parameter.
    """
    names = [type(stage).__name__ for stage in stages]
    if unknown := [name for name in changes if name not in names]:
        raise ParameterError.unknown(unknown, names, where="tune.run: config['postprocess']")
    for name, parameters in changes.items():
        if not isinstance(parameters, Mapping):
            raise ParameterError.value(
                f"config['postprocess'][{name!r}]", "a dict of the stage's parameters", parameters, where="tune.run"
            )
    return tuple(stage.replace(**changes.get(name, {})) for name, stage in zip(names, stages, strict=True))


def cross_fitted(
    stages: Sequence[Any], target: Target, scores: Array, truth: Array, weight: Array | None, framework: str
) -> Array:
    """Return the scores of held-out rows after stages that did not see these rows; unchanged if no stage changes scores.

    Raises ParameterError when the model predicts classes only, and DataError when a part has too few rows, or rows of one class only.

    Parameters
    ----------
    stages
        The stages, not fitted. Stages that only add intervals are skipped: they do not change predictions.
    target
        The target, without stages of its own.
    scores, truth, weight
        Of the rows: the model's scores on the scale of the labels, the labels as numbers, and weights or None.
    framework
        Named in an error.
    """
    without_intervals = tuple(stage for stage in stages if not stage.has_intervals)
    if not without_intervals:
        return scores
    refuse_classes_only(scores, target, framework)
    n = len(scores)
    rows = CalibrationRows(
        Outcome(target, plain_values(scores, target), own_codes(scores)),
        truth.reshape(n, -1).astype(np.float64),
        np.ones(n) if weight is None else weight,
        np.ones(n),
    )
    if not any(stage.needs_rows for stage in without_intervals):
        return StageChain(chain.learn(without_intervals, chain.no_rows(target)), target).scores(scores)
    part = _parts(rows)
    scores_by_row = np.empty(0)
    for i in range(PARTS):
        learned = chain.learn(without_intervals, rows.take(np.flatnonzero((part != i) & (rows.weight > 0))))
        part_scores = StageChain(learned, target).outcome(scores[part == i]).scores
        if not len(scores_by_row):
            scores_by_row = np.empty((n, *part_scores.shape[1:]), part_scores.dtype)
        scores_by_row[part == i] = part_scores
    return scores_by_row


def _parts(rows: CalibrationRows) -> Array:
    """Return the part of each row: assigned in turn in the order of labels and scores, so that every part has rows of every kind
    and the order of the rows does not matter."""
    order = np.lexsort((*rows.outcome.values.T, *rows.truth.T))
    parts = np.empty(len(order), np.int64)
    parts[order] = np.arange(len(order)) % PARTS
    return parts
