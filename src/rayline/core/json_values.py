"""Schemas and learned values as strict JSON, and back."""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import polars as pl

from rayline.core.errors import ParameterError, SchemaError
from rayline.core.schema import dtype_from_json, dtype_to_json


def schema_to_json(schema: Mapping[str, pl.DataType]) -> list[list[Any]]:
    return [[name, dtype_to_json(dtype)] for name, dtype in schema.items()]


def schema_from_json(value: Any) -> pl.Schema:
    if not isinstance(value, list) or not all(isinstance(v, list) and len(v) == 2 for v in value):
        raise SchemaError(
            "A saved schema is malformed.", f"Expected a list of [name, type]; got {type(value).__name__}."
        )
    return pl.Schema({str(name): dtype_from_json(dtype) for name, dtype in value})


def value_to_json(value: Any) -> Any:
    """Return a learned value as strict JSON; a type that JSON lacks becomes an object with one key: {"$date": "2013-01-01"}."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else {"$float": repr(value)}
        case dt.datetime():
            return {"$datetime": value.isoformat()}
        case dt.date():
            return {"$date": value.isoformat()}
        case dt.time():
            return {"$time": value.isoformat()}
        case dt.timedelta():
            return {"$us": value // dt.timedelta(microseconds=1)}
        case Decimal():
            return {"$decimal": str(value)}
        case bytes():
            return {"$bytes": base64.b64encode(value).decode()}
        case pl.DataType():
            return {"$dtype": dtype_to_json(value)}
        case list() | tuple():
            return [value_to_json(v) for v in value]
        case dict():
            return {str(k): value_to_json(v) for k, v in value.items()}
    raise ParameterError(
        f"A {type(value).__name__} cannot be saved as JSON.",
        "Expected a number, a string, a date, or a list or dict of these.",
        "use plain Python values as parameters of a stage.",
    )


_READERS: dict[str, Any] = {
    "$float": float,
    "$datetime": dt.datetime.fromisoformat,
    "$date": dt.date.fromisoformat,
    "$time": dt.time.fromisoformat,
    "$us": lambda us: dt.timedelta(microseconds=us),
    "$decimal": Decimal,
    "$bytes": base64.b64decode,
    "$dtype": dtype_from_json,
}


def value_from_json(value: Any) -> Any:
    """Return the value from the JSON of `value_to_json`."""
    if isinstance(value, list):
        return [value_from_json(v) for v in value]
    if isinstance(value, dict):
        if len(value) == 1:
            (key, inner), *_ = value.items()
            if key in _READERS:
                return _READERS[key](inner)
        return {k: value_from_json(v) for k, v in value.items()}
    return value
