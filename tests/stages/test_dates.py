"""Calendar parts against Python's datetime, and holidays."""

from __future__ import annotations

import datetime as dt
import math

import polars as pl
import pytest

from rayline.core.errors import ParameterError, SchemaError
from rayline.data.preprocessor import Preprocessor
from rayline.stages import DatetimeEncoder

TIMES = [dt.datetime(2013, 7, 4, 23, 59, 58), dt.datetime(2012, 12, 31), dt.datetime(1969, 2, 28, 1), None]


def encode(stage: DatetimeEncoder, values: list[object]) -> dict[str, list[object]]:
    return Preprocessor([("d", stage)]).fit_transform(pl.DataFrame({"t": values})).to_dict(as_series=False)


def test_parts() -> None:
    parts = ["year", "quarter", "week", "weekday", "day_of_year", "minute", "is_weekend", "days"]
    found = encode(DatetimeEncoder(parts=parts), TIMES)
    assert found == {
        "t_year": [2013, 2012, 1969, None],
        "t_quarter": [3, 4, 1, None],
        "t_week": [27, 1, 9, None],
        "t_weekday": [4, 1, 5, None],
        "t_day_of_year": [185, 366, 59, None],
        "t_minute": [59, 0, 0, None],
        "t_is_weekend": [0, 0, 0, None],
        "t_days": [15890, 15705, -307, None],
    }


def test_dates_have_no_hours_and_parts_come_round() -> None:
    found = encode(DatetimeEncoder(parts=["month", "hour"], cyclic=True), [dt.date(2013, 3, 1), dt.date(2013, 12, 1)])
    assert list(found) == ["t_month", "t_month_sin", "t_month_cos"]
    assert found["t_month_sin"] == [math.sin(3 * (2 * math.pi / 12)), math.sin(12 * (2 * math.pi / 12))]


def test_holidays() -> None:
    pytest.importorskip("holidays")
    assert encode(DatetimeEncoder(parts=[], holidays="US"), TIMES) == {"t_holiday": [1, 0, 0, None]}
    with pytest.raises(ParameterError, match="country code"):
        encode(DatetimeEncoder(holidays="Atlantis"), TIMES)


def test_names_are_free() -> None:
    table = pl.DataFrame({"t": TIMES, "t_year": [1, 2, 3, 4]})
    with pytest.raises(SchemaError, match="t_year"):
        Preprocessor([("d", DatetimeEncoder())]).fit(table)
