"""Calendar parts against Python's datetime, and holidays."""

from __future__ import annotations

import datetime as dt
import math
import zoneinfo
from collections.abc import Sequence
from typing import Any

import holidays
import polars as pl
import pytest

from rayline.core.errors import ParameterError, SchemaError
from rayline.core.operations.base import row_function
from rayline.inference.pipeline import Preprocessor
from rayline.stages import DatetimeEncoder
from rayline.stages.dates import PARTS

TIMES = [dt.datetime(2013, 7, 4, 23, 59, 58), dt.datetime(2012, 12, 31), dt.datetime(1969, 2, 28, 1), None]


def encode(stage: DatetimeEncoder, values: Sequence[Any]) -> dict[str, list[object]]:
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


@pytest.mark.parametrize(
    "zone", ["America/New_York", "Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Pago_Pago", "UTC", None]
)
@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_every_part_is_read_in_the_zone(zone: str | None, unit: Any) -> None:
    """Around midnight, the ends of years, and both changes of the clocks."""
    utc = [
        *(dt.datetime(2023, 7, 5, hour, 30) for hour in range(0, 24, 2)),
        *(dt.datetime(2023, 1, 1) + dt.timedelta(hours=h) for h in range(-15, 16, 3)),
        *(dt.datetime(2024, month, day, hour, 59, 59) for month, day in ((3, 10), (11, 3)) for hour in range(4, 9)),
        dt.datetime(1912, 6, 1, 3), dt.datetime(1969, 12, 31, 23, 59),
    ]  # fmt: skip
    column = pl.Series("t", [*utc, None], dtype=pl.Datetime(unit))
    if zone is not None:
        column = column.dt.replace_time_zone("UTC").dt.convert_time_zone(zone)
    local = [
        t if zone is None else t.replace(tzinfo=dt.UTC).astimezone(zoneinfo.ZoneInfo(zone)).replace(tzinfo=None)
        for t in utc
    ]
    table = column.to_frame()
    p = Preprocessor([("d", DatetimeEncoder(parts=list(PARTS), holidays="US"))]).fit(table)
    found = p.transform(table)
    oracle: dict[str, Any] = {
        "year": lambda t: t.year, "quarter": lambda t: (t.month - 1) // 3 + 1, "month": lambda t: t.month,
        "week": lambda t: int(t.strftime("%V")), "day": lambda t: t.day, "weekday": lambda t: t.weekday() + 1,
        "day_of_year": lambda t: int(t.strftime("%j")), "hour": lambda t: t.hour, "minute": lambda t: t.minute,
        "second": lambda t: t.second, "is_weekend": lambda t: t.strftime("%a") in ("Sat", "Sun"),
        "days": lambda t: (t.date() - dt.date(1970, 1, 1)).days, "holiday": lambda t: t.date() in holidays.US(years=t.year),
    }  # fmt: skip
    for part, wanted in oracle.items():
        made = found[f"t_{part}"].to_list()
        assert made == [*(int(wanted(t)) for t in local), None], part
    run = row_function(p.operations, p.input_schema)
    assert run is not None
    for value, wanted_row in zip(table["t"], found.to_dicts(), strict=True):
        row = {"t": value}
        run(row)
        assert row == wanted_row
