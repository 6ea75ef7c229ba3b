"""Functions of NumPy as expressions of numeric columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.schema import map_values

Numbers: TypeAlias = npt.NDArray[np.float64]


def map_numbers(values: pl.Expr, function: Callable[[Numbers], Numbers]) -> pl.Expr:
    """Apply a function to the numbers of a column as float64. Missing values (null, NaN) are not passed to it, and become null."""
    return map_values(values.cast(pl.Float64), _OfNumbers(function), pl.Float64)


@dataclass(frozen=True)
class _OfNumbers:
    """Calls NumPy alone: each method of a Series is a query, and one of those takes longer than the work on a thousand numbers."""

    function: Callable[[Numbers], Numbers]

    def __call__(self, values: pl.Series) -> pl.Series:
        x = values.to_numpy()  # NaN where a value is missing
        missing = np.isnan(x)
        if not missing.any():
            return pl.Series(self.function(x))
        import pyarrow as pa  # what reads tables has imported it; single rows do not need it

        result = np.zeros(len(x))
        result[~missing] = self.function(x[~missing])
        return pl.Series(pa.array(result, mask=missing))
