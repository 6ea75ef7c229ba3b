"""The inverse of fitted stages: from their output to their input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from rayline.core.errors import ParameterError, at
from rayline.core.operations.base import Operation, schema_after
from rayline.core.stage import Stage, operations_of

Leaf = tuple[str, Stage]


def inverse(leaves: Sequence[Leaf], schema: Mapping[str, pl.DataType]) -> list[Operation]:
    """Return the operations that undo the fitted stages, the last one first, on a table that had this schema before them.

    Raises ParameterError when a stage has no inverse.
    """
    back: list[Operation] = []
    for path, leaf in leaves:
        if leaf.resamples:
            continue  # it does nothing but in training
        with at(path):
            undo = leaf.invert(schema)
        if undo is None:
            raise ParameterError.here(
                f"stage {path!r} ({type(leaf).__name__}) has no inverse.",
                "Expected stages with an inverse, such as scalers and encoders that keep their categories.",
                f"leave {path!r} out, or invert the part of the preprocessor before it.",
            )
        back = [*undo, *back]
        schema = schema_after(operations_of(path, leaf), schema)
    return back
