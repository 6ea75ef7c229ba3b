"""The slices of a table by some of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import polars as pl

from rayline.core.errors import ParameterError
from rayline.evaluate.scored_columns import BY, WHERE, Array

MAX_SLICES = 1_000
"""Slices of one column, or of columns together, that an evaluation takes."""


MISSING = "(missing)"


@dataclass(frozen=True, eq=False)
class Slices:
    """The slices of a table by some of its columns: the values of each, and the number of each row's slice."""

    values: Sequence[str]
    codes: Array  # int64

    @classmethod
    def of(cls, frame: pl.DataFrame, names: Sequence[str]) -> Self:
        """Return the slices of the combinations of values that occur. Raises ParameterError on more than `MAX_SLICES`."""
        texts, codes = list[str](), np.zeros(frame.height, np.int64)
        for place, name in enumerate(names):
            own_texts, value_codes = _value_codes(frame[f"{BY}{name}"], names)
            texts = [f"{text}, {more}" for text in texts for more in own_texts] if place else own_texts
            codes = codes * len(own_texts) + value_codes
        counts = np.bincount(codes, minlength=len(texts))
        values = list(dict.fromkeys(texts[i] for i in np.flatnonzero(counts)))
        refuse_many(len(values), names)
        places = {text: i for i, text in enumerate(values)}
        new = np.array([places.get(text, 0) for text in texts], dtype=np.int64)
        return cls(values, codes if np.array_equal(new, np.arange(len(texts))) else new[codes])

    @cached_property
    def order(self) -> Array:
        """The indices of the rows, slice by slice."""
        return np.argsort(self.codes.astype(np.uint16), kind="stable")  # in linear time

    @cached_property
    def ends(self) -> list[int]:
        """The end of the rows of each slice in `order`."""
        return np.cumsum(np.bincount(self.codes, minlength=len(self.values))).tolist()  # type: ignore[no-any-return]


def _value_codes(values: pl.Series, names: Sequence[str]) -> tuple[list[str], Array]:
    """Return the different values of a column as texts, and the number of each row's."""
    values = _missing_once(values.alias("value"))
    if values.dtype.is_integer() and not values.null_count():
        low, high = (
            int(end)
            for end in values.to_frame().select(pl.min("value").alias("low"), pl.max("value").alias("high")).row(0)
        )
        if high - low < MAX_SLICES:
            return [str(value) for value in range(low, high + 1)], (values - low).cast(pl.Int64).to_numpy()
    groups = values.to_frame().with_row_index("row").group_by("value").agg("row")
    refuse_many(groups.height, names)
    codes = np.empty(len(values), np.int64)
    for code, rows in enumerate(groups["row"]):
        codes[rows.to_numpy()] = code
    return _texts(groups["value"], is_alone=len(names) == 1), codes


def _missing_once(values: pl.Series) -> pl.Series:
    """Return floats with one form of a missing value and of 0: NaN is null, −0 is 0."""
    if not values.dtype.is_float():
        return values
    value = pl.col("value")
    return (
        values.to_frame().select(pl.when(value != 0).then(value.fill_nan(None)).when(value == 0).then(0.0)).to_series()
    )


def _texts(values: pl.Series, *, is_alone: bool) -> list[str]:
    """Return different values as different texts: those that read like others, or like two together, in quotes."""
    texts = values.dt.to_string("polars") if values.dtype == pl.Duration else values.cast(pl.String)

    def text(value: str | None) -> str:
        if value is None:
            return MISSING
        return f"'{value}'" if value == MISSING or (not is_alone and ", " in value) else value

    return [text(value) for value in texts]


def refuse_many(n: int, names: Sequence[str] = ()) -> None:
    """Raise ParameterError on more than `MAX_SLICES` slices of some columns."""
    if n > MAX_SLICES:
        of = f" of {', '.join(map(repr, names))}" if names else ""
        raise ParameterError(
            f"{WHERE}: by={list(names) or '…'} makes more than {MAX_SLICES:,} slices{of}; {n:,} were found so far.",
            f"Expected at most {MAX_SLICES:,} different values.",
            "choose a column of fewer values, or put numbers into bins first.",
        )
