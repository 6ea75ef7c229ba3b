"""A stage alone: fitted on a table and asked about another, as a table and row by row."""

from __future__ import annotations

from typing import Any

import polars as pl

from rayline.inference.pipeline import Preprocessor


def run(stage: Any, table: pl.DataFrame, new: pl.DataFrame | None = None) -> pl.DataFrame:
    return Preprocessor([("stage", stage)]).fit(table).transform(table if new is None else new)


def check_single_rows(fitted: Preprocessor, table: pl.DataFrame) -> None:
    """Each row alone gives what the table gives, to the bit."""
    transform = fitted.row_function()
    assert transform is not None
    for row, wanted in zip(table.to_dicts(), fitted.transform(table).to_dicts(), strict=True):
        transform(row)
        assert row == wanted
