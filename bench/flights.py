"""The flights of the quickstart, as a table: what is known before departure, and whether they came late."""

from __future__ import annotations

import polars as pl
from examples import flights

NUMBERS = [*flights.TIMES, "distance", *flights.WEATHER]
FEW = ["carrier", "origin"]
"""Strings of few values."""
MANY = ["dest", "tailnum"]
"""Strings of many: 105 and 4,043."""


def flown(rows: int) -> pl.DataFrame:
    """So many of them, drawn at random but always the same."""
    if not flights.FLIGHTS.exists():
        flights.convert()
    return pl.read_parquet(flights.FLIGHTS).sample(rows, seed=0)
