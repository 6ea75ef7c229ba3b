"""The columns of scored rows: labels, weights, hashes, slices, and the scores of each model."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.scores import decisions, has_probabilities
from rayline.core.target import Target

Array = npt.NDArray[Any]


WHERE = "evaluate"


TRUTH, WEIGHT, HASH, SCORES, BY = (f"rayline:{name}" for name in ("truth", "weight", "hash", "scores", "by"))


COVERED, WIDTH = "rayline:covered", "rayline:width"


_CODES, _PROBABILITIES_TOO, _MARGINS_TOO, _PROBABILITIES = range(4)


def packed_schema(target: Target) -> dict[str, pl.DataType]:
    """Return the columns that `packed` gives."""
    if not target.task.is_classification:
        return {f"value {i}": pl.Float64() for i in range(target.n_outputs)}
    codes: dict[str, pl.DataType] = {f"code {i}": pl.Int64() for i in range(len(target.columns))}
    return codes | {f"value {i}": pl.Float64() for i in range(target.n_outputs)} | {"kind": pl.UInt8()}


def score_columns(scores: Array, target: Target) -> dict[str, pl.Series]:
    """Return a model's scores as columns."""
    n, n_targets = len(scores), len(target.columns)
    if not target.task.is_classification:
        values = target.values(scores).reshape(n, target.n_outputs).astype(np.float64, copy=False)
        return {f"value {i}": pl.Series(np.ascontiguousarray(values[:, i])) for i in range(target.n_outputs)}
    names, kind = scores.dtype.names, _CODES
    codes, values = np.zeros((n, n_targets), np.int64), np.full((n, target.n_outputs), np.nan)
    if names is not None:
        kind = _PROBABILITIES_TOO if "probability" in names else _MARGINS_TOO
        codes = scores["code"].reshape(n, n_targets)
        values = _outputs(scores["probability" if "probability" in names else "margin"], target)
    elif has_probabilities(scores):
        kind, values = _PROBABILITIES, _outputs(scores, target)
    else:
        codes = scores.reshape(n, n_targets).astype(np.int64, copy=False)
    columns = {f"code {i}": pl.Series(np.ascontiguousarray(codes[:, i])) for i in range(n_targets)}
    columns |= {f"value {i}": pl.Series(np.ascontiguousarray(values[:, i])) for i in range(target.n_outputs)}
    return columns | {"kind": pl.Series(np.full(n, kind, np.uint8))}


def _outputs(values: Array, target: Target) -> Array:
    """Return numbers of the classes, of two only the second, shape (n, outputs)."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    both = flat.shape[1] == 2 and target.n_outputs == 1
    return np.asarray(flat[:, 1:] if both else flat, dtype=np.float64)


def unpacked(frame: pl.DataFrame, prefix: str, target: Target) -> Array:
    """Return the scores of columns that `packed` gave, with this prefix to their names."""
    values = [frame[f"{prefix}{name}"].to_numpy() for name in packed_schema(target) if name.startswith("value")]
    joined = np.stack(values, axis=1) if len(values) > 1 else values[0]
    if not target.task.is_classification:
        return joined
    kind = frame[f"{prefix}kind"][0] if frame.height else _PROBABILITIES
    if kind == _PROBABILITIES:
        return joined
    code_columns = [frame[f"{prefix}code {i}"].to_numpy() for i in range(len(target.columns))]
    codes = np.stack(code_columns, axis=1) if len(code_columns) > 1 else code_columns[0]
    if kind == _CODES:
        return codes
    return decisions(codes, **{"probabilities" if kind == _PROBABILITIES_TOO else "margins": joined})
