"""train_test_split: exact sizes, the same rows whatever the library, the order and the blocks, the same type out.

Covers `data.split.duplicate_rows`, `data.split.holdout` and `data.split.thresholds` too.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given

from rayline import data
from rayline.core import registry
from rayline.core.errors import DataError, ParameterError, SchemaError

N = 200
RNG = np.random.default_rng(0)
TABLE = pl.DataFrame(
    {
        "id": range(N),
        "x": RNG.normal(size=N),
        "city": RNG.choice(["a", "b", "c"], size=N, p=[0.6, 0.3, 0.1]),
        "plane": RNG.integers(0, 20, N),
        "day": [dt.date(2013, 1, 1) + dt.timedelta(days=int(d)) for d in RNG.integers(0, 40, N)],
    }
)
CHOICES: list[dict[str, Any]] = [
    {},
    {"stratify": "city"},
    {"group": "plane"},
    {"time": "day"},
    {"seed": 7, "percentage": 0.35},
]


def ids(table: Any) -> list[int]:
    return sorted(registry.engine_for(table).collect(table)["id"].to_list())


def as_type(table: pl.DataFrame, name: str) -> Any:
    match name:
        case "pandas":
            return table.to_pandas()
        case "arrow":
            return table.to_arrow()
        case "batch":
            return table.to_arrow().combine_chunks().to_batches()[0]
        case "lazy":
            return table.lazy()
        case "dict":
            return {c: table[c].to_numpy() for c in table.columns}
        case "lists":
            return {c: table[c].to_list() for c in table.columns}
        case "rows":
            return table.to_dicts()
    return table


TYPES = ["polars", "pandas", "arrow", "batch", "lazy", "dict", "lists", "rows"]


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_every_type_gives_the_same_rows_in_its_own_type(name: str, choice: dict[str, Any]) -> None:
    table = as_type(TABLE, name)
    trainset, testset = data.train_test_split(table, **choice)
    assert type(trainset) is type(testset) is type(table)
    expected = data.train_test_split(TABLE, **choice)
    assert (ids(trainset), ids(testset)) == (ids(expected[0]), ids(expected[1]))
    assert sorted(ids(trainset) + ids(testset)) == list(range(N))


@given(st.permutations(range(N)), st.lists(st.integers(0, N), max_size=4), st.sampled_from(CHOICES))
def test_order_and_chunks_do_not_matter(order: list[int], cuts: list[int], choice: dict[str, Any]) -> None:
    ends = [0, *sorted(cuts), N]
    chunks = [TABLE[order[a:b]] for a, b in pairwise(ends)]
    shuffled = pl.concat(chunks, rechunk=False)
    for mine, expected in zip(
        data.train_test_split(shuffled, **choice), data.train_test_split(TABLE, **choice), strict=True
    ):
        assert ids(mine) == ids(expected)


@given(st.integers(2, 300), st.floats(0.01, 0.99), st.integers(0, 100))
def test_the_size_is_the_rounded_share(n_rows: int, percentage: float, seed: int) -> None:
    table = pl.DataFrame({"id": range(n_rows), "one": ["x"] * n_rows})
    n_test = int(percentage * n_rows + 0.5)
    if not 0 < n_test < n_rows:
        with pytest.raises(DataError, match="too few rows"):
            data.train_test_split(table, percentage, seed=seed)
        return
    for shuffle in (True, False):
        trainset, testset = data.train_test_split(table, percentage, shuffle, seed)
        assert (trainset.height, testset.height) == (n_rows - n_test, n_test)


def test_rows_keep_their_order_and_their_index() -> None:
    pandas = TABLE.to_pandas().set_index(pd.Index([f"row {i}" for i in range(N)])).astype({"city": "category"})
    trainset, testset = data.train_test_split(pandas)
    assert trainset["id"].is_monotonic_increasing
    assert list(testset.index) == [f"row {i}" for i in testset["id"]]
    assert (testset.dtypes == pandas.dtypes).all()


def test_the_input_is_not_changed() -> None:
    pandas, before = TABLE.to_pandas(), TABLE.to_pandas()
    data.train_test_split(pandas, stratify="city")
    pd.testing.assert_frame_equal(pandas, before)


def test_seeds_differ() -> None:
    found = [ids(data.train_test_split(TABLE, seed=seed)[1]) for seed in range(3)]
    assert len({tuple(each) for each in found}) == 3
    assert ids(data.train_test_split(TABLE)[1]) == found[0]


def test_another_library_of_the_same_values_gives_the_same_rows() -> None:
    # An integer column with gaps is a float column in pandas, a date a datetime, a string a category.
    gaps = TABLE.with_columns(pl.when(pl.col("plane") > 3).then("plane").alias("gaps"))
    pandas = gaps.to_pandas().astype({"city": "category"})
    assert pandas["gaps"].dtype == float
    assert ids(data.train_test_split(pandas)[1]) == ids(data.train_test_split(gaps)[1])


def test_stratify_keeps_the_share_of_every_class() -> None:
    trainset, testset = data.train_test_split(TABLE, 0.2, stratify="city")
    assert testset.height == 40
    counts = Counter(TABLE["city"])
    for city, n in Counter(testset["city"]).items():
        assert abs(n - 0.2 * counts[city]) < 1
    assert trainset.height == 160


def test_stratify_with_classes_of_one_row_still_has_the_exact_size() -> None:
    table = pl.DataFrame({"id": range(50), "label": range(50)})
    assert data.train_test_split(table, 0.2, stratify="label")[1].height == 10


def test_groups_do_not_straddle() -> None:
    trainset, testset = data.train_test_split(TABLE, group="plane")
    assert not set(trainset["plane"]) & set(testset["plane"])
    assert 30 <= testset.height <= 50


def test_few_unequal_groups_are_packed() -> None:
    table = pl.DataFrame({"id": range(100), "site": ["a"] * 50 + ["b"] * 30 + ["c"] * 20})
    trainset, testset = data.train_test_split(table, 0.2, group="site")
    assert set(testset["site"]) == {"c"}
    assert trainset.height == 80


def test_groups_of_all_sizes_are_held_out() -> None:
    table = pl.DataFrame({"g": [g for g in range(200) for _ in range(g // 2 + 1)]}).with_row_index("id")
    _, testset = data.train_test_split(table, 0.2, group="g")
    assert abs(testset.height - 0.2 * table.height) <= 1
    assert 80 < testset["g"].unique().mean() < 120


def test_time_holds_out_the_latest_and_divides_no_moment() -> None:
    trainset, testset = data.train_test_split(TABLE, time="day")
    assert trainset["day"].max() < testset["day"].min()
    assert abs(testset.height - 40) <= 10


@pytest.mark.parametrize(
    "dtype", [pl.Datetime("ns"), pl.Datetime("ms", "UTC"), pl.Duration("us"), pl.Float32, pl.UInt8]
)
def test_time_of_any_ordered_type(dtype: pl.DataType) -> None:
    scale = 1000 if dtype == pl.Datetime("ns") else 1  # times are distinguished to the microsecond
    table = pl.DataFrame({"id": range(10), "t": (pl.Series([5, 3, 9, 1, 7, 0, 2, 8, 6, 4]) * scale).cast(dtype)})
    assert sorted(data.train_test_split(table, 0.3, time="t")[1]["id"].to_list()) == [2, 4, 7]


def test_time_before_1970_and_negative_numbers() -> None:
    days = [dt.date(1950, 1, 1), dt.date(1980, 1, 1), dt.date(1960, 1, 1), dt.date(1970, 1, 1)]
    table = pl.DataFrame({"id": range(4), "d": days, "n": [-2.5, 1.0, -0.5, 0.0]})
    for column in ("d", "n"):
        assert ids(data.train_test_split(table, 0.25, time=column)[1]) == [1]


def test_without_shuffle_the_last_rows_are_the_test_set() -> None:
    for name in TYPES:
        trainset, testset = data.train_test_split(as_type(TABLE, name), 0.1, shuffle=False)
        assert ids(testset) == list(range(180, 200)), name
        assert ids(trainset) == list(range(180)), name


def test_few_different_rows_are_divided_like_any_others() -> None:
    table = pl.DataFrame({"x": [1, 2, 3] * 40})
    _, testset = data.train_test_split(table, 0.2)
    assert testset.height == 24
    assert all(2 <= n <= 16 for n in testset["x"].value_counts()["count"])  # 8 of each are expected
    assert testset["x"].n_unique() == 3


def test_equal_rows_are_drawn_one_by_one() -> None:
    """If features do not distinguish rows, both sides have the same shares of the classes: labels do not depend on the side."""
    table = pl.DataFrame({"x": [i % 50 for i in range(20_000)], "y": np.random.default_rng(0).random(20_000) < 0.5})
    trainset, testset = data.train_test_split(table, 0.25)
    shares = [part.group_by("x").agg(pl.col("y").mean()).sort("x")["y"].to_numpy() for part in (trainset, testset)]
    assert np.abs(shares[0] - shares[1]).max() < 0.25  # 400 rows of each x; a share's standard deviation is 0.06
    assert abs(np.corrcoef(shares[0], shares[1])[0, 1]) < 0.6


REPEATED = pl.DataFrame({"x": RNG.integers(0, 4, N), "city": TABLE["city"], "late": RNG.random(N) < 0.3})


@given(st.permutations(range(N)), st.sampled_from([{}, {"stratify": "city"}, {"percentage": 0.5, "seed": 3}]))
def test_of_equal_rows_as_many_are_held_out_in_any_order(order: list[int], choice: dict[str, Any]) -> None:
    for mine, expected in zip(
        data.train_test_split(REPEATED[order], **choice), data.train_test_split(REPEATED, **choice), strict=True
    ):
        assert Counter(mine.rows()) == Counter(expected.rows())


def test_of_equal_rows_of_a_file_as_many_are_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rayline.core import scan

    monkeypatch.setattr(scan, "TABLE_ROWS", 50)
    REPEATED.write_parquet(tmp_path / "t.parquet", row_group_size=30)
    file = pl.scan_parquet(tmp_path / "t.parquet")
    for engine in ("in-memory", "streaming"):
        for mine, expected in zip(data.train_test_split(file), data.train_test_split(REPEATED), strict=True):
            assert Counter(mine.collect(engine=engine).rows()) == Counter(expected.rows())


def test_a_test_set_of_the_rest_is_independent_of_the_first() -> None:
    table = pl.DataFrame({"id": range(3000), "x": np.random.default_rng(1).normal(size=3000)})
    rest, testset = data.train_test_split(table, 0.2)
    trainset, validation = data.train_test_split(rest, 0.25)
    assert (trainset.height, validation.height, testset.height) == (1800, 600, 600)
    shares = [sum(i in set(ids(testset)) for i in ids(test)) for _, test in data.KFold(5).split(table)]
    assert all(80 < share < 160 for share in shares)  # 120 ± 4 standard deviations: folds do not follow the split


# -- errors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percentage", [0, 1, -0.1, 1.5, 20, float("nan"), "0.2", None, True])
def test_percentage_outside_of_its_range(percentage: Any) -> None:
    with pytest.raises(ParameterError, match="percentage"):
        data.train_test_split(TABLE, percentage)


def test_percent_instead_of_a_share_is_explained() -> None:
    with pytest.raises(ParameterError, match=r"for 20 % write 0\.2"):
        data.train_test_split(TABLE, 20)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stratify": "town"}, SchemaError, "'town'"),
        ({"group": "planes"}, SchemaError, "did you mean \\['plane'\\]"),
        ({"time": "city"}, SchemaError, "'city'"),
        ({"stratify": "city", "group": "plane"}, ParameterError, "stratify and group"),
        ({"stratify": "city", "time": "day"}, ParameterError, "stratify and time"),
        ({"shuffle": False, "group": "plane"}, ParameterError, "shuffle=False and group"),
        ({"shuffle": "no"}, ParameterError, "shuffle"),
        ({"seed": 0.5}, ParameterError, "seed"),
    ],
)
def test_arguments_that_cannot_be(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        data.train_test_split(TABLE, **options)


@pytest.mark.parametrize(
    "table", [TABLE[:0], TABLE[:0].to_pandas(), TABLE[:0].lazy(), pa.table({"x": pa.array([], pa.int64())})]
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_no_rows(table: Any, shuffle: bool) -> None:
    with pytest.raises(DataError, match="no rows"):
        data.train_test_split(table, shuffle=shuffle)


def test_one_row() -> None:
    for shuffle in (True, False):
        with pytest.raises(DataError, match="too few rows"):
            data.train_test_split(TABLE[:1], shuffle=shuffle)


def test_missing_times_are_refused() -> None:
    table = pl.DataFrame({"t": [1.0, float("nan"), None, 4.0]})
    with pytest.raises(DataError, match="'t' is missing in 2 rows"):
        data.train_test_split(table, time="t")


def test_one_group_or_one_moment() -> None:
    for option in ("group", "time"):
        with pytest.raises(DataError, match="cannot be split this way: they are 1"):
            data.train_test_split(pl.DataFrame({"x": range(10), "g": [1] * 10}), **{option: "g"})  # type: ignore[arg-type]


def test_what_is_no_table() -> None:
    with pytest.raises(SchemaError, match="not a table"):
        data.train_test_split([1, 2, 3])  # type: ignore[type-var]


# -- on Ray ----------------------------------------------------------------------------------------------------------------


@pytest.mark.ray
def test_ray_gives_the_same_rows(ray_session: Any) -> None:
    import ray.data

    ds = ray.data.from_arrow(TABLE.to_arrow(), override_num_blocks=7)
    for choice in CHOICES:
        trainset, testset = data.train_test_split(ds, **choice)
        assert isinstance(trainset, ray.data.Dataset)
        expected = data.train_test_split(TABLE, **choice)
        assert (ids(trainset), ids(testset)) == (ids(expected[0]), ids(expected[1])), choice


@pytest.mark.ray
def test_ray_holds_out_as_many_of_equal_rows(ray_session: Any) -> None:
    import ray.data

    whole = pl.concat([REPEATED, REPEATED[:20], REPEATED[:20]])  # with two equal blocks
    for table in (REPEATED, whole):
        expected = data.train_test_split(table)
        assert expected[1].height == round(table.height * 0.2)
        for blocks in (1, 7):
            ds = ray.data.from_arrow(table.to_arrow(), override_num_blocks=blocks)
            for mine, other in zip(data.train_test_split(ds), expected, strict=True):
                assert Counter(pl.from_pandas(mine.to_pandas()).rows()) == Counter(other.rows()), blocks


@pytest.mark.ray
@pytest.mark.parametrize("k", [3, 20])
def test_the_same_blocks_are_drawn_together(ray_session: Any, k: int) -> None:
    import ray.data

    block = pl.DataFrame({"x": range(60), "y": [0, 1] * 30})
    ds = ray.data.from_arrow([block.to_arrow()] * k)
    for seed in range(3):
        testset = data.train_test_split(ds, 0.21, seed=seed)[1]
        counts = Counter(pl.from_pandas(testset.to_pandas()).rows())
        assert {*counts.values()} == {k}
        assert abs(counts.total() - round(60 * k * 0.21)) <= k / 2


def test_one_table_of_the_same_parts_is_cut_exactly() -> None:
    part = pl.DataFrame({"x": range(60), "y": [0, 1] * 30})
    whole = pl.concat([part] * 20)
    for seed in range(3):
        assert data.train_test_split(whole, 0.21, seed=seed)[1].height == 252


@pytest.mark.ray
def test_ray_of_pandas_blocks_without_shuffle_and_errors(ray_session: Any) -> None:
    ds = data.from_pandas([TABLE[:120].to_pandas(), TABLE[120:].to_pandas()])
    trainset, testset = data.train_test_split(ds, 0.1, shuffle=False)
    assert ids(testset) == list(range(180, 200))
    assert trainset.count() == 180
    assert ids(data.train_test_split(ds, stratify="city")[1]) == ids(data.train_test_split(TABLE, stratify="city")[1])
    with pytest.raises(SchemaError, match="'town'"):
        data.train_test_split(ds, stratify="town")
    for options in ({}, {"group": "plane"}, {"shuffle": False}):
        with pytest.raises(DataError, match="no rows"):
            data.train_test_split(ds.limit(0), **options)


def test_test_size_as_in_scikit_learn() -> None:
    table = pl.DataFrame({"x": range(50), "g": [i // 5 for i in range(50)]})
    for size, expected in ((0.3, 15), (7, 7), (1, 1), (49, 49)):
        trainset, testset = data.train_test_split(table, test_size=size)
        assert (trainset.height, testset.height) == (50 - expected, expected)
    assert data.train_test_split(table, test_size=0.3)[1].equals(data.train_test_split(table, 0.3)[1])
    assert data.train_test_split(table, test_size=7, shuffle=False)[1]["x"].to_list() == list(range(43, 50))
    assert data.train_test_split(table, groups="g")[1].equals(data.train_test_split(table, group="g")[1])


@pytest.mark.parametrize("size", [0, 50, -1, 1.0, True, "3", 0.0])
def test_other_sizes_are_refused(size: Any) -> None:
    with pytest.raises(ParameterError, match="test_size"):
        data.train_test_split(pl.DataFrame({"x": range(50)}), test_size=size)


def test_other_keywords_are_refused_with_the_name_that_is_meant() -> None:
    for keyword, meant in (("random_state", "'seed'"), ("stratified", "'stratify'"), ("train_size", "'test_size'")):
        with pytest.raises(ParameterError, match=f"(?s){keyword}.*{meant}"):
            data.train_test_split(pl.DataFrame({"x": range(50)}), **{keyword: 1})  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="together"):
        data.train_test_split(pl.DataFrame({"x": range(50)}), 0.3, test_size=0.3)
