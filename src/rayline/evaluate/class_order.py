"""Scores of a classifier for its classes in another order, so that pipelines of the same classes are measured alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rayline.core.scores import decisions
from rayline.core.target import Target, Task

Array = npt.NDArray[Any]


def is_same_but_order(one: Target, other: Target) -> bool:
    """Whether two targets have the same classes, in any order."""
    pairs = list(zip(one.classes, other.classes, strict=False))
    return len(one.classes) == len(other.classes) and all(
        len(a) == len(b) and {(type(v), v) for v in a} == {(type(v), v) for v in b} for a, b in pairs
    )


def codes_in_order(codes: Array, target: Target, wanted: Target) -> Array:
    """Return class codes of `target` as those of `wanted`, shape (n,) or (n, targets)."""
    if target.classes == wanted.classes:
        return codes
    columns = codes.reshape(len(codes), len(target.columns))
    reordered = [places[column] for places, column in zip(_places(target, wanted), columns.T, strict=True)]
    return np.stack(reordered, axis=1).reshape(codes.shape)


def scores_in_order(scores: Array, target: Target, wanted: Target) -> Array:
    """Return scores of `target` (see `Framework.predict`) as those of a target with the classes in the order of `wanted`."""
    if target.classes == wanted.classes:
        return scores
    names = scores.dtype.names
    if names is not None:
        codes = codes_in_order(scores["code"], target, wanted)
        kind = "probability" if "probability" in names else "margin"
        values = _values(scores[kind], target, wanted, is_margin=kind == "margin")
        return decisions(codes, **{"probabilities" if kind == "probability" else "margins": values})
    if scores.dtype.kind != "f":
        return codes_in_order(scores, target, wanted)
    # With their codes: a probability of one half is no longer decided as before when it is 1 minus itself.
    codes = codes_in_order(np.stack(target.codes(scores), axis=1), target, wanted)
    if target.task is not Task.MULTICLASS and len(target.columns) == 1 and scores.ndim == 2:
        scores = scores[:, -1]
    values = _values(scores, target, wanted, is_margin=False)
    return decisions(codes[:, 0] if codes.shape[1] == 1 else codes, probabilities=values)


def _places(target: Target, wanted: Target) -> list[Array]:
    """Return, for each target, the code in `wanted` of each code in `own`."""
    return [np.array([b.index(label) for label in a]) for a, b in zip(target.classes, wanted.classes, strict=True)]


def _values(values: Array, target: Target, wanted: Target, *, is_margin: bool) -> Array:
    if target.task is Task.MULTICLASS:
        reordered = np.empty_like(values)
        reordered[:, _places(target, wanted)[0]] = values
        return reordered
    if len(target.columns) == 1 and values.ndim == 2 and values.shape[1] == 2:  # both classes
        return values[:, ::-1] if target.classes != wanted.classes else values
    swapped = np.array([places[0] == 1 for places in _places(target, wanted)])
    columns = values.reshape(len(values), len(target.columns))
    return np.where(swapped, -columns if is_margin else 1.0 - columns, columns).reshape(values.shape)
