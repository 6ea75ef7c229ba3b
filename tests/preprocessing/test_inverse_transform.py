"""The inverse, compared with scikit-learn's inverse_transform.

Covers `core.operations.categorical` and `core.operations.inverse` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from sklearn import decomposition
from sklearn import preprocessing as sk

from rayline import stages
from rayline.core.errors import NotFittedError, ParameterError, SchemaError
from rayline.core.stage import Stage
from rayline.inference.pipeline import Preprocessor

RNG = np.random.default_rng(0)
NUMBERS = pl.DataFrame({"a": RNG.lognormal(1.0, 1.0, 300), "b": RNG.normal(5.0, 2.0, 300), "c": RNG.uniform(0, 1, 300)})
WORDS = pl.DataFrame({"x": RNG.choice(["a", "b", "c"], 300), "y": RNG.choice(["u", "v"], 300)})

PAIRS: list[tuple[Stage, Any]] = [
    (stages.StandardScaler(), sk.StandardScaler()),
    (stages.MinMaxScaler(feature_range=(-1, 2)), sk.MinMaxScaler(feature_range=(-1, 2))),
    (stages.MaxAbsScaler(), sk.MaxAbsScaler()),
    (stages.RobustScaler(), sk.RobustScaler()),
    (stages.PowerTransformer(), sk.PowerTransformer()),
    (stages.PowerTransformer(standardize=False), sk.PowerTransformer(standardize=False)),
    (stages.PowerTransformer(["a", "c"], method="box-cox"), sk.PowerTransformer("box-cox")),
    (stages.QuantileTransformer(n_quantiles=50), sk.QuantileTransformer(n_quantiles=50, subsample=None)),
    (
        stages.QuantileTransformer(n_quantiles=300, output_distribution="normal"),
        sk.QuantileTransformer(n_quantiles=300, output_distribution="normal", subsample=None),
    ),
    (stages.KBinsDiscretizer(n_bins=4, strategy="uniform"), sk.KBinsDiscretizer(4, encode="ordinal", strategy="uniform")),
    (
        stages.KBinsDiscretizer(n_bins=4, encode="onehot", strategy="uniform"),
        sk.KBinsDiscretizer(4, encode="onehot-dense", strategy="uniform"),
    ),
    (stages.PCA(n_components=2), decomposition.PCA(2)),
    (stages.PCA(n_components=2, whiten=True), decomposition.PCA(2, whiten=True)),
]  # fmt: skip


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda v: repr(v)[:60])
def test_numbers_as_scikit_learn(ours: Stage, theirs: Any) -> None:
    table = NUMBERS if ours.columns is None else NUMBERS.select(ours.columns)
    fitted = Preprocessor([("stage", ours)]).fit(table)
    theirs.fit(table.to_numpy())
    there = theirs.transform(table.to_numpy())
    mine = pl.DataFrame(there, schema=list(fitted.output_schema)).cast(dict(fitted.output_schema))  # type: ignore[arg-type]
    if isinstance(ours, stages.PCA):  # the sign of a component is a convention
        mine = fitted.transform(table)
    tolerance = (
        1e-5 if isinstance(ours, stages.PowerTransformer) else 1e-9
    )  # scikit-learn's λ has an error of some 1e-8
    np.testing.assert_allclose(
        fitted.inverse_transform(mine).to_numpy(), theirs.inverse_transform(there), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (stages.OneHotEncoder(), sk.OneHotEncoder(sparse_output=False)),
        (stages.OneHotEncoder(drop="first"), sk.OneHotEncoder(drop="first", sparse_output=False)),
        (stages.OneHotEncoder(drop="if_binary"), sk.OneHotEncoder(drop="if_binary", sparse_output=False)),
        (stages.OrdinalEncoder(), sk.OrdinalEncoder()),
    ],
    ids=lambda v: repr(v)[:60],
)
def test_categories_as_scikit_learn(ours: Stage, theirs: Any) -> None:
    fitted = Preprocessor([("stage", ours)]).fit(WORDS)
    back = fitted.inverse_transform(fitted.transform(WORDS))
    assert_frame_equal(back, WORDS)
    np.testing.assert_array_equal(back.to_numpy(), theirs.inverse_transform(theirs.fit_transform(WORDS.to_numpy())))


def test_probabilities_of_categories_give_the_likeliest() -> None:
    fitted = Preprocessor([("onehot", stages.OneHotEncoder(["x"]))]).fit(WORDS)
    soft = pl.DataFrame({"y": ["u", "v", "u"], "x_a": [0, 1, 0], "x_b": [0, 0, 0], "x_c": [1, 0, 0]})
    assert fitted.inverse_transform(soft)["x"].to_list() == ["c", "a", None]


def mixed(n: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(3)
    return pl.DataFrame(
        {
            "id": range(n),
            "price": rng.lognormal(2.0, 1.0, n),
            "count": rng.integers(0, 9, n),
            "city": rng.choice(["Oslo", "Rome", "a b"], n),
            "y": rng.normal(size=n),
        }
    )


CHAIN: list[Any] = [
    ("impute", stages.SimpleImputer(["price"])),
    ("log", stages.Log(["price"])),
    ("scale", stages.StandardScaler(["price", "count"])),
    ("inner", Preprocessor([("squares", stages.PolynomialFeatures(["price", "count"]))])),
    ("onehot", stages.OneHotEncoder(["city"])),
]


def test_a_chain_goes_back_in_reverse_order() -> None:
    table = mixed()
    fitted = Preprocessor(CHAIN).fit(table, target_columns="y")
    back = fitted.inverse_transform(fitted.transform(table))
    assert back.columns == ["id", "price", "count", "city", "y"]
    assert_frame_equal(back, table.with_columns(pl.col("count").cast(pl.Float64)), rel_tol=1e-9)
    again = Preprocessor.from_json(fitted.to_json())
    assert_frame_equal(again.inverse_transform(again.transform(table)), back, check_exact=True)
    pandas = fitted.inverse_transform(fitted.transform(table.to_pandas()))
    assert list(pandas.columns) == back.columns
    assert type(pandas).__module__.startswith("pandas")


def test_what_has_no_inverse_is_named() -> None:
    table = mixed()
    fitted = Preprocessor([("scale", stages.StandardScaler()), ("hash", stages.HashEncoder())]).fit(table)
    with pytest.raises(ParameterError, match=r"stage 'hash' \(HashEncoder\) has no inverse"):
        fitted.inverse_transform(fitted.transform(table))
    with pytest.raises(NotFittedError, match=r"inverse_transform"):
        Preprocessor(CHAIN).inverse_transform(table)
    with pytest.raises(SchemaError, match="city_Oslo"):
        Preprocessor(CHAIN).fit(table, target_columns="y").inverse_transform(table)


@pytest.mark.ray
def test_on_ray_as_in_process(ray_session: Any) -> None:
    import ray

    table = mixed()
    fitted = Preprocessor(CHAIN).fit(table, target_columns="y")
    ds = ray.data.from_arrow(table.to_arrow(compat_level=pl.CompatLevel.oldest())).repartition(4)
    back = fitted.inverse_transform(fitted.transform(ds))
    found = pl.from_pandas(back.to_pandas()).sort("id")
    expected = fitted.inverse_transform(fitted.transform(table))
    assert_frame_equal(found, expected, check_exact=True)
