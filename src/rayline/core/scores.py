"""Scores: what a model's prediction of some rows is before it becomes labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rayline.core.task import Task as Task  # noqa: PLC0414  # its old place

Array = npt.NDArray[Any]


def decisions(codes: Array, *, probabilities: Array | None = None, margins: Array | None = None) -> Array:
    """Return scores for a model whose labels do not follow from its probabilities, or that ranks rows without probabilities.

    The result is a NumPy record array with one record for each row: `code`, and `probability` or `margin`. It can be sliced,
    concatenated and saved like any other array of scores.

    Parameters
    ----------
    codes
        The predicted class codes, shape (n,) or (n, targets).
    probabilities
        Shape (n,) or (n, targets) of the second class, or (n, classes).
    margins
        Numbers that rank the rows but are not probabilities, of the same shapes.
    """
    name, values = ("margin", margins) if probabilities is None else ("probability", probabilities)
    assert values is not None, "decisions need probabilities or margins"
    scores = np.empty(len(codes), [("code", np.int64, codes.shape[1:]), (name, np.float64, values.shape[1:])])
    scores["code"], scores[name] = codes, values
    return scores


def normalized(scores: Array) -> Array:
    """Scale independently learned class probabilities so that they sum to 1; uniform where all are 0."""
    total = scores.sum(axis=1, keepdims=True)
    shares: Array = np.divide(scores, total, out=np.full_like(scores, 1 / scores.shape[1]), where=total > 0)
    return shares


def has_probabilities(scores: Array) -> bool:
    """Whether a classifier's scores contain probabilities, and not only classes or margins."""
    if scores.dtype.names is not None:
        return "probability" in scores.dtype.names
    return not np.issubdtype(scores.dtype, np.integer)


def numbers(scores: Array) -> Array:
    """Return scores as an array of plain numbers; for `decisions` the concatenated columns, the codes first."""
    if scores.dtype.names is None:
        return scores
    return np.concatenate([scores[name].reshape(len(scores), -1) for name in scores.dtype.names], axis=1)
