"""The sketch of frequent values: its laws, its bounds, and the stages that live with it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline.core.errors import DataError
from rayline.core.statistics import counts
from rayline.core.statistics.counts import ValueCounts
from rayline.core.statistics.sketches import MIN_SHARE, N_BUCKETS
from rayline.core.text_analysis import key_of
from rayline.inference.pipeline import Preprocessor
from rayline.stages import FrequencyEncoder, OneHotEncoder, RareCategories, SimpleImputer
from rayline.testing import check_stage


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than three categories are counted."""
    monkeypatch.setattr(counts, "MAX_CATEGORIES", 3)


def counts_of(values: list[Any]) -> ValueCounts:
    table = (
        pl.DataFrame({"value": values}, schema={"value": pl.String}).group_by("value").agg(n=pl.len().cast(pl.Int64))
    )
    return ValueCounts.of(table)


@pytest.mark.usefixtures("few")
@given(parts=st.lists(st.lists(st.sampled_from([None, *"abcdefgh"]), max_size=8), max_size=6), order=st.randoms())
def test_any_split_and_order_give_the_same(parts: list[list[str | None]], order: Any) -> None:
    whole = counts_of([value for part in parts for value in part])
    states = [counts_of(part) for part in parts]
    order.shuffle(states)
    one_by_one = ValueCounts.empty()
    for state in states:
        one_by_one = state.merge(one_by_one)
    assert ValueCounts.merge_all(states) == whole == one_by_one
    assert whole.count == sum(value is not None for part in parts for value in part)


def test_frequent_values_are_found() -> None:
    random = np.random.default_rng(0)
    n = 400_000
    common = [f"common {i}" for i in range(60)]
    shares = np.concatenate([np.geomspace(0.05, MIN_SHARE, 60)])
    often = np.repeat(common, (shares * n).astype(int))
    values = [*often, *(f"rare {i}" for i in random.integers(0, 10**9, n - len(often)))]
    table = pl.DataFrame({"value": values}).group_by("value").agg(n=pl.len().cast(pl.Int64))
    sketch = counts.FrequentValues.of(table["value"], table["n"])  # type: ignore[attr-defined]
    found, exact = sketch.frequent_counts(), Counter(values)
    assert sketch.total == n
    expected = {key_of(name): exact[name] for name in common if exact[name] >= MIN_SHARE * n}
    assert expected.keys() <= found.keys()
    excess = [found[key] - count for key, count in expected.items()]
    assert min(excess) >= 0
    assert max(excess) <= n / N_BUCKETS
    assert len(found) <= len(common)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    "stage",
    [RareCategories(["city"], 0.2), FrequencyEncoder(["city", "count"]), FrequencyEncoder(["city"], normalize=False)],
)
def test_stages_keep_the_contract_on_a_sketch(stage: Any) -> None:
    check_stage(stage)


@pytest.mark.parametrize(
    "stage", [RareCategories(min_frequency=3), RareCategories(min_frequency=0.3), FrequencyEncoder()]
)
def test_of_few_rows_the_sketch_gives_what_exact_counts_give(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pl.DataFrame({"c": ["a", "a", "b", None, "c", "a", "d", "b", "e"]})
    exact = Preprocessor([("s", stage)]).fit(table)
    monkeypatch.setattr(counts, "MAX_CATEGORIES", 3)
    sketched = Preprocessor([("s", stage)]).fit(table)
    assert "keys" in sketched["s"].learned["columns"]["c"]  # type: ignore[index]
    new = pl.DataFrame({"c": ["a", "d", "never", None]})
    assert sketched.transform(new).equals(exact.transform(new))
    filled = [("fill", SimpleImputer(strategy="constant", fill_value="a")), ("s", stage)]
    assert Preprocessor(filled).fit(table).scans == 1  # the sketch, too, follows what an imputer does


@pytest.mark.usefixtures("few")
def test_what_needs_every_category_refuses() -> None:
    table = pl.DataFrame({"c": list("abcde"), "x": [1.0, 2.0, 3.0, 4.0, 5.0]})
    for stage in (OneHotEncoder(), SimpleImputer(strategy="most_frequent"), FrequencyEncoder(["x"])):
        with pytest.raises(DataError, match=r"(?s)column '[cx]' has too many distinct values.*RareCategories"):
            Preprocessor([("s", stage)]).fit(table)
    big = pl.DataFrame({"c": [f"k{i}" for i in range(5000)]})
    with pytest.raises(DataError, match="raise min_frequency"):
        Preprocessor([("s", RareCategories(min_frequency=2))]).fit(big)
    lumped = Preprocessor([("lump", RareCategories(min_frequency=2)), ("hot", OneHotEncoder())])
    assert lumped.fit_transform(pl.DataFrame({"c": [*"abcde", "a", "a"]})).columns == ["c_a", "c_other"]
