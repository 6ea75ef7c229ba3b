"""Content of requests and answers, independent of HTTP: strict JSON, rows checked against the schema, plain values.

An invalid request raises `HTTPError`, which lists the problems of all rows and columns.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import polars as pl

from rayline.core.operations.base import Row
from rayline.core.schema import category_values, is_category
from rayline.core.target import Target
from rayline.postprocess.base import suffixes
from rayline.preprocessing.value_readers import category_reader, integer_range, text_reader

MAX_PROBLEMS = 100
"""The maximum number of problems that are listed, and searched for: a body can contain millions."""

POLARS_ERRORS: tuple[type[BaseException], ...] = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""Exceptions that Polars raises; a panic is not a subclass of `Exception`."""

_UNREADABLE: tuple[type[BaseException], ...] = (KeyError, TypeError, ValueError, OverflowError, *POLARS_ERRORS)


class HTTPError(Exception):
    """An error answer to a request: the status, one sentence, and the problems by row and column."""

    def __init__(
        self,
        status: int,
        message: str,
        problems: Sequence[Mapping[str, Any]] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.problems, self.headers = status, message, problems, tuple(headers)

    def body(self) -> dict[str, Any]:
        """Return the body of the answer: `error`, `problems` if there are any, and `more_problems` (true) if not all are listed."""
        body: dict[str, Any] = {"error": self.message}
        if self.problems:
            body["problems"] = list(self.problems[:MAX_PROBLEMS])
            if len(self.problems) > MAX_PROBLEMS:
                body["more_problems"] = True
        return body

    @classmethod
    def of_rows(cls, problems: Iterable[Mapping[str, Any]]) -> HTTPError:
        """Return a 422 with the problems of rows; consumes only as many problems as are listed."""
        listed = list(islice(problems, MAX_PROBLEMS + 1))
        n = f"more than {MAX_PROBLEMS}" if len(listed) > MAX_PROBLEMS else str(len(listed))
        return cls(
            422,
            f"The rows do not match the columns of the model: {n} problem{'s' if len(listed) != 1 else ''}.",
            listed,
        )


# -- JSON ----------------------------------------------------------------------------------------------------------


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON; send null for a missing value")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"the key {_shown(twice)} occurs twice in an object")
    return members


_decode = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_object).decode
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode


def loads(body: bytes) -> Any:
    """Parse JSON. Raises HTTPError (400) when it is invalid; NaN, Infinity, unpaired surrogates and duplicate keys in an object
    are invalid."""
    try:
        value = _decode(body.decode("utf-8"))
        if b"\\ud" in body or b"\\uD" in body:
            _encode(value).encode()
        return value
    except RecursionError:
        raise HTTPError(400, "The body is nested too deeply.") from None
    except UnicodeError:
        raise HTTPError(400, "The body is not UTF-8.") from None
    except ValueError as error:
        raise HTTPError(400, f"The body is not JSON: {str(error)[:200]}.") from None


def dumps(value: Any) -> bytes:
    """Return the value as JSON; numbers that are not finite become null."""
    try:
        return _encode(value).encode()
    except ValueError:
        return _encode(finite(value)).encode()


def finite(value: Any) -> Any:
    """Return the value with None for every NaN and infinity in it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    return [finite(v) for v in value] if isinstance(value, (list, tuple)) else value


def json_value(value: Any) -> Any:
    """Return a label or a table value as a JSON value."""
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.total_seconds() if isinstance(value, dt.timedelta) else value


# -- values of columns ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ColumnReader:
    """Reader of a column's values from JSON.

    Attributes
    ----------
    dtype
        The type of the column in a table made of such values.
    words
        The accepted values, for error messages.
    types
        The Python types that JSON values may have.
    read
        Converts a JSON value to the table value; None when they are the same. Raises ValueError.
    """

    dtype: pl.DataType
    words: str
    types: frozenset[type]
    read: Callable[[Any], Any] | None = None

    @classmethod
    def of(cls, dtype: pl.DataType) -> ColumnReader:
        null = type(None)
        if dtype.is_float():
            return cls(dtype, "a number", frozenset({float, int, null}), _number)
        if dtype.is_integer():
            low, high = integer_range(dtype)
            return cls(dtype, f"a whole number from {low} to {high}", frozenset({int, float, null}), _whole(low, high))
        if dtype == pl.Boolean:
            return cls(dtype, "true or false", frozenset({bool, null}))
        if (values := category_values(dtype)) is not None:
            return cls(pl.String(), "a category", ColumnReader.of(values).types | {str}, category_reader(values))
        if dtype == pl.String or is_category(dtype):
            return cls(pl.String(), "text", frozenset({str, null}))
        if dtype == pl.Date:
            return cls(dtype, "a date such as 2013-01-31", frozenset({str, null}), text_reader(dtype))
        if isinstance(dtype, pl.Datetime):
            zoned = dtype.time_zone is not None
            words = f"a date and time such as 2013-01-31T12:30:00{'+00:00' if zoned else ''}"
            return cls(dtype, words, frozenset({str, null}), text_reader(dtype))
        if dtype == pl.Time:
            return cls(dtype, "a time such as 12:30:00", frozenset({str, null}), text_reader(dtype))
        if isinstance(dtype, pl.Duration):
            return cls(
                dtype, "a number of seconds", frozenset({float, int, null}), lambda s: dt.timedelta(seconds=_number(s))
            )
        if dtype == pl.Binary:
            return cls(dtype, "base64 text", frozenset({str, null}), _bytes)
        return cls(dtype, f"a value of type {dtype}", frozenset({list, dict, null}), _nested(dtype))

    def value(self, value: Any) -> Any:
        """Return the table value of one JSON value. Raises ValueError when the value is invalid for this column."""
        if type(value) not in self.types:
            raise ValueError(f"expected {self.words} or null; got {_shown(value)}")
        if self.read is None or value is None:
            return value
        try:
            return self.read(value)
        except (ValueError, OverflowError, TypeError):
            raise ValueError(f"expected {self.words} or null; got {_shown(value)}") from None

    def problem(self, value: Any) -> str | None:
        """Return the problem of a JSON value; None when it is valid."""
        try:
            self.value(value)
        except ValueError as error:
            return str(error)
        return None

    def series(self, name: str, values: Sequence[Any]) -> pl.Series:
        """Return a whole column. Raises ValueError, without naming the value, when one is invalid for this column."""
        if not set(map(type, values)) <= self.types:
            raise ValueError
        if self.dtype.is_float():
            series = pl.Series(name, values, dtype=self.dtype)
            if series.is_finite().all():
                return series
            raise ValueError
        if self.read is not None:
            read = self.read
            values = [None if v is None else read(v) for v in values]
        return pl.Series(name, values, dtype=self.dtype)


def _number(value: Any) -> float:
    x = float(value)
    if x - x != 0.0:  # infinite, such as 1e400
        raise ValueError
    return x


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        number = value if type(value) is int else int(value)
        if number != value or not low <= number <= high:
            raise ValueError
        return number

    return read


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError from error


def _nested(dtype: pl.DataType) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        try:
            pl.Series([value], dtype=dtype, strict=True)
        except POLARS_ERRORS as error:
            raise ValueError from error
        return value

    return read


def _shown(value: Any) -> str:
    """Return the beginning of a value as JSON."""
    text = json.dumps(_beginning(value, 5), ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _beginning(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return value[:60]
    if isinstance(value, list):
        return [_beginning(v, depth - 1) for v in value[:31]] if depth else []
    if isinstance(value, dict):
        return {k[:60]: _beginning(v, depth - 1) for k, v in islice(value.items(), 16)} if depth else {}
    return "a number of more than 60 digits" if type(value) is int and abs(value) >= 10**60 else value


# -- rows of a schema ----------------------------------------------------------------------------------------------


class RowReader:
    """Reads rows and columns from JSON and checks them against a schema."""

    def __init__(self, schema: Mapping[str, pl.DataType]) -> None:
        self.columns = {name: ColumnReader.of(dtype) for name, dtype in schema.items()}
        self._quick = [(name, column.types, column.read) for name, column in self.columns.items()]

    def row(self, row: Any) -> Row:
        """Read one row. Raises HTTPError (422) with all its problems."""
        values: Row = {}
        try:
            for name, types, read in self._quick:
                value = row[name]
                if type(value) not in types:
                    raise self._row_errors([row])
                values[name] = value if read is None or value is None else read(value)
        except (KeyError, TypeError, IndexError, ValueError, OverflowError):
            raise self._row_errors([row]) from None
        return values

    def rows(self, rows: Any) -> list[Row]:
        """Read a few rows. Raises HTTPError (422) with the problems of all rows and columns."""
        rows = self._list(rows)
        try:
            return [self.row(row) for row in rows]
        except HTTPError:
            raise self._row_errors(rows) from None

    def table(self, rows: Any) -> pl.DataFrame:
        """Read many rows as a table. Raises as `rows`."""
        rows = self._list(rows)
        try:
            if not set(map(type, rows)) <= {dict}:
                raise TypeError
            series = [column.series(name, [row[name] for row in rows]) for name, column in self.columns.items()]
        except _UNREADABLE:
            raise self._row_errors(rows) from None
        return pl.DataFrame(series, height=len(rows))

    def table_of_columns(self, columns: Any) -> pl.DataFrame:
        """Read a table from `{"column": [value, …], …}`. Raises as `rows`."""
        if not isinstance(columns, dict) or not all(isinstance(values, list) for values in columns.values()):
            raise HTTPError(422, 'The columns must be an object of lists: {"column": [value, ...], ...}.')
        if not self.columns.keys() <= columns.keys():
            raise HTTPError.of_rows(
                {"column": name, "problem": "missing"} for name in self.columns if name not in columns
            )
        lengths = {name: len(columns[name]) for name in self.columns}
        if len(set(lengths.values())) > 1:
            problems = [{"column": name, "problem": f"{n} values"} for name, n in lengths.items()]
            raise HTTPError(422, "The columns have different lengths.", problems)
        n = next(iter(lengths.values()), 0)
        if not n:
            raise HTTPError(422, "Expected at least one row; got none.")
        try:
            return pl.DataFrame([column.series(name, columns[name]) for name, column in self.columns.items()], height=n)
        except _UNREADABLE:
            raise HTTPError.of_rows(self._problems_of_columns(columns)) from None

    def transposed(self, columns: Mapping[str, Sequence[Any]], n: int) -> list[Row]:
        """Return columns of n values as rows."""
        return [{name: columns[name][i] for name in self.columns} for i in range(n)]

    def _list(self, rows: Any) -> list[Any]:
        if not isinstance(rows, list):
            raise HTTPError(422, f'Expected a list of rows: [{{"column": value, ...}}, ...]; got {_shown(rows)}.')
        if not rows:
            raise HTTPError(422, "Expected at least one row; got none.")
        return rows

    def _row_errors(self, rows: Sequence[Any]) -> HTTPError:
        return HTTPError.of_rows(self._problems(rows))

    def _problems(self, rows: Sequence[Any]) -> Iterator[dict[str, Any]]:
        for i, row in enumerate(rows):
            if not isinstance(row, dict):
                yield {"row": i, "problem": f'expected an object {{"column": value, ...}}; got {_shown(row)}'}
                continue
            for name, column in self.columns.items():
                if name not in row:
                    yield {"row": i, "column": name, "problem": "missing"}
                elif (problem := column.problem(row[name])) is not None:
                    yield {"row": i, "column": name, "problem": problem}

    def _problems_of_columns(self, columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
        for name, column in self.columns.items():
            for i, value in enumerate(columns[name]):
                if (problem := column.problem(value)) is not None:
                    yield {"row": i, "column": name, "problem": problem}


class PredictionWriter:
    """Converts predictions to JSON values: one value per row for one target, an object per row for several."""

    FEW = 8

    def __init__(self, target: Target) -> None:
        self.target = target
        self._names = list(zip(target.prediction_names, target.value_names, strict=True))
        self._suffixes = suffixes(target)
        self._words: list[list[tuple[str, str]]] = []
        if target.task.is_classification:
            names = iter(target.probability_names)
            self._words = [[(next(names), _word(c)) for c in classes] for classes in target.classes]

    def predictions(self, scores: Any) -> list[Any]:
        """Return the predictions for the scores of a model."""
        if len(scores) <= self.FEW:
            rows = [self.target.row_prediction(scores[i : i + 1]) for i in range(len(scores))]
        else:
            rows = self.target.predictions(scores).to_dicts()
        if len(self._names) == 1:
            (name, _), *_ = self._names
            return [json_value(row[name]) for row in rows]
        return [{column: json_value(row[name]) for name, column in self._names} for row in rows]

    def intervals(self, rows: Sequence[Row]) -> list[Any]:
        """Return `{"lower": …, "upper": …}` or the list of the classes of a set for each row; with several targets an object of
        these."""
        classifies = self.target.task.is_classification
        intervals = []
        for row in rows:
            row_intervals = [
                [json_value(label) for label in row[f"set{suffix}"]]
                if classifies
                else {"lower": row[f"lower{suffix}"], "upper": row[f"upper{suffix}"]}
                for suffix in self._suffixes
            ]
            intervals.append(
                row_intervals[0]
                if len(row_intervals) == 1
                else dict(zip(self.target.columns, row_intervals, strict=True))
            )
        return intervals

    def probabilities(self, scores: Any) -> list[Any]:
        """Return `{"class": probability}` for each row; with several targets an object of these. Raises ParameterError when
        the model has no probabilities."""
        rows = self.target.probabilities(scores).to_dicts()
        by_row = [[{word: row[name] for name, word in words} for words in self._words] for row in rows]
        if len(self._names) == 1:
            return [row[0] for row in by_row]
        return [dict(zip(self.target.columns, row, strict=True)) for row in by_row]


def _word(value: Any) -> str:
    value = json_value(value)
    return value if isinstance(value, str) else json.dumps(value)
