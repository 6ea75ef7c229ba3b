"""The operation of linear maps between columns, as principal components are: wide ones too, which formulas are too slow for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.operations.base import Changes, Drop, Operation, Row, RowFunction
from rayline.core.schema import col

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Linear(Operation):
    """Each output is its offset plus the sum of (column - shift) · weight, in the order of the columns, as float64.

    A missing column makes all outputs missing. Columns that are no outputs stay.
    """

    columns: Sequence[str]
    outputs: Sequence[str]
    weights: Sequence[Sequence[float]]  # for each output one for each column
    shift: Sequence[float]  # of each column
    offset: Sequence[float]  # of each output

    @cached_property
    def _by_column(self) -> Array:
        return np.ascontiguousarray(np.array(self.weights, dtype=np.float64).T)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        raise NotImplementedError  # many columns become many, see apply

    def apply(self, table: pl.LazyFrame) -> pl.LazyFrame:
        present = table.collect_schema()
        dtype = pl.Struct({name: pl.Float64() for name in self.outputs})
        row = pl.struct(col(name).cast(pl.Float64).alias(str(i)) for i, name in enumerate(self.columns))
        structs = row.map_batches(self._structs, return_dtype=dtype, is_elementwise=True).alias("\x00linear")
        old = [name for name in self.outputs if name in present]
        return Drop(old).apply(table.with_columns(structs)).unnest("\x00linear")

    def _structs(self, rows: pl.Series) -> pl.Series:
        total = np.tile(np.array(self.offset, dtype=np.float64), (len(rows), 1))
        with np.errstate(all="ignore"):
            for column, shift, weights in zip(
                rows.struct.unnest().iter_columns(), self.shift, self._by_column, strict=True
            ):
                # One column after the other: a product of matrices would add in another order than a single row does.
                total += (column.to_numpy() - shift)[:, None] * weights
        return pl.DataFrame(total, schema=list(self.outputs), orient="row").fill_nan(None).to_struct(rows.name)

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        columns, outputs, offset = list(self.columns), list(self.outputs), np.array(self.offset, dtype=np.float64)
        terms = list(zip(self.shift, self._by_column, strict=True))
        missing = dict.fromkeys(outputs)

        def linear(row: Row) -> None:
            values = [row[column] for column in columns]
            for output in outputs:
                row.pop(output, None)
            if any(value is None or value != value for value in values):
                row.update(missing)
                return
            total = offset.copy()
            with np.errstate(all="ignore"):
                for value, (shift, weights) in zip(values, terms, strict=True):
                    total += (float(value) - shift) * weights
            row.update((name, None if math.isnan(x) else x) for name, x in zip(outputs, total.tolist(), strict=True))

        return linear

    def changes(self, schema: Mapping[str, pl.DataType]) -> Changes:
        return Changes({name: pl.Float64() for name in self.outputs}, self.outputs)

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return dict.fromkeys(self.outputs, tuple(self.columns))
