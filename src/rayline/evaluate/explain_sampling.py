"""Shapley values of the raw columns of any model, from its predictions.

A coalition is a set of columns that have the row's own values, while all others have those of a background row. Its worth is
the mean prediction over the background. With few columns all coalitions are asked, so the values are exact (Shapley, 1953);
with more, those along random permutations and their reversals (Štrumbelj and Kononenko, 2014; Mitchell and others, 2022). In
both cases the values add up to the difference between the row's prediction and the background's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

Array = npt.NDArray[Any]

EXACT_COLUMNS = 6
"""Up to this number of columns all coalitions are asked."""

PERMUTATIONS = 8
"""Random permutations with more columns; each is used forwards and backwards."""

MAX_MASKED_ROWS = 1 << 17
"""Rows of a prediction of coalitions."""


@dataclass(frozen=True)
class Coalitions:
    """Coalitions, and how their worths give the value of each column.

    Attributes
    ----------
    masks
        Which columns have the row's own values, shape (coalitions, columns); the first is empty, the last has all of them.
    weights
        Shape (columns, coalitions).
    """

    masks: Array
    weights: Array


def coalitions(n_columns: int, seed: int) -> Coalitions:
    """Return the coalitions to ask for a number of columns."""
    return _every(n_columns) if n_columns <= EXACT_COLUMNS else _permuted(n_columns, seed)


def _every(n: int) -> Coalitions:
    sets = [frozenset(members) for size in range(n + 1) for members in itertools.combinations(range(n), size)]
    place = {members: i for i, members in enumerate(sets)}
    masks = np.array([[j in members for j in range(n)] for members in sets], dtype=bool).reshape(len(sets), n)
    weights = np.zeros((n, len(sets)))
    for members, i in place.items():
        for j in set(range(n)) - members:
            share = math.factorial(len(members)) * math.factorial(n - len(members) - 1) / math.factorial(n)
            weights[j, place[members | {j}]] += share
            weights[j, i] -= share
    return Coalitions(masks, weights)


def _permuted(n: int, seed: int) -> Coalitions:
    random, masks, place = np.random.default_rng(seed), [np.zeros(n, dtype=bool)], dict[bytes, int]()
    steps: list[tuple[int, int, int]] = []  # column, coalition before it, coalition with it
    orders = [order for _ in range(PERMUTATIONS) for order in _both(random.permutation(n))]
    place[masks[0].tobytes()] = 0
    for order in orders:
        mask, before = masks[0].copy(), 0
        for column in order:
            mask = mask.copy()
            mask[column] = True
            after = place.setdefault(mask.tobytes(), len(masks))
            if after == len(masks):
                masks.append(mask)
            steps.append((int(column), before, after))
            before = after
    weights = np.zeros((n, len(masks)))
    for column, before, after in steps:
        weights[column, after] += 1.0 / len(orders)
        weights[column, before] -= 1.0 / len(orders)
    return Coalitions(np.array(masks), weights)


def _both(order: Array) -> tuple[Array, Array]:
    return order, order[::-1]


def shapley_values(
    predict: Callable[[pl.DataFrame], Array], rows: pl.DataFrame, background: pl.DataFrame, coalitions: Coalitions
) -> tuple[Array, Array]:
    """Return the value of each column for each row, shape (n, outputs, columns), and the base value, shape (outputs,).

    Parameters
    ----------
    predict
        Maps a table of the columns to predictions, shape (rows, outputs).
    rows, background
        Tables with the same columns.
    asked
        The coalitions.
    """
    both = pl.concat([rows, background.cast(dict(rows.schema))], how="vertical_relaxed")  # type: ignore[arg-type]
    base = predict(background).mean(axis=0)
    n_masks, n_background = len(coalitions.masks), background.height
    worths = [np.empty((0, len(base), len(coalitions.weights)))]
    at_once = max(1, MAX_MASKED_ROWS // (n_masks * n_background))
    for start in range(0, rows.height, at_once):
        n = min(at_once, rows.height - start)
        row_numbers = np.repeat(np.arange(start, start + n), n_masks * n_background)
        other = np.tile(rows.height + np.arange(n_background), n * n_masks)
        columns = []
        for j, name in enumerate(rows.columns):
            mask = np.tile(np.repeat(coalitions.masks[:, j], n_background), n)
            columns.append(both[name].gather(np.where(mask, row_numbers, other)).alias(name))
        worth = predict(pl.DataFrame(columns)).reshape(n, n_masks, n_background, -1).mean(axis=2)
        worths.append(np.einsum("jm,nmo->noj", coalitions.weights, worth))
    return np.concatenate(worths), base
