"""Intervals and sets against NumPy's order statistics, and their coverage of new rows.

Covers `postprocess.cross_validation_intervals` too.
"""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from rayline.postprocess import Conformal
from rayline.postprocess.cross_validation_intervals import MAX_POINTS, FoldResiduals
from tests.postprocess import tables


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_the_radius_is_an_order_statistic(coverage: float) -> None:
    rows, pipeline = tables.table(357, seed=1), tables.fitted("price")
    errors = np.sort((rows["price"] - pipeline.predict(rows)["prediction"]).abs().to_numpy())
    expected = errors[math.ceil(358 * coverage) - 1]
    made = pipeline.calibrated([Conformal(coverage)], rows)
    assert made.postprocessing[0].state["radius"] == [expected]
    table = made.predict(rows, interval=True)
    np.testing.assert_array_equal(table["upper"], table["prediction"] + expected)
    np.testing.assert_array_equal(table["lower"], table["prediction"] - expected)


def test_each_group_has_its_own_radius() -> None:
    rows, pipeline = tables.table(900, seed=1), tables.fitted("price")
    made = pipeline.calibrated([Conformal(0.9, by="region")], rows)
    table = rows.with_columns(made.predict(rows, interval=True))
    widths = (table["upper"] - table["lower"]) / 2
    for region in (None, "north", "south"):
        own = table["region"].is_null() if region is None else (table["region"] == region).fill_null(False)
        errors = np.sort(np.abs(table["price"] - table["prediction"]).filter(own).to_numpy())  # type: ignore[attr-defined]
        expected = errors[math.ceil((len(errors) + 1) * 0.9) - 1]
        np.testing.assert_allclose(widths.filter(own), expected, rtol=1e-9)
    new = made.predict([{"x": 0.0, "region": "west"}], interval=True)[0]
    assert new["upper"] - new["prediction"] == pytest.approx(made.postprocessing[0].state["radius"][0])


def test_sets_hold_the_probable_classes() -> None:
    pipeline, rows = tables.multiclass()
    shares = pipeline.predict_proba(rows).to_numpy()
    codes = rows["kind"].replace_strict(["a", "b", "c"], [0, 1, 2]).to_numpy()
    q = np.sort(1 - shares[np.arange(len(rows)), codes])[math.ceil((len(rows) + 1) * 0.8) - 1]
    expected = (1 - shares <= q) | (np.arange(3) == shares.argmax(axis=1)[:, None])
    made = pipeline.calibrated([Conformal(0.8)], rows).predict(rows, interval=True)
    assert made["set"].to_list() == [[c for c, m in zip("abc", row, strict=True) if m] for row in expected]


@pytest.mark.parametrize("by", [None, "region", ["region"]])
def test_new_rows_are_covered(by: object) -> None:
    pipeline = tables.fitted("price")
    made = pipeline.calibrated([Conformal(0.9, by=by)], tables.table(5_000, seed=1))  # type: ignore[arg-type]
    new = tables.table(20_000, seed=2)
    table = new.with_columns(made.predict(new, interval=True))
    inside = pl.col("price").is_between("lower", "upper").mean()
    assert table.select(inside).item() == pytest.approx(0.9, abs=0.015)
    if by:
        by_region = table.group_by("region").agg(inside.alias("share"))["share"]
        assert by_region.is_between(0.88, 0.92).all()


def test_cv_plus_is_the_order_statistic_of_all_folds() -> None:
    random = np.random.default_rng(0)
    errors, folds = np.abs(random.normal(size=(103, 2))), random.integers(0, 4, 103)
    members = random.normal(size=(7, 4, 2))
    lower, upper = FoldResiduals.of(errors, folds, 0.8).intervals(members)
    rank = math.ceil(104 * 0.8)
    for row in range(7):
        for t in range(2):
            high = np.sort(members[row, folds, t] + errors[:, t])
            low = np.sort(members[row, folds, t] - errors[:, t])
            assert upper[row, t] == pytest.approx(high[rank - 1], abs=1e-9)
            assert lower[row, t] == pytest.approx(low[103 - rank], abs=1e-9)


def test_many_errors_of_a_fold_are_thinned_a_little_too_large() -> None:
    random = np.random.default_rng(0)
    errors = np.abs(random.normal(size=(50_000, 1)))
    kept = FoldResiduals.of(errors, np.zeros(50_000), 0.9)
    assert len(kept.errors[0][0]) == MAX_POINTS
    exact = np.sort(errors[:, 0])[math.ceil(50_001 * 0.9) - 1]
    _, upper = kept.intervals(np.zeros((1, 1, 1)))
    assert exact <= upper[0, 0] <= exact * 1.01
