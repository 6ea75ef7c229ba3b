"""Request bodies and answers: JSON, Arrow and the Open Inference Protocol."""

from __future__ import annotations

import datetime as dt
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline.core.target import Target, Task
from rayline.serve.protocol import HTTPError, PredictionWriter, RowReader, dumps, loads

SCHEMA = {
    "x": pl.Float64(),
    "n": pl.Int8(),
    "b": pl.Boolean(),
    "s": pl.String(),
    "d": pl.Date(),
    "t": pl.Datetime("us"),
    "z": pl.Datetime("us", "UTC"),
    "l": pl.List(pl.Int64()),
}
ROW = {
    "x": 1, "n": 3.0, "b": True, "s": "é", "d": "2013-01-31", "t": "2013-01-31T12:30:00", "z": "2013-01-31T12:30:00+02:00", "l": [1, 2],
}  # fmt: skip


def test_values_become_what_the_schema_says() -> None:
    row = RowReader(SCHEMA).row(ROW)
    assert row["x"] == 1.0
    assert isinstance(row["x"], float)
    assert (row["n"], row["b"], row["s"], row["d"]) == (3, True, "é", dt.date(2013, 1, 31))
    assert row["t"] == dt.datetime(2013, 1, 31, 12, 30)
    assert row["z"] == dt.datetime(2013, 1, 31, 10, 30, tzinfo=dt.UTC)


def test_rows_and_table_agree() -> None:
    reader, rows = RowReader(SCHEMA), [ROW, dict.fromkeys(SCHEMA), ROW]
    table = reader.table(rows)
    assert table.schema == pl.Schema(SCHEMA)
    assert table.equals(pl.DataFrame(reader.rows(rows), schema=SCHEMA))
    assert table.equals(reader.table_of_columns({name: [row[name] for row in rows] for name in SCHEMA}))


WRONG = [
    ("x", "1"), ("x", True), ("x", [1]), ("n", 128), ("n", 1.5), ("n", "1"), ("b", 1), ("s", 1), ("d", "31.1.2013"), ("d", 20130131),
    ("t", "2013-01-31T12:30:00+00:00"), ("z", "2013-01-31T12:30:00"), ("l", ["a"]), ("l", 3),
]  # fmt: skip


@pytest.mark.parametrize(("column", "value"), WRONG)
def test_every_problem_is_listed(column: str, value: object) -> None:
    reader = RowReader(SCHEMA)
    rows = [ROW, {**ROW, column: value}, {k: v for k, v in ROW.items() if k != "s"}, 7]
    for read in (reader.rows, reader.table):
        with pytest.raises(HTTPError) as error:
            read(rows)
        problems = error.value.problems
        assert error.value.status == 422
        assert [(p["row"], p.get("column")) for p in problems] == [(1, column), (2, "s"), (3, None)]
        assert json.dumps(value) in problems[0]["problem"]


def test_problems_are_bounded() -> None:
    with pytest.raises(HTTPError) as error:
        RowReader(SCHEMA).table([{}] * 1000)
    body = error.value.body()
    assert len(body["problems"]) == 100
    assert body["more_problems"] is True


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[NaN]", b"[Infinity]", b"\xff", b"[" * 100_000, b"1" * 10_000, b"[1]]", b'"\\ud800"']
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(HTTPError) as error:
        loads(body)
    assert error.value.status == 400


@given(st.recursive(st.none() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v)))
def test_what_is_written_is_json(value: object) -> None:
    json.loads(dumps(value), parse_constant=pytest.fail)


def test_infinity_in_a_number_is_refused() -> None:
    reader = RowReader({"x": pl.Float64()})
    for read in (reader.rows, reader.table):
        with pytest.raises(HTTPError):
            read(loads(b'[{"x": 1e400}]'))


def test_several_targets_are_an_object_a_row() -> None:
    target = Target(
        ("a", "b"), Task.BINARY, (pl.String(), pl.Date()), (("n", "y"), (dt.date(2013, 1, 1), dt.date(2013, 1, 2)))
    )
    writer = PredictionWriter(target)
    scores = np.array([[0.9, 0.25]] * 2)
    assert writer.predictions(scores) == [{"a": "y", "b": "2013-01-01"}] * 2
    assert writer.predictions(np.repeat(scores, 10, axis=0)) == [{"a": "y", "b": "2013-01-01"}] * 20
    assert writer.probabilities(scores)[0]["b"] == {"2013-01-01": 0.75, "2013-01-02": 0.25}
