"""Weights of rows that are measured or learned from after the training: which numbers they may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from rayline.core.errors import DataError, ParameterError, SchemaError, counted

MAX_WEIGHT = 1e30
"""The largest weight of a row: sums of more of them would overflow."""


def check_weight_column(name: Any, schema: Mapping[str, pl.DataType]) -> None:
    """Raise ParameterError when this is no name of a column, and SchemaError when the table lacks it or it holds no numbers."""
    if name is None:
        return
    if not isinstance(name, str):
        raise ParameterError.value("sample_weight", "the name of a column", type(name))
    if name not in schema:
        raise SchemaError.absent([name], schema)
    if not schema[name].is_numeric():
        raise SchemaError.dtype(name, "a numeric column of weights", schema[name])


def row_weights(column: pl.Series) -> pl.Series:
    """Return weights as Float64. Raises DataError when one is missing, negative or above `MAX_WEIGHT`."""
    weights = column.cast(pl.Float64)
    is_wrong = ~weights.is_between(0, MAX_WEIGHT).fill_null(value=False)
    wrong = int(is_wrong.sum())
    if wrong:
        raise DataError.here(
            f"the weight {column.name!r} has {counted(wrong, 'value')} that {'is' if wrong == 1 else 'are'} missing, "
            "negative or infinite.",
            f"Expected a number from 0 to {MAX_WEIGHT:g} in every row; got {column.filter(is_wrong).head(5).to_list()!r}.",
            "drop or correct these rows first.",
        )
    return weights
