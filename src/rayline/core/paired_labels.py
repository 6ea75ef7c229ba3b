"""Labels of two numbers: the relevance of a row and its group (ranking), the two bounds of a time (survival).

The second column of such a target qualifies the first one. It travels with the labels wherever they go: into folds, onto
workers and into metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.errors import DataError, counted
from rayline.core.schema import col, is_category

Array = npt.NDArray[Any]

HASH_BITS = 53
"""Bits of a group's hash that a float64 holds. A million groups collide with a probability of 6e-5."""


def of_ranking(table: pl.DataFrame, columns: Sequence[str], group_dtype: pl.DataType) -> Array:
    """Return relevance and group of each row, shape (n, 2): groups as hashes, equal for equal groups on every worker.

    Raises DataError on missing values.
    """
    relevance, group = (_present(table[name], what) for name, what in zip(columns, ("label", "group"), strict=True))
    codes = hashes(group if is_category(group_dtype) else group.cast(group_dtype)) >> np.uint64(64 - HASH_BITS)
    grades = relevance.cast(pl.Float64).to_numpy()
    _refuse(columns[0], ~np.isfinite(grades), relevance, "finite numbers")
    return np.stack([grades, codes.astype(np.float64)], axis=1)


def hashes(group: pl.Series) -> npt.NDArray[np.uint64]:
    """Return the hash of each value, equal for equal values in any block; categories count as their text."""
    return (group.cast(pl.String) if is_category(group.dtype) else group).hash(0).to_numpy()


def of_survival(table: pl.DataFrame, columns: Sequence[str], *, event: bool) -> Array:
    """Return the lower and the upper bound of each time, shape (n, 2).

    An event that was observed has equal bounds; a right-censored time has an upper bound of infinity.

    Parameters
    ----------
    columns
        One column of times, or two: a time and whether the event was observed (`event`), otherwise the two bounds, of which
        a missing upper one is infinity.

    Raises
    ------
    DataError
        On missing times, times of 0 or less, events that are neither 0 nor 1, and an upper bound below the lower one.
    """
    times = _present(table[columns[0]], "time").cast(pl.Float64)
    low = times.to_numpy(writable=True)
    if len(columns) == 1:
        _refuse(columns[0], (low <= 0) | ~np.isfinite(low), times, "finite times above 0")
        return np.stack([low, low], axis=1)
    second = table[columns[1]]
    if event:
        _refuse(columns[0], (low <= 0) | ~np.isfinite(low), times, "finite times above 0")
        happened = _present(second, "value").cast(pl.Float64)
        _refuse(
            columns[1],
            ~happened.is_in([0.0, 1.0]).to_numpy(),
            second,
            "True or 1 where the event was observed, else False or 0",
        )
        return np.stack([low, np.where(happened.to_numpy() == 1, low, np.inf)], axis=1)
    high = second.cast(pl.Float64).fill_nan(None).fill_null(np.inf).to_numpy(writable=True)
    _refuse(columns[0], (low < 0) | ~np.isfinite(low), times, "finite times of at least 0")
    _refuse(columns[1], (high < low) | (high <= 0), second, f"upper bounds of at least {columns[0]!r}, and above 0")
    return np.stack([low, high], axis=1)


def in_groups(table: pl.DataFrame, group: str) -> pl.DataFrame:
    """Return the rows sorted by group, those of a group in their order: libraries expect a group in one run."""
    return table.sort(col(group), maintain_order=True)


def sizes(groups: Array) -> Array:
    """Return the length of each run of equal groups."""
    starts = np.flatnonzero(np.diff(groups, prepend=np.nan) != 0) if len(groups) else np.empty(0, np.int64)
    return np.diff(np.append(starts, len(groups)))


def group_weights(weight: Array, sizes: Array) -> Array:
    """Return the weight of each group: the mean of the weights of its rows."""
    means: Array = np.add.reduceat(weight, np.cumsum(sizes) - sizes) / sizes if len(sizes) else np.empty(0)
    return means


def signed_times(times: Array) -> Array:
    """Return the times of events, shape (n,), and with a minus those of rows without one: as losses of relative risks take them."""
    low, high = times.T
    signed: Array = np.where(np.isinf(high), -low, low)
    return signed


def _present(series: pl.Series, what: str) -> pl.Series:
    series = series.fill_nan(None) if series.dtype.is_float() else series
    if series.null_count():
        raise DataError(
            f"The target column {series.name!r} has {counted(series.null_count(), 'missing value')}.",
            f"Expected a {what} in every row.",
            "drop these rows first.",
        )
    return series


def _refuse(column: str, is_wrong: Array, values: pl.Series, expected: str) -> None:
    if is_wrong.any():
        some = values.filter(pl.Series(is_wrong)).unique(maintain_order=True).head(5).to_list()
        raise DataError(
            f"The target column {column!r} has {counted(int(is_wrong.sum()), 'wrong value')}.",
            f"Expected {expected}; got {some!r}.",
            "drop or correct these rows first.",
        )
