"""Columns without a value: refused, dropped or kept; and numbers whose squares overflow."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn import feature_selection, impute
from sklearn import preprocessing as sk

from rayline import stages
from rayline.core.errors import DataError
from rayline.inference.pipeline import Preprocessor

from .one_stage import check_single_rows

TABLE = pl.DataFrame(
    {"a": [1.0, 2.0, None, 9.0], "e": [None, float("nan"), None, None], "b": [4.0, None, 5.0, 7.0]},
    schema=dict.fromkeys("aeb", pl.Float64),
)
NEW = pl.DataFrame({"a": [None, 3.0], "e": [None, 2.5], "b": [1.0, None]}, schema=TABLE.schema)
STAGES: list[Any] = [
    stages.StandardScaler, stages.MinMaxScaler, stages.MaxAbsScaler, stages.RobustScaler, stages.PowerTransformer,
    stages.QuantileTransformer, stages.KBinsDiscretizer, stages.SplineTransformer, stages.Log, stages.Clipper,
    stages.SimpleImputer, stages.KNNImputer, stages.GroupImputer,
]  # fmt: skip


def made(stage: Any, keep: bool | None, **how: Any) -> Any:
    by = {"by": "g"} if stage is stages.GroupImputer else {}
    return Preprocessor([("s", stage(["a", "e", "b"], keep_empty_features=keep, **by, **how))])


def numpy_of(table: pl.DataFrame) -> Any:
    return table.to_numpy().astype(float)


@pytest.mark.parametrize("stage", STAGES)
def test_refused_dropped_or_kept(stage: Any) -> None:
    table, new = (t.with_columns(g=pl.lit("x")) for t in (TABLE, NEW))
    with pytest.raises(DataError, match=r"column 'e' has no values(.|\n)*keep_empty_features=False"):
        made(stage, None).fit(table)
    alone = made(stage, None).replace({"s": {"columns": ["a", "b"]}}).fit(table.drop("e"))
    for keep in (False, True):
        fitted = made(stage, keep).fit(table)
        fitted = Preprocessor.from_json(json.loads(json.dumps(fitted.to_json())))
        found = fitted.transform(new)
        others = [name for name in found.columns if name == "g" or not name.startswith("e")]
        assert found.select(others).equals(alone.transform(new.drop("e")).select(others))
        assert (others == found.columns) is not keep
        assert dict(found.schema) == dict(fitted.output_schema)
        check_single_rows(fitted, new)
        if stage in (stages.StandardScaler, stages.PowerTransformer, stages.KBinsDiscretizer, stages.Log):
            assert fitted.inverse_transform(found).columns == new.columns


@pytest.mark.parametrize("strategy", ["mean", "median", "most_frequent", "constant"])
@pytest.mark.parametrize("keep", [False, True])
def test_simple_imputer_as_scikit_learn(strategy: str, keep: bool) -> None:
    theirs = impute.SimpleImputer(strategy=strategy, keep_empty_features=keep)
    ours = made(stages.SimpleImputer, keep, strategy=strategy).fit(TABLE).transform(NEW)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)
        expected = theirs.fit(numpy_of(TABLE)).transform(numpy_of(NEW))
    if strategy == "constant" and not keep and expected.shape[1] == 3:  # theirs before 1.8
        expected = expected[:, [0, 2]]
    np.testing.assert_array_equal(ours.to_numpy(), expected)


@pytest.mark.parametrize("keep", [False, True])
def test_knn_imputer_as_scikit_learn(keep: bool) -> None:
    expected = impute.KNNImputer(n_neighbors=2, keep_empty_features=keep).fit(numpy_of(TABLE)).transform(numpy_of(NEW))
    ours = made(stages.KNNImputer, keep, n_neighbors=2).fit(TABLE).transform(NEW)
    if keep:
        assert ours["e"].to_list() == [0.0, 2.5]
        ours, expected = ours.drop("e"), expected[:, [0, 2]]
    np.testing.assert_allclose(ours.to_numpy(), expected)


@pytest.mark.parametrize(
    ("stage", "theirs"),
    [
        (stages.StandardScaler, sk.StandardScaler()),
        (stages.MinMaxScaler, sk.MinMaxScaler()),
        (stages.MaxAbsScaler, sk.MaxAbsScaler()),
        (stages.RobustScaler, sk.RobustScaler()),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_kept_columns_stay_missing_as_in_scikit_learn(stage: Any, theirs: Any) -> None:
    np.testing.assert_allclose(
        numpy_of(made(stage, True).fit(TABLE).transform(NEW)), theirs.fit(numpy_of(TABLE)).transform(numpy_of(NEW))
    )


def test_later_stages_go_on_behind_them() -> None:
    for keep, n in ((False, 2), (True, 3)):
        chain = [("fill", stages.SimpleImputer(keep_empty_features=keep)), ("scale", stages.StandardScaler())]
        fitted = Preprocessor(chain).fit(TABLE)
        assert fitted.scans == 1
        assert fitted.transform(NEW).width == n
    chain = [("scale", stages.StandardScaler(keep_empty_features=False)), ("fill", stages.SimpleImputer())]
    assert Preprocessor(chain).fit(TABLE).transform(NEW).columns == ["a", "b"]
    folds = Preprocessor(chain).fit_folds(TABLE, 2)
    assert [fold.transform(NEW).columns for fold in folds] == [["a", "b"]] * 2


HUGE = {"large": [1e200, -1e200, 3e200], "largest": [1.7e308, -1.7e308, 1e308], "constant": [1e200] * 3, "infinite": [math.inf, 1.0, 2.0],
        "negative": [-math.inf, 1.0, 2.0], "tiny": [1e-310, 2e-310, 4e-310]}  # fmt: skip
ALL: list[Any] = [
    *(stages.SimpleImputer(strategy=s) for s in ("mean", "median", "most_frequent")), stages.KNNImputer(), stages.StandardScaler(),
    stages.MinMaxScaler(), stages.MaxAbsScaler(), stages.RobustScaler(), stages.PowerTransformer(), stages.QuantileTransformer(),
    *(stages.KBinsDiscretizer(strategy=s) for s in ("quantile", "uniform", "kmeans")), stages.SplineTransformer(), stages.PCA(),
    stages.VarianceThreshold(), stages.CorrelationFilter(), stages.SelectKBest(k=1), stages.Log(), stages.Clipper(),
    stages.TargetEncoder(["x"]), stages.GroupImputer(["x"], by="z"), stages.Normalizer(), stages.Binarizer(),
]  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize("stage", ALL, ids=repr)
def test_numbers_that_overflow_are_right_or_refused(stage: Any, name: str) -> None:
    table = pl.DataFrame({"x": HUGE[name], "z": [1.0, 2.0, 4.0], "y": [0, 1, 0]})
    try:
        result = Preprocessor([("s", stage)]).fit(table, target_columns="y").transform(table)
    except DataError as error:
        assert "'x'" in str(error)  # noqa: PT017
        assert name not in ("constant", "tiny") or isinstance(stage, (stages.Log, stages.PCA, stages.VarianceThreshold))
        return
    numbers = [column for column in result if column.dtype == pl.Float64]
    assert not any(column.is_nan().any() for column in numbers)
    if name not in ("infinite", "negative") and not (name == "largest" and isinstance(stage, stages.RobustScaler)):
        assert not any(column.is_infinite().any() for column in numbers)


def test_a_column_of_large_numbers_varies() -> None:
    table = pl.DataFrame({"x": [1e200, -1e200, 3e200], "c": [1e200] * 3, "z": [1.0, 2.0, 4.0]})
    assert Preprocessor([("v", stages.VarianceThreshold())]).fit_transform(table).columns == ["x", "z"]
    scaled = Preprocessor([("s", stages.StandardScaler(["c"]))]).fit_transform(table)["c"]
    assert scaled.to_list() == [0.0, 0.0, 0.0]
    assert feature_selection.VarianceThreshold().fit(table.select("z", "c").to_numpy()).get_support().tolist() == [
        True,
        False,
    ]
