"""Splitters: each row held out as often as it should be, balanced, the same whatever the blocks, in process and on Ray.

Covers `data.split.base`, `data.split.fold_assignment` and `data.split.fold_cells` too.
"""

from __future__ import annotations

import pickle
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import polars as pl
import pytest
from hypothesis import example, given

from rayline.core import registry
from rayline.core.errors import DataError, ParameterError, SchemaError, at
from rayline.core.scan import Scan
from rayline.core.scan_results import merge_results
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.moments import Moments
from rayline.data import (
    Bootstrap,
    GroupKFold,
    Holdout,
    KFold,
    RepeatedKFold,
    Splitter,
    StratifiedKFold,
    TimeSeriesSplit,
)
from rayline.data.split import order_statistics
from rayline.data.split.splitters import splitter
from rayline.stages import OneHotEncoder, StandardScaler
from rayline.train import Preprocessor

N = 203
RNG = np.random.default_rng(0)
TABLE = pl.DataFrame(
    {
        "id": range(N),
        "x": RNG.normal(size=N),
        "city": RNG.choice(["a", "b", "c"], size=N, p=[0.6, 0.3, 0.1]),
        "plane": RNG.integers(0, 30, N),
        "hour": RNG.permutation(N) // 2,
    }
)
SPLITTERS: list[Splitter] = [
    KFold(5),
    KFold(2, seed=3),
    StratifiedKFold(4, "city"),
    GroupKFold(5, "plane"),
    TimeSeriesSplit(4, "hour"),
    RepeatedKFold(3, n_repeats=2),
    Bootstrap(3),
    Holdout(0.3),
    Holdout(0.3, stratify="city"),
    Holdout(0.25, time="hour"),
]


def ids(table: Any) -> list[int]:
    return sorted(registry.engine_for(table).collect(table)["id"].to_list())


def folds(cv: Splitter, table: Any) -> list[tuple[list[int], list[int]]]:
    return [(ids(train), ids(test)) for train, test in cv.split(table)]


@pytest.mark.parametrize("cv", SPLITTERS, ids=repr)
def test_folds_are_values(cv: Splitter) -> None:
    assert pickle.loads(pickle.dumps(cv)) == cv
    assert eval(repr(cv)) == cv
    for prepared in cv.prepare(registry.engine_for(TABLE), TABLE, target_columns=[]):
        again = pickle.loads(pickle.dumps(prepared))
        assert again == prepared
        assert len(pickle.dumps(prepared)) < 20_000
        cells = TABLE.select(prepared.cells(TABLE.columns)).to_series()
        counted = Counter(cells.to_list())
        if prepared.sizes:
            assert [counted[cell] for cell in range(len(prepared.sizes))] == list(prepared.sizes)
        for fold in prepared.folds:
            assert not set(fold.train) & set(fold.test)


@given(st.permutations(range(N)), st.lists(st.integers(0, N), max_size=4), st.sampled_from(SPLITTERS))
def test_order_and_chunks_do_not_matter(order: list[int], cuts: list[int], cv: Splitter) -> None:
    ends = [0, *sorted(cuts), N]
    chunks = [TABLE[order[a:b]] for a, b in pairwise(ends)]
    assert folds(cv, pl.concat(chunks, rechunk=False)) == folds(cv, TABLE)


@pytest.mark.parametrize("cv", SPLITTERS, ids=repr)
def test_types_do_not_matter(cv: Splitter) -> None:
    expected = folds(cv, TABLE)
    for table in (TABLE.to_pandas(), TABLE.to_arrow(), TABLE.lazy(), TABLE.to_dicts()):
        assert folds(cv, table) == expected
        assert all(type(train) is type(test) is type(table) for train, test in cv.split(table))


@given(st.integers(2, 60), st.integers(2, 12), st.integers(0, 20))
def test_kfold_is_balanced_and_holds_out_each_row_once(n_rows: int, n_splits: int, seed: int) -> None:
    table = pl.DataFrame({"id": range(n_rows)})
    if n_splits > n_rows:
        with pytest.raises(DataError, match="too few rows"):
            folds(KFold(n_splits, seed), table)
        return
    found = folds(KFold(n_splits, seed), table)
    assert sorted(i for _, test in found for i in test) == list(range(n_rows))
    assert all(sorted(train + test) == list(range(n_rows)) for train, test in found)
    sizes = [len(test) for _, test in found]
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.sampled_from("aaaab c"), min_size=10, max_size=120), st.integers(2, 5))
def test_stratified_folds_are_balanced_in_every_class(labels: list[str], n_splits: int) -> None:
    table = pl.DataFrame({"id": range(len(labels)), "label": labels})
    found = list(StratifiedKFold(n_splits, "label").split(table))
    sizes = [test.height for _, test in found]
    assert max(sizes) - min(sizes) <= 1
    for label in set(labels):
        counts = [test.filter(pl.col("label") == label).height for _, test in found]
        assert max(counts) - min(counts) <= 1


def test_stratified_by_the_target() -> None:
    by_target = list(StratifiedKFold(4).split(TABLE, target_columns="city"))
    by_column = list(StratifiedKFold(4, "city").split(TABLE))
    assert [ids(test) for _, test in by_target] == [ids(test) for _, test in by_column]
    for targets in ([], ["city", "plane"]):
        with pytest.raises(ParameterError, match="what to stratify by"):
            list(StratifiedKFold(4).split(TABLE, target_columns=targets))


def test_strata_with_missing_values_are_a_class() -> None:
    table = pl.DataFrame({"id": range(40), "label": [1.0, None, float("nan"), 2.0] * 10})
    for _, test in StratifiedKFold(5, "label").split(table):
        assert test["label"].fill_nan(None).null_count() == 4


@given(st.lists(st.integers(1, 12), min_size=3, max_size=25), st.integers(2, 3))
@example([1, 1, 7], 3)
def test_groups_stay_whole_and_folds_are_even(group_sizes: list[int], n_splits: int) -> None:
    groups = [g for g, size in enumerate(group_sizes) for _ in range(size)]
    table = pl.DataFrame({"id": range(len(groups)), "g": groups})
    found = list(GroupKFold(n_splits, "g").split(table))
    held = [set(test["g"]) for _, test in found]
    assert sum(len(each) for each in held) == len(group_sizes)
    sizes = [test.height for _, test in found]
    assert max(sizes) - min(sizes) <= max(group_sizes)


def test_many_groups_are_divided_by_their_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_statistics, "MAX_DISTINCT", 64)
    table = pl.DataFrame({"id": range(2000), "g": [i // 2 for i in range(2000)]})
    found = list(GroupKFold(4, "g").split(table))
    assert all(490 <= test.height <= 510 for _, test in found)
    assert len(set().union(*(test["g"].to_list() for _, test in found))) == 1000


def test_time_series_trains_on_the_past() -> None:
    found = list(TimeSeriesSplit(4, "hour").split(TABLE))
    assert len(found) == 4
    for (train, test), (later, _) in pairwise(found):
        assert train["hour"].max() < test["hour"].min()
        assert ids(later) == sorted(ids(train) + ids(test))
    assert all(abs(test.height - N // 5) <= 1 for _, test in found)


def test_repetitions_differ_and_each_is_a_partition() -> None:
    found = folds(RepeatedKFold(3, n_repeats=2), TABLE)
    assert len(found) == 6
    first, second = found[:3], found[3:]
    for each in (first, second):
        assert sorted(i for _, test in each for i in test) == list(range(N))
    assert {tuple(test) for _, test in first}.isdisjoint({tuple(test) for _, test in second})


def test_bootstrap_draws_as_often_as_poisson() -> None:
    table = pl.DataFrame({"id": range(20_000)})
    ((train, oob),) = Bootstrap(1).split(table)
    drawn = Counter(Counter(train["id"]).values())
    expected = {0: 0.36788, 1: 0.36788, 2: 0.18394, 3: 0.06131, 4: 0.01533}
    for times, share in expected.items():
        found = oob.height if times == 0 else drawn[times]
        assert abs(found / 20_000 - share) < 5 * np.sqrt(share * (1 - share) / 20_000)
    assert not set(train["id"]) & set(oob["id"])
    assert train.height == table.lazy().pipe(lambda t: next(iter(Bootstrap(1).split(t)))[0]).collect().height


def test_statistics_by_cells_are_those_of_the_bootstrap_sample() -> None:
    # Fold-wise fitting merges the answers of each training cell as often as it is named.
    engine, request = registry.engine_for(TABLE), StatisticRequest(Moments, ("x",))
    (prepared,) = Bootstrap(1).prepare(engine, TABLE)
    by_cell = engine.scan(TABLE, Scan([request], cells=prepared.cells))
    merged = merge_results([by_cell[cell] for cell in prepared.folds[0].train if cell in by_cell])[request]
    sample = next(iter(Bootstrap(1).split(TABLE)))[0]["x"]
    assert isinstance(merged, Moments)
    assert merged.count == len(sample)
    assert merged.mean == pytest.approx(sample.mean(), rel=1e-12)
    assert merged.variance == pytest.approx(sample.var(ddof=0), rel=1e-12)


def test_equal_rows_are_drawn_one_by_one() -> None:
    table = pl.DataFrame({"x": [float(i % 5) for i in range(600)]})
    for cv, least in ((KFold(3), 20), (StratifiedKFold(3, "x"), 40), (RepeatedKFold(3, 2), 20), (Bootstrap(2), 20)):
        for _, test in cv.split(table):
            assert least <= test["x"].value_counts()["count"].min()
            assert test["x"].value_counts()["count"].max() <= 70


def test_folds_of_equal_rows_are_fitted_on_what_is_split_off(tmp_path: Path) -> None:
    table = TABLE.select("city", pl.col("plane").cast(pl.Float64))
    table.write_parquet(tmp_path / "t.parquet")
    p = Preprocessor([("scale", StandardScaler()), ("onehot", OneHotEncoder())])
    for cv in (KFold(3), Bootstrap(2)):
        for rows in (table, pl.scan_parquet(tmp_path / "t.parquet"), table.to_pandas()):
            parts = [registry.engine_for(train).collect(train) for train, _ in cv.split(table)]
            for fitted, train in zip(p.fit_folds(rows, cv), parts, strict=True):
                ours, alone = fitted.transform(table), p.clone().fit(train).transform(table)
                assert np.allclose(ours["plane"], alone["plane"], rtol=1e-12, atol=1e-12)


def test_more_folds_than_groups_or_moments() -> None:
    with pytest.raises(DataError, match="2 groups of 'g'"):
        list(GroupKFold(3, "g").split(pl.DataFrame({"x": range(20), "g": [0, 1] * 10})))
    with pytest.raises(DataError, match="3 moments of 'g'"):
        list(TimeSeriesSplit(4, "g").split(pl.DataFrame({"x": range(30), "g": [0, 1, 2] * 10})))


def test_rows_that_few_columns_do_not_tell_apart_still_give_exact_sizes() -> None:
    # The cheap key has the numbers only, and they repeat: then all columns are looked at.
    table = pl.DataFrame({"a": [1, 2] * 50, "b": [1] * 100, "name": [f"n{i}" for i in range(100)]})
    assert [test.height for _, test in KFold(4).split(table)] == [25] * 4


def test_cells_refuse_other_data() -> None:
    (prepared,) = GroupKFold(3, "plane").prepare(registry.engine_for(TABLE), TABLE)
    with pytest.raises(SchemaError, match="'plane'"):
        prepared.cells(["x"])
    (prepared,) = StratifiedKFold(3, "city").prepare(registry.engine_for(TABLE), TABLE)
    other = TABLE.with_columns(city=pl.lit("elsewhere"))
    with pytest.raises(DataError, match="were not there when the split was prepared"):
        other.select(prepared.cells(other.columns))


@pytest.mark.parametrize(
    "make",
    [
        lambda: KFold(1),
        lambda: KFold(2.0),  # type: ignore[arg-type]
        lambda: KFold(True),
        lambda: KFold(5, seed="a"),  # type: ignore[arg-type]
        lambda: StratifiedKFold(0),
        lambda: GroupKFold(3),
        lambda: GroupKFold(3, column=5),  # type: ignore[arg-type]
        lambda: TimeSeriesSplit(0, "t"),
        lambda: RepeatedKFold(5, n_repeats=0),
        lambda: Bootstrap(0),
        lambda: Holdout(0.0),
        lambda: Holdout(0.2, stratify="a", time="b"),
    ],
)
def test_parameters_are_checked(make: Any) -> None:
    with pytest.raises(ParameterError):
        make()


def test_columns_are_checked() -> None:
    for cv in (
        StratifiedKFold(3, "town"),
        GroupKFold(3, "town"),
        TimeSeriesSplit(3, "town"),
        Holdout(0.2, group="town"),
    ):
        with pytest.raises(SchemaError, match="'town'"):
            list(cv.split(TABLE))
    with pytest.raises(SchemaError, match="'city'"):
        list(TimeSeriesSplit(3, "city").split(TABLE))


def test_no_rows() -> None:
    for cv in SPLITTERS:
        if not isinstance(cv, Bootstrap):
            with pytest.raises(DataError, match="no rows"):
                list(cv.split(TABLE[:0]))


def test_cv_arguments() -> None:
    assert splitter(5) == KFold(5)
    assert splitter(Bootstrap(3)) == Bootstrap(3)
    different: list[Any] = [1, 0, True, 2.5, "5", None]
    for wrong in different:
        with at("tune.run"), pytest.raises(ParameterError, match=r"tune\.run: cv"):
            splitter(wrong)


@pytest.mark.ray
def test_ray_gives_the_same_folds(ray_session: Any) -> None:
    import ray.data

    ds = ray.data.from_arrow(TABLE.to_arrow(), override_num_blocks=3)
    engine = registry.engine_for(ds)
    for cv in (KFold(5), StratifiedKFold(4, "city"), GroupKFold(5, "plane"), TimeSeriesSplit(4, "hour")):
        assert cv.prepare(engine, ds) == cv.prepare(registry.engine_for(TABLE), TABLE)
    assert folds(Bootstrap(1), ds) == folds(Bootstrap(1), TABLE)


@pytest.mark.ray
def test_ray_fits_the_same_folds_of_equal_rows(ray_session: Any) -> None:
    import ray.data

    table = TABLE.select("city", pl.col("plane").cast(pl.Float64))
    p = Preprocessor([("scale", StandardScaler()), ("onehot", OneHotEncoder())])
    here = p.fit_folds(table, KFold(3))
    there = p.fit_folds(ray.data.from_arrow(table.to_arrow(), override_num_blocks=5), KFold(3))
    for mine, other in zip(there, here, strict=True):
        assert np.allclose(mine.transform(table)["plane"], other.transform(table)["plane"], rtol=1e-12, atol=1e-12)


class Counting:
    """An engine that counts its scans."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.scans = engine, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def scan(self, *arguments: Any) -> Any:
        self.scans += 1
        return self.engine.scan(*arguments)


@pytest.mark.parametrize(
    ("cv", "scans"),
    [
        (KFold(5), 1),
        (StratifiedKFold(5, "city"), 1),
        (GroupKFold(5, "plane"), 1),
        (GroupKFold(5, "id"), 1),
        (TimeSeriesSplit(5, "x"), 1),  # the times come in no order
        (TimeSeriesSplit(5, "id"), 2),  # in order: the first look shows only about where to cut
        (Holdout(0.2), 1),
    ],
    ids=repr,
)
def test_a_file_is_scanned_once_and_the_sizes_are_exact(
    cv: Splitter, scans: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rayline.core import scan

    monkeypatch.setattr(scan, "TABLE_ROWS", 10_000)
    monkeypatch.setattr(order_statistics, "MAX_DISTINCT", 1_000)
    n = 60_003
    rng = np.random.default_rng(0)
    table = pl.DataFrame(
        {"id": range(n), "x": rng.normal(size=n), "city": rng.choice(["a", "b"], n), "plane": rng.integers(0, 500, n)}
    )
    table.write_parquet(tmp_path / "t.parquet", row_group_size=10_000)
    file = pl.scan_parquet(tmp_path / "t.parquet")
    engine: Any = Counting(registry.engine_for(file))
    (prepared,) = cv.prepare(engine, file)
    assert engine.scans == scans
    assert sum(prepared.sizes) == n
    if not isinstance(cv, (Holdout, TimeSeriesSplit)):
        assert max(prepared.sizes) - min(prepared.sizes) <= (10 if cv == GroupKFold(5, "plane") else 1)
    assert prepared == cv.prepare(registry.engine_for(table), table)[0]
    counted = file.select(prepared.cells(table.columns).alias("cell")).collect()["cell"].value_counts().sort("cell")
    assert counted["count"].to_list() == list(prepared.sizes)
