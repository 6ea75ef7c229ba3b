"""Tables that a stage must cope with: columns of every kind, hard values, other types."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import polars as pl

from rayline.core.stage import Stage
from rayline.inference.pipeline import Preprocessor

NAME = "stage"


def example_table(n: int = 60, seed: int = 0) -> pl.DataFrame:
    """Return a table with columns of every kind, missing values among them, and a target `y`.

    Parameters
    ----------
    n
        The number of rows.
    seed
        The same seed gives the same table.

    Returns
    -------
    polars.DataFrame
        One row for each number below `n`; a tenth of the values of most columns are null.

    Examples
    --------
    >>> from rayline.testing import example_table
    >>> example_table(3).columns
    ['amount', 'price', 'count', 'small', 'flag', 'city', 'value', 'note', 'day', 'time', 'tags', 'y']
    """
    rng = random.Random(seed)  # noqa: S311  # no secret
    words = ["late", "early", "gate", "the", "plane", "storm", "Crew", "delay", "runway", "café"]

    def maybe(value: Any, share: float = 0.1) -> Any:
        return None if rng.random() < share else value

    return pl.DataFrame(
        {
            "amount": [maybe(rng.gauss(50.0, 10.0)) for _ in range(n)],
            "price": [rng.lognormvariate(1.0, 1.0) for _ in range(n)],
            "count": [maybe(rng.randrange(1, 9)) for _ in range(n)],
            "small": pl.Series([rng.randrange(100) for _ in range(n)], dtype=pl.Int8),
            "flag": [maybe(rng.random() < 0.4) for _ in range(n)],
            "city": [maybe(rng.choice(["Oslo", "Rome", "Lima", "a b", ""])) for _ in range(n)],
            "value": [rng.choice(["x", "y"]) for _ in range(n)],
            "note": [maybe(" ".join(rng.choice(words) for _ in range(rng.randrange(4, 9)))) for _ in range(n)],
            "day": [maybe(dt.date(2013, 1, 1) + dt.timedelta(days=rng.randrange(800))) for _ in range(n)],
            "time": [maybe(dt.datetime(2013, 1, 1) + dt.timedelta(minutes=rng.randrange(999_999))) for _ in range(n)],
            "tags": [maybe([rng.choice("abc") for _ in range(rng.randrange(4))]) for _ in range(n)],
            "y": [rng.randrange(2) for _ in range(n)],
        }
    )


@dataclasses.dataclass(frozen=True)
class StageCase:
    stage: Stage
    table: pl.DataFrame
    targets: tuple[str, ...]
    rtol: float
    refuses: Mapping[str, Collection[str]] | None

    def preprocessor(self) -> Preprocessor:
        return Preprocessor([(NAME, self.stage)])

    def fit(self, table: pl.DataFrame | None = None) -> Preprocessor:
        return self.preprocessor().fit(self.table if table is None else table, target_columns=self.targets)

    def drifted(self, fitted: Preprocessor) -> dict[str, pl.DataFrame]:
        """The table with its input columns in other types."""
        tables = {}
        for name, change in DRIFTS.items():
            casts = {n: new for n, d in fitted.input_schema.items() if (new := change(d)) is not None}
            tables[name] = self.table.cast(casts)  # type: ignore[arg-type]
        return tables

    def odd_tables(self) -> dict[str, pl.DataFrame]:
        """Tables with the same columns and types, and hard values."""
        features = [name for name in self.table.columns if name not in self.targets]
        floats = [name for name in features if self.table.schema[name].is_float()]
        strings = [name for name in features if self.table.schema[name] == pl.String]

        def with_first(names: Sequence[str], value: Any) -> pl.DataFrame:
            first = pl.int_range(pl.len()) == 0
            return self.table.with_columns(
                pl.when(first).then(pl.lit(value)).otherwise(pl.col(n)).alias(n) for n in names
            )

        first = self.table.drop_nulls().head(1) if self.table.drop_nulls().height else self.table.head(1)
        return {
            "no rows": self.table.head(0),
            "one row": self.table.head(1),
            "all missing": self.table.with_columns(pl.lit(None, dtype=self.table.schema[n]).alias(n) for n in features),
            "constant": pl.concat([first] * 5),
            "infinite": with_first(floats, math.inf),
            "minus infinite": with_first(floats, -math.inf),
            "NaN": with_first(floats, math.nan),
            "huge": with_first(floats, 1e300),
            "minus zero": with_first(floats, -0.0),
            "new categories": with_first(strings, "never seen \x00 é"),
        }


LOSSLESS = ("floats", "categories")

DRIFTS: dict[str, Callable[[pl.DataType], pl.DataType | None]] = {
    "narrower": lambda d: pl.Float32() if d == pl.Float64 else pl.Int32() if d == pl.Int64 else None,
    "floats": lambda d: pl.Float64() if d.is_integer() else None,
    "categories": lambda d: pl.Categorical() if d == pl.String else None,
    "strings": lambda d: pl.String() if d.is_numeric() or d == pl.Date else None,
    "datetimes": lambda d: pl.Datetime("ms") if d in (pl.Date, pl.Datetime) else None,
}
