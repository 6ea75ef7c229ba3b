"""Encoding of dates and times by their calendar parts."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl

from rayline.core.errors import ParameterError, needing
from rayline.core.operations.base import Drop, Operation, Row, RowFunction
from rayline.core.operations.expression import Assign, Formula
from rayline.core.schema import Kind, col
from rayline.core.stage import ColumnStage, FitContext, ParameterCheck, param
from rayline.core.statistics.base import Statistic, StatisticRequest

_EPOCH = dt.datetime(1970, 1, 1)

PARTS: dict[str, tuple[Callable[[pl.Expr], pl.Expr], Callable[[Any], int], int | None]] = {
    "year": (lambda x: x.dt.year(), lambda d: d.year, None),
    "quarter": (lambda x: x.dt.quarter(), lambda d: (d.month + 2) // 3, 4),
    "month": (lambda x: x.dt.month(), lambda d: d.month, 12),
    "week": (lambda x: x.dt.week(), lambda d: d.isocalendar()[1], 53),
    "day": (lambda x: x.dt.day(), lambda d: d.day, 31),
    "weekday": (lambda x: x.dt.weekday(), lambda d: d.isoweekday(), 7),
    "day_of_year": (lambda x: x.dt.ordinal_day(), lambda d: d.timetuple().tm_yday, 366),
    "hour": (lambda x: x.dt.hour(), lambda d: d.hour, 24),
    "minute": (lambda x: x.dt.minute(), lambda d: d.minute, 60),
    "second": (lambda x: x.dt.second(), lambda d: d.second, 60),
    "is_weekend": (lambda x: x.dt.weekday() > 5, lambda d: d.isoweekday() > 5, None),
    "days": (
        lambda x: x.dt.date().cast(pl.Int32),  # a cast to Date would be the day in UTC
        lambda d: (dt.date(d.year, d.month, d.day) - _EPOCH.date()).days,
        None,
    ),
}
"""The parts of a date: the function for tables, the one for a single value, and the period of a cyclic part."""

_OF_TIME = ("hour", "minute", "second")
_DEFAULT = ("year", "month", "day", "weekday", "hour")


def _are_parts(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(v in PARTS for v in value) and len(set(value)) == len(value)


@dataclass(frozen=True)
class DatetimeEncoder(ColumnStage):
    """Replace each date or time by its calendar parts, as Int32 columns `column_part`; missing stays missing.

    Parameters
    ----------
    columns
        Date and Datetime columns; all of them when omitted. Times with a time zone are read in that zone.
    parts
        Some of year, quarter, month, week (ISO), day, weekday (1 is Monday), day_of_year, hour, minute, second,
        is_weekend, days (since 1970-01-01). Hours, minutes and seconds are omitted for dates.
    cyclic
        Whether to add sine and cosine (Float64, `column_part_sin`, `column_part_cos`) of the cyclic parts.
    holidays
        A country code ("US") of the package `holidays`, to add a 0/1 column `column_holiday`. It covers the training years
        and ten years before and after.
    keep
        Whether the source column stays.

    Raises
    ------
    SchemaError
        In fit, when a new name exists already.
    MissingExtraError
        In fit, when `holidays` is set and the package is not installed.
    ParameterError
        On an unknown part; in fit, when the package does not support the country.

    Examples
    --------
    >>> import datetime
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import DatetimeEncoder
    >>> table = pl.DataFrame({"d": [datetime.date(2013, 7, 4)]})
    >>> Preprocessor([("date", DatetimeEncoder(parts=["month", "weekday"], holidays="US"))]).fit_transform(table).row(0, named=True)
    {'d_month': 7, 'd_weekday': 4, 'd_holiday': 1}
    """

    kinds: ClassVar = (Kind.DATETIME,)
    accepts: ClassVar = (Kind.DATETIME,)

    parts: Sequence[str] = param(_DEFAULT, ParameterCheck(f"a list of some of {', '.join(PARTS)}", _are_parts))
    cyclic: bool = False
    holidays: str | None = None
    keep: bool = False

    @property
    def keep_input(self) -> bool:  # type: ignore[override]
        return self.keep

    def _parts(self, dtype: pl.DataType) -> list[str]:
        return [part for part in self.parts if dtype != pl.Date or part not in _OF_TIME]

    def column_statistics(self, dtype: pl.DataType) -> list[type[Statistic]]:
        return [DateRange] if self.holidays else []

    def learn(self, context: FitContext, results: Mapping[StatisticRequest, Any]) -> dict[str, Any]:
        learned = super().learn(context, results)
        new = [name for column, parts in learned["columns"].items() for name in self._names(column, parts)]
        self.refuse_existing_columns(new, context, removed=() if self.keep else context.columns)
        return learned

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        parts = {"parts": self._parts(dtype)}
        return {**parts, "holidays": _holidays(self.holidays, statistics[0])} if self.holidays else parts

    def _names(self, column: str, learned: Mapping[str, Any]) -> list[str]:
        cyclic = [f"{column}_{p}_{f}" for p in learned["parts"] if self.cyclic and PARTS[p][2] for f in ("sin", "cos")]
        return [
            *(f"{column}_{part}" for part in learned["parts"]),
            *cyclic,
            *([f"{column}_holiday"] if "holidays" in learned else []),
        ]

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        operations: list[Operation] = [CalendarParts(column, list(learned["parts"]), learned.get("holidays"))]
        waves: dict[str, Formula] = {}
        for part in learned["parts"]:
            period = PARTS[part][2]
            if self.cyclic and period is not None:
                angle = ["*", ["col", f"{column}_{part}"], 2 * math.pi / period]
                waves |= {f"{column}_{part}_sin": ["sin", angle], f"{column}_{part}_cos": ["cos", angle]}
        if waves:
            operations.append(Assign(waves))
        return operations if self.keep else [*operations, Drop([column])]

    def invert(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return super().invert(schema) if self.keep else None


@dataclass(frozen=True, slots=True)
class DateRange(Statistic):
    """The first and the last year of a date column."""

    low: int | None = None
    high: int | None = None

    @classmethod
    def expressions(cls, *columns: pl.Expr, **options: Any) -> list[pl.Expr]:
        return [columns[0].dt.year().min(), columns[0].dt.year().max()]

    def merge(self, other: DateRange) -> DateRange:
        lows, highs = ([v for v in pair if v is not None] for pair in ((self.low, other.low), (self.high, other.high)))
        return DateRange(min(lows, default=None), max(highs, default=None))


def _holidays(country: str, years: DateRange) -> list[dt.date]:
    with needing("DatetimeEncoder(holidays=…)", "holidays", "holidays"):
        import holidays
    if years.low is None or years.high is None:
        return []
    try:
        calendar = holidays.country_holidays(country, years=range(max(years.low - 10, 1), min(years.high + 11, 9999)))
    except NotImplementedError as error:
        raise ParameterError.value(
            "holidays", "a country code that the package holidays supports", country, where="DatetimeEncoder"
        ) from error
    return sorted(calendar)


@dataclass(frozen=True)
class CalendarParts(Operation):
    """Adds Int32 columns `column_part`, and a 0/1 column for holidays."""

    column: str
    parts: Sequence[str]
    holidays: Sequence[dt.date] | None = None

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column)
        columns = [PARTS[part][0](x).cast(pl.Int32).alias(f"{self.column}_{part}") for part in self.parts]
        if self.holidays is not None:
            days = pl.Series(self.holidays, dtype=pl.Date)
            columns.append(x.dt.date().is_in(days.implode()).cast(pl.Int32).alias(f"{self.column}_holiday"))
        return columns

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column = self.column
        makers = [(f"{column}_{part}", PARTS[part][1]) for part in self.parts]
        holidays = None if self.holidays is None else set(self.holidays)

        def split(row: Row) -> None:
            x = row[column]
            for name, make in makers:
                row[name] = None if x is None else int(make(x))
            if holidays is not None:
                row[f"{column}_holiday"] = None if x is None else int(dt.date(x.year, x.month, x.day) in holidays)

        return split

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        parts = [*self.parts, *(["holiday"] if self.holidays is not None else [])]
        return {f"{self.column}_{part}": (self.column,) for part in parts}
