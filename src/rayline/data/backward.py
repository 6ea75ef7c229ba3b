"""The way back: from the columns that a preprocessor gives to those that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from rayline.core.errors import ParameterError
from rayline.core.operations import Operation, apply_all, schema_after
from rayline.core.schema import col
from rayline.core.stage import Stage
from rayline.data.conform import Conform

Leaf = tuple[str, Stage]


@dataclass(frozen=True)
class Backward:
    """A transformed table as it was before; small, and serialisable to workers."""

    check: Conform
    operations: Sequence[Operation]
    first: Sequence[str]

    def __call__(self, table: pl.LazyFrame) -> pl.LazyFrame:
        back = apply_all(self.operations, self.check(table))
        names = back.collect_schema().names()
        return back.select(*map(col, self.first), *(col(name) for name in names if name not in self.first))


def inverse(leaves: Sequence[Leaf], schema: Mapping[str, pl.DataType], where: str) -> list[Operation]:
    """The operations that undo the fitted stages, the last one first, on a table that had this schema before them.

    Raises ParameterError when a stage has no way back.
    """
    back: list[Operation] = []
    for path, leaf in leaves:
        if leaf.changes_rows:
            continue  # it does nothing but in training
        undo = leaf.invert(path, schema)
        if undo is None:
            raise ParameterError(
                f"{where}: stage {path!r} ({type(leaf).__name__}) has no inverse.",
                "Expected stages that lead back, such as scalers and encoders that keep their categories.",
                f"leave {path!r} out, or invert the part of the preprocessor before it.",
            )
        back = [*undo, *back]
        schema = schema_after(leaf.lower(path), schema)
    return back
