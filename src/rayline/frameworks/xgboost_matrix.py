"""Convert rows to XGBoost's matrices: all at once, or block by block into bins."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import xgboost

from rayline.core.feature_names import Escaping
from rayline.core.features import Features
from rayline.core.framework import Rows
from rayline.core.schema import SPARSE
from rayline.device import CPU, Device, cupy_for, record

NAMES = Escaping({"[": "［", "]": "］", "<": "＜"})
"""Characters that XGBoost refuses in names of features, and the full-width forms that replace them (reversibly)."""


def matrix(rows: Rows, params: Mapping[str, Any], *, stream: bool = False, gpu: Device = CPU) -> Any:
    """Return the rows as an XGBoost matrix. With `stream` a QuantileDMatrix takes them block by block and keeps only their bins,
    if the tree method needs only bins. On a GPU with CuPy the blocks go there and become bins there; without it XGBoost
    moves the matrix when the training begins."""
    cupy = None if any(dtype == SPARSE for dtype in rows.schema.values()) else cupy_for(gpu)
    plain = params.get("booster", "gbtree") != "gblinear" and params.get("tree_method", "hist") in ("hist", "auto")
    if (stream or cupy is not None) and plain:
        return xgboost.QuantileDMatrix(
            _Blocks(rows, cupy, gpu),
            nthread=params.get("nthread"),
            max_bin=params.get("max_bin"),
            enable_categorical=True,
        )
    return xgboost.DMatrix(**_arguments(rows), nthread=params.get("nthread"), enable_categorical=True)


def _arguments(rows: Rows) -> dict[str, Any]:
    features = rows.features
    made = {"label": rows.target, "weight": rows.weight}
    if not features.n_rows and features.categories:
        # XGBoost needs a row on every rank to know the categories: a rank without rows gets one of weight 0.
        features = Features(pl.DataFrame(schema=features.schema).clear(1), schema=features.schema)
        made = {"label": np.zeros((1, *rows.target.shape[1:])), "weight": np.zeros(1)}
    if not features.has_vectors:
        return {"data": _frame(features.table), **made}
    # It has more columns than features, and no names. XGBoost treats values that a sparse matrix does not store as missing.
    kinds = ["q"] * max((place.stop for place in features.places.values()), default=0)
    for name in features.categories:
        kinds[features.places[name].start] = "c"
    return {"data": features.matrix(zeros=True), "feature_types": kinds, **made}


def _arguments_on_gpu(rows: Rows, cupy: Any, gpu: Device) -> dict[str, Any]:
    """Return the same with the features as one matrix on the GPU, under the same names."""
    features = rows.features
    places, kinds = features.places, ["q"] * max((place.stop for place in features.places.values()), default=0)
    for name in features.categories:
        kinds[places[name].start] = "c"
    names = None if features.has_vectors else [NAMES.escape(name) for name in features.names]
    data = cupy.asarray(record("batch", gpu, features.matrix()))
    return {"data": data, "label": rows.target, "weight": rows.weight, "feature_names": names, "feature_types": kinds}


def _frame(table: pl.DataFrame) -> pl.DataFrame:
    return table.rename({name: NAMES.escape(name) for name in table.columns})


class _Blocks(xgboost.DataIter):
    """Iterates over rows in blocks, for a QuantileDMatrix that keeps only their bins."""

    def __init__(self, rows: Rows, cupy: Any = None, gpu: Device = CPU) -> None:
        super().__init__(release_data=True)
        self._rows, self._left = rows, rows.batches()
        self._arguments = _arguments if cupy is None else functools.partial(_arguments_on_gpu, cupy=cupy, gpu=gpu)

    def reset(self) -> None:
        self._left = self._rows.batches()

    def next(self, input_data: Any) -> bool:
        rows = next(self._left, None)
        if rows is not None:
            input_data(**self._arguments(rows))
        return rows is not None
