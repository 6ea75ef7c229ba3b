"""`fit_folds` of every splitter: each fold's preprocessor is what fitting on its training rows alone gives."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline import Preprocessor
from rayline.core.operations.base import apply_all
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
from rayline.stages import (
    PCA,
    CountVectorizer,
    KBinsDiscretizer,
    Log,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    RareCategories,
    RobustScaler,
    SimpleImputer,
    StandardScaler,
    TargetEncoder,
)
from rayline.stages.impute import ImputeStrategy
from rayline.testing.edge_cases import example_table

N = 240


def table() -> pl.DataFrame:
    rng = np.random.default_rng(5)
    return pl.DataFrame(
        {
            "x": np.where(rng.random(N) < 0.1, np.nan, rng.normal(50.0, 3.0, N)),
            "i": rng.integers(-5, 5, N),
            "c": rng.choice(["a", "b", "c"], N),
            "note": [" ".join(rng.choice(["late", "plane", "storm", "gate", "crew"], 4)) for _ in range(N)],
            "group": rng.integers(0, 20, N),
            "day": rng.permutation(N) // 3,
            "y": rng.lognormal(1.0, 1.0, N),
        }
    )


TABLE = table()
SPLITTERS: list[Splitter] = [
    KFold(4),
    StratifiedKFold(3, "c"),
    GroupKFold(4, "group"),
    TimeSeriesSplit(3, "day"),
    RepeatedKFold(2, n_repeats=2),
    Bootstrap(2),
    Holdout(0.3),
    Holdout(0.3, group="group"),
    Holdout(0.25, time="day"),
]
EXACT = Preprocessor(
    [
        ("median", SimpleImputer(["x"], strategy="median")),
        ("lump", RareCategories(["c"], min_frequency=0.05)),
        ("range", MinMaxScaler(["i"])),
        ("bins", KBinsDiscretizer(["day"], n_bins=3)),
        ("words", CountVectorizer(["note"])),
        ("onehot", OneHotEncoder(["c"])),
        ("robust", RobustScaler(["x"])),
    ],
    target_stages=[("log", Log()), ("span", MinMaxScaler())],
)
"""What is learned here are counts, values and quantiles: the same to the byte, whatever the order of merging."""

MOMENTS = Preprocessor(
    [
        ("mean", SimpleImputer(["x"])),
        ("scale", StandardScaler(["x", "i"])),
        ("target", TargetEncoder(["c"])),
        ("codes", OrdinalEncoder(["group"])),
        ("pca", PCA(["x", "i"])),
        ("again", StandardScaler(["pca0"])),
    ],
    target_stages=[("power", PowerTransformer()), ("scale target", StandardScaler())],
)
"""Means and variances, over several levels: a sum in another order differs in its last bits."""


def direct(preprocessor: Preprocessor, cv: Splitter, data: Any) -> list[Preprocessor]:
    return [preprocessor.clone().fit(part, target_columns=["y"]) for part, _ in cv.split(data, target_columns=["y"])]


def learned(p: Preprocessor) -> Any:
    return {k: v for k, v in p.to_json().items() if k != "scans"}


def close(a: Any, b: Any, tolerance: float = 1e-9) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(close(a[k], b[k], tolerance) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(close(x, y, tolerance) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


@pytest.mark.parametrize("cv", SPLITTERS, ids=repr)
def test_what_is_counted_is_equal_to_the_byte(cv: Splitter) -> None:
    found = EXACT.fit_folds(TABLE, cv, target_columns=["y"])
    expected = direct(EXACT, cv, TABLE)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert json.dumps(learned(one)) == json.dumps(learned(other))
        assert one.transform(TABLE).equals(other.transform(TABLE))


@pytest.mark.parametrize("cv", SPLITTERS, ids=repr)
def test_what_is_summed_is_equal_to_rounding(cv: Splitter) -> None:
    found = MOMENTS.fit_folds(TABLE, cv, target_columns=["y"])
    expected = direct(MOMENTS, cv, TABLE)
    assert len(found) == len(expected)
    assert all(close(learned(one), learned(other)) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("cv", SPLITTERS, ids=repr)
def test_held_out_rows_leave_not_a_bit(cv: Splitter) -> None:
    """The rows that a fold holds out, gone from the data: all the rest of the fold's work is the same to the byte."""
    for (part, _), one in zip(
        cv.split(TABLE, target_columns=["y"]), MOMENTS.fit_folds(TABLE, cv, target_columns=["y"]), strict=True
    ):
        assert set(one["codes"].state["columns"]["group"]["categories"]) == set(part["group"].to_list())  # type: ignore[union-attr]


def test_one_scan_for_all_folds() -> None:
    chain = Preprocessor(
        [
            ("impute", SimpleImputer(["x"])),
            ("scale", StandardScaler(["x", "i"])),
            ("onehot", OneHotEncoder(["c"])),
            ("ordinal", OrdinalEncoder(["group"])),
        ],
        target_stages=[("power", PowerTransformer())],
    )
    assert [p.scans for p in chain.fit_folds(TABLE, 5, target_columns=["y"])] == [1] * 5


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("cv", SPLITTERS, ids=repr)
def test_on_ray_as_in_process(ray_session: Any, cv: Splitter) -> None:
    shuffled = TABLE.sample(fraction=1.0, shuffle=True, seed=2)
    parts = [p.to_arrow(compat_level=pl.CompatLevel.oldest()) for p in shuffled.iter_slices(70)]
    ds = ray_session.data.from_arrow(parts)
    for chain, exact in ((EXACT, True), (MOMENTS, False)):
        here = chain.fit_folds(TABLE, cv, target_columns=["y"])
        there = chain.fit_folds(ds, cv, target_columns=["y"])
        for one, other in zip(here, there, strict=True):
            if exact:
                assert json.dumps(learned(one)) == json.dumps(learned(other))
            else:
                assert close(learned(one), learned(other))


@pytest.mark.ray
def test_one_scan_on_ray(ray_session: Any) -> None:
    ds = ray_session.data.from_arrow(TABLE.to_arrow(compat_level=pl.CompatLevel.oldest()), override_num_blocks=3)
    chain = Preprocessor(
        [
            ("impute", SimpleImputer()),
            ("scale", StandardScaler(["x", "i", "day"])),
            ("onehot", OneHotEncoder(["c"])),
            ("ordinal", OrdinalEncoder(["group", "note"])),
        ]
    )
    there = chain.fit(ds, target_columns=["y"])
    assert there.scans == 1
    assert close(learned(there), learned(chain.clone().fit(TABLE, target_columns=["y"])), 1e-12)


@given(data=st.data())
def test_impute_scale_encode_is_one_scan_on_any_columns(data: st.DataObject) -> None:
    """Named or by type, the same columns in several stages or not: what a stage asks of a filled and scaled column follows
    from the raw one."""
    table = example_table(40)
    numbers, words = ["amount", "count", "price", "small"], ["city", "value", "flag", "day", "note"]
    strategies: list[ImputeStrategy] = ["mean", "median", "most_frequent"]
    strategy = data.draw(st.sampled_from(strategies))
    some = st.lists(st.sampled_from(numbers), unique=True, min_size=1)
    imputed, scaled = data.draw(st.none() | some), data.draw(st.none() | some)
    hot = data.draw(st.none() | st.lists(st.sampled_from([*numbers, *words]), unique=True, min_size=1))
    left = [name for name in [*numbers, *words] if name not in (hot or ["city", "value"])]
    codes = data.draw(st.lists(st.sampled_from(left), unique=True, min_size=1)) if left else []
    chain = Preprocessor(
        [
            ("impute", SimpleImputer(imputed, strategy)),
            ("scale", StandardScaler(scaled)),
            ("onehot", OneHotEncoder(hot)),
            ("ordinal", OrdinalEncoder(codes)),
        ]
    )
    fitted = chain.fit(table, target_columns=["y"])
    assert fitted.scans == 1
    # What was derived is what a look at the table gives.
    before = Preprocessor(fitted.stages[:2]).leaves  # type: ignore[arg-type]
    seen = table
    for _, leaf in before:
        seen = apply_all(leaf.to_operations(), seen.lazy()).collect()
    direct = Preprocessor(chain.clone().stages[2:]).fit(seen, target_columns=["y"])
    assert close(learned(direct)["stages"], learned(fitted)["stages"][2:], 0.0)
