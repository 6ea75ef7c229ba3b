"""A preprocessor that came from a file, tried out before anyone relies on it: its learned values may be a stranger's.

What a stage has learned is its own business, so no schema could say what is right; but a preprocessor that cannot lower
its stages, transform no rows, and transform two rows without an error other than a declared one, is damaged.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Any

import polars as pl

from rayline.core.errors import DataError, SchemaError

if TYPE_CHECKING:
    from rayline.preprocessing.preprocessor import Preprocessor

_VALUES: dict[Any, Any] = {
    pl.String: "x",
    pl.Binary: b"x",
    pl.Boolean: True,
    pl.Date: dt.date(2020, 2, 29),
    pl.Datetime: dt.datetime(2020, 2, 29, 12),
    pl.Duration: dt.timedelta(hours=1),
    pl.Time: dt.time(12),
}


def try_out(preprocessor: Preprocessor) -> None:
    """Raise what is wrong with a fitted preprocessor: a RaylineError, or whatever its learned values lead to.

    A stage may refuse the rows that are tried (DataError); that is its right.
    """
    transform, schema = preprocessor.table_function(), preprocessor.input_schema
    given = transform(pl.LazyFrame(schema=schema)).collect().schema
    wrong = [name for name, dtype in preprocessor.output_schema.items() if given.get(name) != dtype]
    if wrong:
        raise SchemaError(
            f"The preprocessor does not give the column {wrong[0]!r} as it says.",
            f"Expected {preprocessor.output_schema[wrong[0]]}; got {given.get(wrong[0])}.",
        )
    row = preprocessor.row_function()
    for values in (dict.fromkeys(schema), {name: _value(dtype) for name, dtype in schema.items()}):
        with contextlib.suppress(DataError):
            transform(pl.LazyFrame({name: [value] for name, value in values.items()}, schema=schema)).collect()
        if row is not None:
            with contextlib.suppress(DataError):
                row(dict(values))


def _value(dtype: pl.DataType) -> Any:
    """Some value of a type, None where there is no obvious one."""
    if dtype.is_numeric():
        return 1
    if isinstance(dtype, pl.Enum):
        return next(iter(dtype.categories), None)
    if isinstance(dtype, pl.List):
        return [_value(pl.Series(dtype=dtype.inner).dtype)]
    return _VALUES.get(dtype.base_type())
