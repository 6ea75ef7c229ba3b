"""Hashed categories."""

from __future__ import annotations

import numpy as np
import polars as pl
from sklearn.feature_extraction import FeatureHasher as Theirs

from rayline.inference.pipeline import Preprocessor
from rayline.stages import (
    FeatureHasher,
    HashEncoder,
)

from .one_stage import check_single_rows, run

CITIES = pl.DataFrame({"c": ["Oslo", "Rome", "Oslo", None]})


def test_hashes() -> None:
    one = run(HashEncoder(n_features=8), CITIES)
    assert one.width == 8
    assert one.sum_horizontal().to_list() == [1, 1, 1, 0]
    assert one.row(0) == one.row(2) == run(HashEncoder(n_features=8), CITIES.head(1)).row(0)


def test_feature_hasher_has_the_same_geometry() -> None:
    table = pl.DataFrame({"c": ["a", "b", "a"], "x": [1.5, -2.0, 0.25]})
    theirs = Theirs(n_features=1 << 20, alternate_sign=False).transform(table.to_dicts())
    vectors = run(FeatureHasher(n_features=1 << 20), table)["hashed"].to_list()
    dense = [dict(zip(v["indices"], v["values"], strict=True)) for v in vectors]
    ours = [[sum(a.get(k, 0.0) * v for k, v in b.items()) for b in dense] for a in dense]
    np.testing.assert_allclose(ours, (theirs @ theirs.T).toarray(), rtol=1e-12)


def test_zeros_are_not_stored() -> None:
    table = pl.DataFrame({"c": ["a", None, "b"], "x": [0.0, 0.0, 2.0], "flag": [0, 1, 0]})
    p = Preprocessor([("h", FeatureHasher(n_features=1 << 20))]).fit(table)
    made = p.transform(table)["hashed"].to_list()
    theirs = Theirs(1 << 20, alternate_sign=False).transform(
        [{k: v for k, v in row.items() if v is not None} for row in table.to_dicts()]
    )
    assert [len(row["values"]) for row in made] == theirs.getnnz(axis=1).tolist() == [1, 1, 2]
    check_single_rows(p, table)
    saved = p.to_json()
    del saved["stages"][0][1]["learned"]["zeros"]  # as files of before
    assert [len(row["values"]) for row in Preprocessor.from_json(saved).transform(table)["hashed"].to_list()] == [
        3,
        2,
        3,
    ]
