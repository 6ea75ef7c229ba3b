"""Frequencies, hashes, native categories, lumping and lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.feature_extraction import FeatureHasher as Theirs
from sklearn.preprocessing import MultiLabelBinarizer

from rayline.core.errors import DataError, SchemaError
from rayline.data.preprocessor import Preprocessor
from rayline.stages import (
    Categorizer,
    CheckCategories,
    CheckMissing,
    CheckRange,
    FeatureHasher,
    FrequencyEncoder,
    GroupImputer,
    HashEncoder,
    MissingIndicator,
    MultiHotEncoder,
    RareCategories,
)


def run(stage: Any, table: pl.DataFrame, new: pl.DataFrame | None = None) -> pl.DataFrame:
    return Preprocessor([("stage", stage)]).fit(table).transform(table if new is None else new)


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


def test_multi_hot() -> None:
    tags = [["b", "a"], [], ["c", "c"], ["a"]]
    expected = MultiLabelBinarizer().fit_transform(tags)
    ours = run(MultiHotEncoder(), pl.DataFrame({"t": tags}))
    assert ours.columns == ["t_a", "t_b", "t_c"]
    np.testing.assert_array_equal(ours.to_numpy(), expected)
    assert run(MultiHotEncoder(max_categories=1), pl.DataFrame({"t": tags})).columns == ["t_a"]
    with pytest.raises(SchemaError, match="lists of strings"):
        run(MultiHotEncoder(), pl.DataFrame({"t": [[1.5]]}))


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


def test_missing_indicator() -> None:
    table = pl.DataFrame({"x": [1.0, float("nan")], "y": [1, 2]})
    assert run(MissingIndicator(), table).columns == ["x", "y", "x_missing"]
    assert run(MissingIndicator(features="all"), table)["y_missing"].to_list() == [0, 0]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("mean", [3.0, 5.0, 3.5]), ("median", [1.0, 5.0, 3.0]), ("most_frequent", [1.0, 5.0, 1.0])],
)
def test_group_imputer(strategy: str, expected: list[float]) -> None:
    table = pl.DataFrame({"g": ["a", "a", "a", "b", "b"], "x": [1.0, 1.0, 7.0, 5.0, None]})
    new = pl.DataFrame({"g": ["a", "b", "z"], "x": [None, None, None]}, schema=table.schema)
    assert run(GroupImputer(by="g", strategy=strategy), table, new)["x"].to_list() == pytest.approx(expected)


def test_group_imputer_needs_its_groups() -> None:
    with pytest.raises(SchemaError, match="'h'"):
        run(GroupImputer(by="h"), pl.DataFrame({"g": ["a"], "x": [1.0]}))


def test_checks(caplog: pytest.LogCaptureFixture) -> None:
    table = pl.DataFrame({"x": [1.0, 5.0], "c": ["a", "b"]})
    for stage, bad in (
        (CheckRange(), {"x": [6.0], "c": ["a"]}),
        (CheckCategories(), {"x": [1.0], "c": ["z"]}),
        (CheckMissing(), {"x": [None], "c": ["a"]}),
    ):
        with pytest.raises(DataError, match="stage 'stage'"):
            run(stage, table, pl.DataFrame(bad, schema=table.schema))
    with caplog.at_level("WARNING", "rayline.checks"):
        new = pl.DataFrame({"x": [6.0, 7.0, 1.0], "c": ["a", "z", None]}, schema=table.schema)
        for stage in (CheckRange(action="warn"), CheckCategories(action="warn"), CheckMissing(action="warn")):
            assert run(stage, table, new).equals(new)
    assert [record.args[1] for record in caplog.records] == [2, 1, 1]
    gone = run(CheckRange(high=2, action="missing"), table)
    assert gone["x"].to_list() == [1.0, None]
