"""Convert rows to LightGBM's Datasets: all at once, or block by block into bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np
import polars as pl

from rayline.compat.boosting import lightgbm_aliases
from rayline.core.errors import DataError, counted
from rayline.core.feature_names import Escaping
from rayline.core.features import Array, Features
from rayline.core.framework import Rows
from rayline.core.schema import SPARSE, col
from rayline.core.target import Task

NAMES = Escaping(
    {**dict(zip('[]{}":, =', "［］｛｝＂：，\u00a0＝", strict=True)), **{chr(i): chr(0x2400 + i) for i in range(1, 32)}}
)
"""Characters that LightGBM or its file format refuses in names of features, and similar ones that replace them."""


def codes(table: pl.DataFrame) -> pl.DataFrame:
    """Return categories as codes; the codes are those of the Enum, so they are the same in every table."""
    return table.select(
        col(name).to_physical().cast(pl.Int32) if isinstance(dtype, pl.Enum) else col(name)
        for name, dtype in table.schema.items()
    )


def _whole(relevance: Array) -> Array:
    """Return relevances. Raises DataError unless all are whole numbers."""
    broken = relevance != np.floor(relevance)
    if broken.any():
        raise DataError(
            f"lightgbm trainer: {counted(int(broken.sum()), 'relevance')} of the target is not an integer.",
            f"Expected 0, 1, 2, …, whose gains label_gain sets; got {np.unique(relevance[broken])[:5].tolist()}.",
            "round the target, or rank with XGBoost or CatBoost.",
        )
    return relevance


def dataset_of_rows(
    rows: Rows, params: Mapping[str, Any], reference: Any = None, categories: Sequence[int] = ()
) -> Any:
    """Return the rows as a Dataset, with the bins of `reference` if given; `categories` are columns in addition to those of strings."""
    features, categories = rows.head, sorted({*categories, *rows.head.category_places})
    names: Any = [NAMES.escape(name) for name in features.schema]
    if features.has_vectors:
        names = "auto"
    label, group = rows.target, None
    if rows.task is Task.RANKING:
        label, group = _whole(label[:, 0]), rows.group_sizes
    if not rows.is_small and not _is_sparse(features):
        return lightgbm.Dataset(
            _sequences(rows),
            label,
            weight=rows.weight,
            group=group,
            reference=reference,
            feature_name=names,
            categorical_feature=categories,
            params=_sampling_seed(params),
            free_raw_data=True,
        )
    features, weight = rows.features, rows.weight
    if not features.n_rows:  # LightGBM refuses a table without rows: use one row of weight 0 instead
        features = Features(pl.DataFrame(schema=features.schema).clear(1), schema=features.schema)
        label, weight, group = np.ones(1), np.zeros(1), None if group is None else np.ones(1)
    return lightgbm.Dataset(
        features.matrix(np.float64) if features.has_vectors else codes(features.table),
        label,
        weight=weight,
        group=group,
        reference=reference,
        feature_name=names,
        categorical_feature=categories,
        free_raw_data=True,
    )


def _sampling_seed(params: Mapping[str, Any]) -> dict[str, int]:
    """Return the seed with which LightGBM draws the rows that decide the bins. It derives it from `seed`, which its Python package does
    not pass on for rows in blocks."""
    seeds = {alias: params[alias] for alias in lightgbm_aliases("data_random_seed") if alias in params}
    seed = next((params[alias] for alias in lightgbm_aliases("seed") if alias in params), None)
    if seeds or seed is None:
        return seeds
    state = (214013 * int(seed) + 2531011) & 0xFFFFFFFF  # LightGBM's generator, and its first number below 2**15 - 1
    return {"data_random_seed": (state >> 16 & 0x7FFF) % 0x7FFF}


def _is_sparse(features: Features) -> bool:
    return any(dtype == SPARSE for dtype in features.schema.values())


def _sequences(rows: Rows) -> list[Any]:
    opened = _OpenedBlock()
    return [_BlockSequence(part, opened) for part in rows.batches() if part.n_rows]


class _OpenedBlock:
    """The one block that is loaded, and a part of it as a matrix."""

    def __init__(self) -> None:
        self._rows: Rows | None = None
        self._start, self._stop = 0, 0
        self._matrix: Array = np.empty((0, 0))

    def matrix(self, rows: Rows, start: int, stop: int) -> Array:
        if rows is not self._rows:
            if self._rows is not None:
                self._rows.release()
            self._rows, self._stop = rows, -1
        if (start, stop) != (self._start, self._stop):
            self._start, self._stop = start, stop
            self._matrix = rows.slice(start, stop - start).features.matrix(np.float64)
        return self._matrix


class _BlockSequence(lightgbm.Sequence):
    """The rows of one block. LightGBM reads them twice, in order: a sample of them for the bins, then all of them."""

    batch_size = 8192

    def __init__(self, rows: Rows, opened: _OpenedBlock) -> None:
        self._rows, self._opened = rows, opened

    def __len__(self) -> int:
        return self._rows.n_rows

    def __getitem__(self, place: Any) -> Array:
        if isinstance(place, slice):
            start, stop, _ = place.indices(len(self))
            return self._opened.matrix(self._rows, start, stop)
        if isinstance(place, list):
            return np.stack([self[i] for i in place])
        first = place - place % self.batch_size
        window = self._opened.matrix(self._rows, first, min(first + self.batch_size, len(self)))
        return np.array(window[place - first])
