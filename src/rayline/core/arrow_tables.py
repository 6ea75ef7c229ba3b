"""Tables of Polars as tables of Arrow, in which they pass between libraries and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from rayline.core.errors import SchemaError

if TYPE_CHECKING:
    import pyarrow as pa


def to_arrow(frame: pl.DataFrame) -> pa.Table:
    """Return an Arrow table, in types that every Arrow library reads; nulls stay nulls.

    Raises SchemaError, with the column, for a name or a type that Arrow does not have.
    """
    for name in frame.columns:
        refuse_nul(name)
    try:
        return frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    except (ValueError, NotImplementedError):
        for column in frame.get_columns():
            try:
                column.clear().to_arrow(compat_level=pl.CompatLevel.oldest())
            except (ValueError, NotImplementedError) as error:
                raise SchemaError(
                    f"Column {column.name!r} holds {column.dtype}, which Arrow does not have.",
                    "Expected a type of Arrow: Ray and Parquet files hold their rows as Arrow.",
                    f"cast {column.name!r} first, such as pl.col({column.name!r}).cast(pl.Float64).",
                ) from error
        raise


def refuse_nul(name: str) -> None:
    """Raise SchemaError for the name of a column with a NUL character."""
    if "\x00" in name:
        raise SchemaError(
            f"The column {name!r} has a NUL character in its name.",
            "Expected a name that Arrow supports.",
            "rename it.",
        )
