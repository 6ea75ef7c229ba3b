"""A smoke check of a transformation that was read from a file, before it is used: its learned values are untrusted.

No schema describes what a stage may have learned, so the transformation is run instead: it is damaged if it cannot
transform a table without rows, or fails on one of two rows with an undeclared error.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import Any

import polars as pl

from rayline.core.errors import DataError, SchemaError
from rayline.core.operations.base import Row, RowFunction
from rayline.core.scan import TableFunction

_VALUES: dict[Any, Any] = {
    pl.String: "x",
    pl.Binary: b"x",
    pl.Boolean: True,
    pl.Date: dt.date(2020, 2, 29),
    pl.Datetime: dt.datetime(2020, 2, 29, 12),
    pl.Duration: dt.timedelta(hours=1),
    pl.Time: dt.time(12),
}


def smoke_check(
    transform: TableFunction, transform_row: RowFunction | None, input_schema: pl.Schema, output_schema: pl.Schema
) -> None:
    """Run a fitted transformation on no rows, on a row of nulls and on a row of sample values.

    Parameters
    ----------
    transform, transform_row
        The transformation of a table, and of a single row (None when there is none).
    input_schema, output_schema
        The columns and types that it claims to take and to return.

    Raises
    ------
    SchemaError
        When the returned columns differ from `output_schema`.
    Exception
        Any error that the learned values cause, except DataError: a stage may refuse a row.
    """
    returned = transform(pl.LazyFrame(schema=input_schema)).collect().schema
    wrong = [name for name, dtype in output_schema.items() if returned.get(name) != dtype]
    if wrong:
        raise SchemaError(
            f"The preprocessor does not return the column {wrong[0]!r} as its output schema says.",
            f"Expected {output_schema[wrong[0]]}; got {returned.get(wrong[0])}.",
        )
    rows: list[Row] = [dict.fromkeys(input_schema), {name: _value(dtype) for name, dtype in input_schema.items()}]
    try:
        transform(_table(rows, input_schema)).collect()
    except DataError:  # one of the rows is refused: the other must be tried too
        for row in rows:
            with contextlib.suppress(DataError):
                transform(_table([row], input_schema)).collect()
    if transform_row is not None:
        for row in rows:
            with contextlib.suppress(DataError):
                transform_row(dict(row))


def _table(rows: list[Row], schema: pl.Schema) -> pl.LazyFrame:
    return pl.LazyFrame({name: [row[name] for row in rows] for name in schema}, schema=schema)


def _value(dtype: pl.DataType) -> Any:
    """Return a sample value of the type; None when there is no obvious one."""
    if dtype.is_numeric():
        return 1
    if isinstance(dtype, pl.Enum):
        return next(iter(dtype.categories), None)
    if isinstance(dtype, pl.List):
        return [_value(pl.Series(dtype=dtype.inner).dtype)]
    return _VALUES.get(dtype.base_type())
