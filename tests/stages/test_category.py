"""Categories by frequency, and native ones."""

from __future__ import annotations

import polars as pl
import pytest

from rayline.core.errors import ParameterError
from rayline.inference.pipeline import Preprocessor
from rayline.stages import (
    Categorizer,
    FrequencyEncoder,
    RareCategories,
)

from .one_stage import run

CITIES = pl.DataFrame({"c": ["Oslo", "Rome", "Oslo", None]})
NEW = pl.DataFrame({"c": ["Rome", "Lima", None]})


def test_frequencies() -> None:
    assert run(FrequencyEncoder(), CITIES, NEW)["c"].to_list() == [0.25, 0.0, 0.25]
    assert run(FrequencyEncoder(normalize=False), CITIES, NEW)["c"].to_list() == [1.0, 0.0, 1.0]


def test_rare_and_native_categories() -> None:
    assert run(RareCategories(min_frequency=2), CITIES, NEW)["c"].to_list() == ["other", "other", None]
    native = run(Categorizer(), CITIES, NEW)["c"]
    assert native.dtype == pl.Enum(["Oslo", "Rome"])
    assert native.to_list() == ["Rome", None, None]


def test_a_frequent_category_keeps_its_name_to_itself() -> None:
    table = pl.DataFrame({"c": ["other", "other", "a", "b", "b"]})
    with pytest.raises(ParameterError, match="column 'c' has a frequent category 'other' already"):
        Preprocessor([("s", RareCategories(min_frequency=2))]).fit(table)
    made = Preprocessor([("s", RareCategories(min_frequency=2, name="rare"))]).fit_transform(table)["c"]
    assert made.to_list() == ["other", "other", "rare", "b", "b"]
    made = Preprocessor([("s", RareCategories(min_frequency=2))]).fit_transform(table[1:])["c"]  # rare itself
    assert made.to_list() == ["other", "other", "b", "b"]
