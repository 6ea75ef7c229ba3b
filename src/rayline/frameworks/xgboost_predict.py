"""Scores of rows by XGBoost, without what its Python adds to each call."""

from __future__ import annotations

import ctypes
import functools
import json
from typing import Any

import numpy as np
import xgboost

from rayline import compat
from rayline.core.features import Array

_LIBRARY = compat.xgboost_library()


def scores(model: Any, rows: Any, until: int, *, linear: bool) -> Array:
    """What `Booster.inplace_predict` gives, to the bit.

    Parameters
    ----------
    model
        The booster.
    rows
        A matrix of float32, shape (rows, features), NaN for missing; a NumPy array or a SciPy CSR matrix.
    until
        How many iterations count; 0 for all.
    linear
        Whether it is a linear booster, which predicts a DMatrix only.
    """
    if _LIBRARY is not None and isinstance(rows, np.ndarray) and len(rows) and not linear:
        return _dense(_LIBRARY, model, np.ascontiguousarray(rows), until)
    ask, given = (model.predict, xgboost.DMatrix(rows)) if linear else (model.inplace_predict, rows)
    found: Array = ask(given, iteration_range=(0, until), validate_features=False)
    return found


def _dense(library: compat.XGBoostLibrary, model: Any, rows: Array, until: int) -> Array:
    """XGBoost's own function of its C interface. The Python of version 3.2 makes a class for every answer: half of the time
    of one row (82 µs, here 38), and a cycle of 25 objects that a server must stop to clear away."""
    about = {"data": (rows.ctypes.data, True), "shape": rows.shape, "typestr": rows.dtype.str, "version": 3}
    shape, n_dimensions = ctypes.POINTER(library.ulong)(), library.ulong()
    values = ctypes.POINTER(ctypes.c_float)()
    library.check(
        library.functions.XGBoosterPredictFromDense(
            model.handle, json.dumps(about).encode(), _how(until), None,
            ctypes.byref(shape), ctypes.byref(n_dimensions), ctypes.byref(values),
        )
    )  # fmt: skip
    sides = [shape[i] for i in range(n_dimensions.value)]
    # The memory is the booster's own, until its next prediction: a copy is what is kept.
    return np.frombuffer(bytearray(ctypes.string_at(values, 4 * int(np.prod(sides)))), np.float32).reshape(sides)


@functools.cache
def _how(until: int) -> bytes:
    how = {"type": 0, "training": False, "iteration_begin": 0, "iteration_end": until, "missing": float("nan")}
    return json.dumps({**how, "strict_shape": False, "cache_id": 0}).encode()
