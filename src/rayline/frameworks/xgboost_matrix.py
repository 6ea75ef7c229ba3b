"""Rows as XGBoost takes them: all at once, or block by block into bins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import xgboost

from rayline.core.feature_names import Escaping
from rayline.core.features import Features
from rayline.core.framework import Rows

NAMES = Escaping({"[": "［", "]": "］", "<": "＜"})
"""XGBoost refuses these characters in names of features; their wide forms mean the same to people, and back to us."""


def matrix(rows: Rows, params: Mapping[str, Any], *, stream: bool = False) -> Any:
    """The rows in XGBoost's own form. With `stream` a QuantileDMatrix takes them block by block and keeps only their bins,
    where the trees are of a kind that bins are enough for."""
    plain = params.get("booster", "gbtree") != "gblinear" and params.get("tree_method", "hist") in ("hist", "auto")
    if stream and plain:
        return xgboost.QuantileDMatrix(
            _Blocks(rows), nthread=params.get("nthread"), max_bin=params.get("max_bin"), enable_categorical=True
        )
    return xgboost.DMatrix(**_arguments(rows), nthread=params.get("nthread"), enable_categorical=True)


def _arguments(rows: Rows) -> dict[str, Any]:
    features = rows.features
    made = {"label": rows.target, "weight": rows.weight}
    if not features.n_rows and features.categories:
        # XGBoost learns categories from every rank's own rows: one without weight in the place of none.
        features = Features(pl.DataFrame(schema=features.schema).clear(1), schema=features.schema)
        made = {"label": np.zeros((1, *rows.target.shape[1:])), "weight": np.zeros(1)}
    if not features.has_vectors:
        return {"data": _frame(features.table), **made}
    # Its columns are more than the features, and have no names. What a sparse matrix does not store is missing to XGBoost.
    kinds = ["q"] * max((place.stop for place in features.places.values()), default=0)
    for name in features.categories:
        kinds[features.places[name].start] = "c"
    return {"data": features.matrix(zeros=True), "feature_types": kinds, **made}


def _frame(table: pl.DataFrame) -> pl.DataFrame:
    return table.rename({name: NAMES.escape(name) for name in table.columns})


class _Blocks(xgboost.DataIter):
    """Rows block by block, for a QuantileDMatrix that keeps only their bins."""

    def __init__(self, rows: Rows) -> None:
        super().__init__(release_data=True)
        self._rows, self._left = rows, rows.batches()

    def reset(self) -> None:
        self._left = self._rows.batches()

    def next(self, input_data: Any) -> bool:
        rows = next(self._left, None)
        if rows is not None:
            input_data(**_arguments(rows))
        return rows is not None
