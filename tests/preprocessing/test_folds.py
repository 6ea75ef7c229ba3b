"""Fold-wise fitting against fitting on each training slice by itself."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rayline import Preprocessor
from rayline.core import scan
from rayline.core.errors import DataError
from rayline.core.schema import remembered_schema
from rayline.data import KFold
from rayline.data.split import cells_by_row, row_hash
from rayline.data.split.cells_by_row import AttachedCells
from rayline.data.split.fold_cells import FoldCells
from rayline.engine.local import LocalEngine
from rayline.preprocessing.cross_fit import FoldFitter
from rayline.stages import MinMaxScaler, OneHotEncoder, OrdinalEncoder, SimpleImputer, StandardScaler


def table(n: int = 500, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(n) < 0.1, np.nan, rng.normal(50.0, 3.0, n))
    return pl.DataFrame(
        {
            "x": x,
            "i": rng.integers(-5, 5, n),
            "c": rng.choice(["a", "b", "c", None], n).astype(object).tolist(),  # type: ignore[arg-type]
            "late": rng.integers(0, 2, n),
            "fold": rng.integers(0, 5, n),
        },
        schema_overrides={"c": pl.String},
    )


class ByFold:
    is_local = True

    def __call__(self, names: Sequence[str]) -> pl.Expr:
        assert "fold" in names
        return pl.col("fold")


cells = ByFold()


FOLDS = [FoldCells(tuple(c for c in range(5) if c != held), (held,)) for held in range(5)]

ONE_SCAN = [
    ("impute", SimpleImputer(columns=["x"])),
    ("fill", SimpleImputer(columns=["c"], strategy="most_frequent")),
    ("scale", StandardScaler(columns=["x", "i"])),
    ("onehot", OneHotEncoder(columns=["c"])),
]
TWO_LEVELS = [
    ("impute", SimpleImputer(columns=["x"], strategy="median")),
    ("codes", OrdinalEncoder(columns=["c"])),
    ("range", MinMaxScaler(columns=["x", "c"])),
    ("scale", StandardScaler(columns=["x", "c"])),
]


def fitter(data: pl.DataFrame, folds: Sequence[FoldCells] = FOLDS) -> FoldFitter:
    engine = LocalEngine()
    return FoldFitter(
        engine,
        data,
        remembered_schema(engine.schema(data)),
        cells,
        folds,
        targets=["late"],
        excluded_columns=["fold"],
    )


def same(a: Any, b: Any) -> bool:
    """Equal, floats to 1e-12."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def learned(leaves: Sequence[Any]) -> list[Any]:
    return [leaf.to_json() for leaf in leaves]


@pytest.mark.parametrize(("stages", "shared", "own"), [(ONE_SCAN, 1, 0), (TWO_LEVELS, 2, 5)])
def test_each_fold_is_what_fitting_on_its_slice_gives(stages: Any, shared: int, own: int) -> None:
    data = table()
    folds = fitter(data)
    for k, fold in enumerate(FOLDS):
        fit = folds.fit(k, Preprocessor(stages).leaves)
        part = data.filter(pl.col("fold").is_in(fold.train))
        direct = Preprocessor(stages).fit(part.drop("fold"), target_columns=["late"])
        assert same(learned(fit.leaves), [leaf.to_json() for _, leaf in direct.leaves])
        assert fit.n_rows == part.height
        assert fit.scans == shared + own // 5
    assert (folds.scans, folds.slice_scans) == (shared, own)


@given(st.integers(0, 1000))
def test_any_slices(seed: int) -> None:
    data = table(60, seed)
    assume(data["fold"].n_unique() == 5)
    assume(all(data.filter(pl.col("fold") != k)["c"].null_count() <= 40 for k in range(5)))
    folds = fitter(data)
    for k in range(5):
        direct = Preprocessor(ONE_SCAN).fit(data.filter(pl.col("fold") != k).drop("fold"), target_columns=["late"])
        assert same(
            learned(folds.fit(k, Preprocessor(ONE_SCAN).leaves).leaves), [s.to_json() for _, s in direct.leaves]
        )


@pytest.mark.parametrize("stages", [ONE_SCAN, TWO_LEVELS])
def test_held_out_rows_leave_no_trace(stages: Any) -> None:
    """Absurd values and new categories in the held-out rows: not one byte of the fold's preprocessor changes."""
    data = table()
    clean = fitter(data)
    for k in range(5):
        held = pl.col("fold") == k
        poisoned = data.with_columns(
            x=pl.when(held).then(1e30).otherwise("x"),
            i=pl.when(held).then(2**40).otherwise("i"),
            c=pl.when(held).then(pl.format("only here {}", pl.int_range(pl.len()))).otherwise("c"),
            late=pl.when(held).then(1 - pl.col("late")).otherwise("late"),
        )
        before = json.dumps(learned(clean.fit(k, Preprocessor(stages).leaves).leaves))
        after = json.dumps(learned(fitter(poisoned).fit(k, Preprocessor(stages).leaves).leaves))
        assert after == before


def test_nothing_is_asked_twice() -> None:
    folds = fitter(table())
    leaves = Preprocessor(ONE_SCAN).leaves
    for k in range(5):
        folds.fit(k, leaves)
    again = Preprocessor(ONE_SCAN).replace({"onehot": {"max_categories": 2}, "scale": {"with_mean": False}})
    folds.fit(2, again.leaves)
    assert folds.scans == 1
    median = Preprocessor(ONE_SCAN).replace({"impute": {"strategy": "median"}})
    for k in range(5):
        folds.fit(k, median.leaves)
    assert folds.scans == 2  # one more question, asked once for all folds


def test_files_in_batches_give_the_same(tmp_path: Any, monkeypatch: Any) -> None:
    data = table()
    data.write_parquet(tmp_path / "t.parquet")
    monkeypatch.setattr("rayline.core.scan.CHUNK_ROWS", 100)
    monkeypatch.setattr("rayline.core.scan.TABLE_ROWS", 100)
    lazy, eager = fitter(pl.scan_parquet(tmp_path / "t.parquet")), fitter(data)  # type: ignore[arg-type]
    for k in range(5):
        leaves = Preprocessor(ONE_SCAN).leaves
        assert same(learned(lazy.fit(k, leaves).leaves), learned(eager.fit(k, leaves).leaves))


def test_a_fold_without_training_rows_is_refused() -> None:
    data = table().with_columns(fold=pl.lit(0))
    with pytest.raises(DataError, match="fold 1 of 5"):
        fitter(data).fit(0, Preprocessor(ONE_SCAN).leaves)


def test_an_error_names_the_fold() -> None:
    data = table().with_columns(x=pl.when(pl.col("fold") == 3).then("x"))
    with pytest.raises(DataError, match="'x' has no values"):
        fitter(data).fit(3, Preprocessor(ONE_SCAN).leaves)


def test_rows_are_hashed_once_where_they_keep_their_order(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(5_000).drop("late", "fold").with_row_index("id")  # no two are equal
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=700)
    monkeypatch.setattr(scan, "CHUNK_ROWS", 512)
    monkeypatch.setattr(scan, "TABLE_ROWS", 1_024)
    stages = Preprocessor([("scale", StandardScaler(["x"])), ("codes", OrdinalEncoder(["c"]))])
    hashed: list[int] = []
    call = row_hash._Hash.__call__
    monkeypatch.setattr(row_hash._Hash, "__call__", lambda self, rows: hashed.append(len(rows)) or call(self, rows))
    for data in (rows, pl.scan_parquet(tmp_path / "rows.parquet")):
        hashed.clear()
        once = [p.learned for p in stages.fit_folds(data, 3)]
        n_hashed = sum(hashed)
        with monkeypatch.context() as patch:
            patch.setattr(LocalEngine, "keeps_order", lambda self, data: False)
            assert [p.learned for p in stages.fit_folds(data, 3)] == once  # to the bit
        assert (n_hashed, sum(hashed) - n_hashed) == (rows.height, 2 * rows.height)


def test_cells_of_rows_stay_in_this_process_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = pl.DataFrame({"x": range(100), "y": range(100)})
    (folds,) = KFold(4).prepare(LocalEngine(), rows)
    cells = rows.select(folds.cells(rows.columns)).to_series().to_list()
    assert folds.cells.row_cells is not None
    assert folds.cells.row_cells.cells.tolist() == cells
    assert pickle.loads(pickle.dumps(folds)).cells.row_cells is None
    assert pickle.loads(pickle.dumps(folds)) == folds
    attached = folds.cells.row_cells(rows.lazy()).select("x", AttachedCells()([]).alias("cell")).collect()
    assert attached.equals(rows.select("x", pl.Series("cell", cells, dtype=pl.UInt8)))
    monkeypatch.setattr(cells_by_row, "MAX_KEPT_ROWS", 99)
    assert KFold(4).prepare(LocalEngine(), rows)[0].cells.row_cells is None
    assert not LocalEngine().keeps_order(rows.lazy().filter(pl.col("x") > 3))


def test_columns_that_keys_were_made_of_are_read_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(5_000).drop("late", "fold").with_row_index("id")
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=700)
    files = pl.scan_parquet(tmp_path / "rows.parquet")
    monkeypatch.setattr(scan, "CHUNK_ROWS", 512)
    stages = Preprocessor([("scale", StandardScaler(["x", "i"])), ("codes", OrdinalEncoder(["c"]))])
    (folds,) = KFold(3).prepare(LocalEngine(), files)
    kept = folds.cells.row_cells
    assert kept is not None
    assert kept.kept.equals(rows.select("i", "id", "x"))
    assert kept(files).collect().select(rows.columns).equals(rows)
    once = [p.learned for p in stages.fit_folds(files, 3)]
    monkeypatch.setattr(cells_by_row, "MAX_KEPT_BYTES", 4_000 * 20)  # fewer than the rows have
    (folds,) = KFold(3).prepare(LocalEngine(), files)
    assert folds.cells.row_cells is not None
    assert not folds.cells.row_cells.kept.width
    assert [p.learned for p in stages.fit_folds(files, 3)] == once  # to the bit


def test_another_number_of_rows_than_at_the_first_read_is_an_error() -> None:
    rows = pl.DataFrame({"x": [float(i) for i in range(100)], "y": range(100), "c": ["a", "b"] * 50})
    (folds,) = KFold(4).prepare(LocalEngine(), rows)
    less = rows.head(80)
    fitter = FoldFitter(LocalEngine(), less, rows.schema, folds.cells, folds.folds, row_cells=folds.cells.row_cells)
    with pytest.raises(DataError, match="the data changed between two reads"):
        fitter.fit(0, Preprocessor([("scale", StandardScaler()), ("codes", OrdinalEncoder())]).leaves)
