"""The columns that a stage or a call names: by name, by Polars selector, or by their type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import polars as pl
import polars.selectors as cs

from rayline.core.errors import ParameterError, SchemaError, shorten

Columns: TypeAlias = str | Sequence[str] | pl.Expr | None
"""Columns by name, by Polars selector, or (None) by type."""


class Selected(list[str]):
    """The columns of a saved stage that a selector chose in its fit; unlike named columns, targets among them are skipped."""


def choose(columns: Columns, schema: Mapping[str, pl.DataType]) -> list[str]:
    """Return the column names that an explicit choice selects, in the order of the choice.

    Raises SchemaError when a name is not in the schema. Raises ParameterError when the choice is neither names nor a selector, or
    names a column twice.
    """
    if isinstance(columns, str):
        columns = [columns]
    if isinstance(columns, pl.Expr):
        if not cs.is_selector(columns):
            raise ParameterError.value("columns", "names or a Polars selector such as cs.numeric()", columns)
        try:
            return list(cs.expand_selector(pl.Schema(schema), columns))
        except pl.exceptions.ColumnNotFoundError as error:
            raise SchemaError.absent([str(error).partition('" not found')[0].lstrip('"')], schema) from error
    names = list(columns or [])
    if not all(isinstance(name, str) for name in names):
        raise ParameterError.value("columns", "names or a Polars selector such as cs.numeric()", columns)
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    if twice:
        raise ParameterError.value("columns", "each column once", twice)
    missing = [name for name in names if name not in schema]
    if missing:
        raise SchemaError.absent(missing, schema)
    return names


def refuse_existing_columns(added: Iterable[str], present: Collection[str]) -> None:
    """Raise SchemaError when a column to be added has the name of an existing column."""
    taken = [name for name in added if name in present]
    if taken:
        raise SchemaError.here(
            f"the table has a column {taken[0]!r} already, which would be replaced.",
            f"Expected names that differ from those of the added columns; got {shorten(taken)}.",
            f"rename {taken[0]!r}, or leave it out.",
        )
