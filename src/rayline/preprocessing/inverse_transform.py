"""The inverse of a preprocessor: from its output columns to its input columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from rayline.core.errors import SchemaError
from rayline.core.operations.base import Operation, apply_all
from rayline.core.schema import col
from rayline.preprocessing.schema_check import SchemaCheck


@dataclass(frozen=True)
class InverseTransform:
    """The function that inverts a transformed table; small, and serialisable to workers."""

    check: SchemaCheck
    operations: Sequence[Operation]
    first: Sequence[str]

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        present = table.collect_schema()
        absent = [name for name in self.check.schema if name not in present]
        if absent:
            raise SchemaError.absent(absent, present, where=self.check.made_at)
        back = apply_all(self.operations, self.check(table))
        names = back.collect_schema().names()
        return back.select(*map(col, self.first), *(col(name) for name in names if name not in self.first))
