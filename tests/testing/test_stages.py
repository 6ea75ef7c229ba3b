"""Every stage of the registry keeps the contract."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import polars as pl
import polars.selectors as cs
import pytest

from rayline import stages
from rayline.core import registry
from rayline.core.stage import Stage
from rayline.testing import check_stage
from rayline.testing.stage_laws import outcomes


def halve(column: pl.Expr) -> pl.Expr:
    return column / 2


stages.register_function("halve", halve)

CASES: list[tuple[Stage, dict[str, Any]]] = [
    (stages.SimpleImputer(), {}),
    (stages.SimpleImputer(strategy="median"), {}),
    (stages.SimpleImputer(strategy="most_frequent"), {}),
    (stages.SimpleImputer(strategy="constant"), {}),
    (stages.SimpleImputer(["city", "note"], "constant", "none"), {}),
    (stages.SimpleImputer(["count", "small"], "constant", -1.5), {}),
    (stages.StandardScaler(), {}),
    (stages.StandardScaler(cs.float(), with_mean=False), {"targets": ["y"]}),
    (stages.MinMaxScaler(), {}),
    (stages.MinMaxScaler(feature_range=(-1, 3), clip=True), {"targets": ["y"]}),
    (stages.OneHotEncoder(), {}),
    (stages.OneHotEncoder(["count", "flag", "city", "day"], drop="first", missing="ignore"), {}),
    (stages.OneHotEncoder(max_categories=3, handle_unknown="infrequent_if_exist"), {"targets": ["value"]}),
    (stages.OneHotEncoder(min_frequency=0.2, handle_unknown="error"), {}),
    (stages.OrdinalEncoder(), {}),
    (stages.OneHotEncoder(["city"], categories={"city": ["Rome", "Oslo", "never"]}, drop={"city": "Oslo"}), {}),
    (stages.OrdinalEncoder(["city", "count"], min_frequency=0.1, max_categories=4), {}),
    (stages.OrdinalEncoder(["small", "flag", "day", "amount"], handle_unknown="error", encoded_missing_value=-2), {}),
    (stages.OrdinalEncoder(["city", "count"], unknown_value="next", encoded_missing_value="next", dtype="int64"), {}),
    (stages.LabelEncoder(), {}),
    (stages.LabelEncoder(["value"], classes=["y", "x"]), {"targets": ["y"]}),
    (stages.Vectorizer(), {}),
    (stages.Vectorizer(["note", "city"], (1, 3), n_features=1000, use_idf=False, norm="l1"), {"targets": ["y"]}),
    (stages.HashingVectorizer(ngram_range=(2, 2), binary=True), {}),
    (stages.CountVectorizer(max_features=7), {}),
    (stages.TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), {}),
    (stages.TfidfVectorizer(lowercase=False, token_pattern=r"[^ ]+", norm=None), {}),
    (stages.CountVectorizer(stop_words=["late", "the", "café"], ngram_range=(1, 2)), {}),
    (stages.Vectorizer(["note"], stop_words=("crew", "storm"), n_features=64), {}),
    (stages.CountVectorizer(["note"], ngram_range=(3, 3), token_pattern=".", max_features=30), {}),
    (stages.TfidfVectorizer(["note"], token_pattern=r"(\w)\w+"), {}),
    (stages.Tokenizer(), {}),
    (stages.DropColumns(["city", "amount"]), {}),
    (stages.SelectColumns(["city", "amount"]), {"targets": ["y"]}),
    (stages.MaxAbsScaler(), {}),
    (stages.MaxAbsScaler(clip=True), {}),
    (stages.RobustScaler(), {}),
    (stages.RobustScaler(["price"], unit_variance=True), {}),
    (stages.RobustScaler(quantile_range=(10, 80), with_centering=False), {"targets": ["y"]}),
    (stages.Normalizer(), {}),
    (stages.Normalizer(["amount", "count", "small"], norm="max"), {}),
    (stages.Log(["price", "count"]), {}),
    (stages.Binarizer(threshold=5), {"targets": ["y"]}),
    (stages.Clipper(), {}),
    (stages.Clipper(low=3, high=8.5), {}),
    (stages.PowerTransformer(), {"rtol": 1e-9}),
    (stages.PowerTransformer(["price"], method="box-cox", standardize=False), {"rtol": 1e-9}),
    (stages.QuantileTransformer(n_quantiles=20), {}),
    (stages.QuantileTransformer(["amount", "count"], output_distribution="normal"), {}),
    (stages.MissingIndicator(), {}),
    (stages.MissingIndicator(["note", "price"], features="all"), {}),
    (stages.GroupImputer(["amount", "count", "flag"], by="city"), {}),
    (stages.GroupImputer(["amount", "count"], by="flag", strategy="median"), {}),
    (stages.GroupImputer(["city", "count"], by="value", strategy="most_frequent"), {"targets": ["y"]}),
    (stages.KNNImputer(["amount", "count", "price"], n_neighbors=3), {}),
    (stages.KNNImputer(weights="distance", max_donors=20), {"targets": ["y"]}),
    (stages.FrequencyEncoder(), {}),
    (stages.FrequencyEncoder(["city", "count"], normalize=False), {}),
    (stages.RareCategories(min_frequency=0.2), {}),
    (stages.Categorizer(), {}),
    (stages.HashEncoder(["city", "flag", "small"], n_features=8), {}),
    (stages.FeatureHasher(["city", "flag", "amount", "count"], n_features=32), {}),
    (stages.MultiHotEncoder(), {}),
    (stages.KBinsDiscretizer(), {}),
    (stages.KBinsDiscretizer(["amount", "price"], {"price": 3}, "onehot", "kmeans"), {}),
    (stages.KBinsDiscretizer(quantile_method="linear"), {}),
    (stages.KBinsDiscretizer(["amount", "count"], 3, "onehot", "uniform"), {}),
    (stages.KBinsDiscretizer(["amount"], edges=[0, 40, 60]), {}),
    (stages.TargetEncoder(), {"targets": ["y"], "rtol": 1e-9}),
    (stages.TargetEncoder(["city", "count"], smooth=10.0, cv=3), {"targets": ["price"], "rtol": 1e-9}),
    (stages.TargetEncoder(["city", "count"]), {"targets": ["value"], "rtol": 1e-9}),
    (stages.TargetEncoder(["flag", "count"], target="city", target_type="multiclass", cv=2), {"rtol": 1e-9}),
    (stages.TargetEncoder(["value"], target_type="binary"), {"targets": ["y"], "rtol": 1e-9}),
    (stages.PolynomialFeatures(["amount", "count", "small"], 3), {}),
    (stages.PolynomialFeatures(interaction_only=True), {"targets": ["y"]}),
    (stages.SplineTransformer(), {}),
    (stages.SplineTransformer(["amount", "count"], 4, 2, "quantile", "linear", False, "zeros"), {"targets": ["y"]}),
    (stages.SplineTransformer(["amount"], knots=[20, 40, 60, 90], extrapolation="periodic"), {}),
    (stages.SplineTransformer(["price", "small"], degree=1, extrapolation="continue"), {}),
    (stages.SplineTransformer(["amount"], degree=0, extrapolation="error"), {}),
    (stages.Ratio(["amount", "count"], per="small"), {}),
    (
        stages.Expression(
            output="new", formula=["if", ["==", ["col", "city"], "Oslo"], ["log", ["col", "price"]], ["col", "count"]]
        ),
        {},
    ),
    (stages.Expression(output="amount", formula=["/", ["col", "amount"], 7]), {"targets": ["y"]}),
    (stages.Concatenator(["amount", "count", "flag"]), {}),
    (stages.FunctionTransformer(["amount"], "halve"), {}),
    (stages.PCA(["amount", "price", "small"], n_components=2), {"rtol": 1e-7}),
    (stages.PCA(["amount", "price", "small"], n_components=0.9, whiten=True), {"rtol": 1e-7}),
    (stages.VarianceThreshold(threshold=10.0), {"targets": ["y"]}),
    (stages.CorrelationFilter(threshold=0.1), {"targets": ["y"]}),
    (stages.SelectKBest(k=2), {"targets": ["y"], "rtol": 1e-9}),
    (stages.SelectKBest(k=2, score="f_regression"), {"targets": ["price"], "rtol": 1e-9}),
    (stages.DatetimeEncoder(), {}),
    (
        stages.DatetimeEncoder(
            parts=["quarter", "week", "weekday", "day_of_year", "minute", "is_weekend", "days"],
            cyclic=True,
            holidays="US",
            keep=True,
        ),
        {},
    ),
    (stages.CheckMissing(["price", "value"]), {}),
    (stages.CheckMissing(action="warn"), {}),
    (stages.CheckRange(["amount", "price"], low=45, action="warn"), {}),
    (stages.CheckRange(), {}),
    (stages.CheckRange(["amount", "count"], low=5, action="missing"), {}),
    (stages.CheckCategories(), {}),
    (stages.CheckCategories(["city"], action="missing"), {}),
    (stages.DropRows(where=[">", ["col", "amount"], 50]), {"targets": ["y"]}),
    (stages.Upsample(), {"targets": ["y"]}),
    (stages.SMOTE(["price", "small"]), {"targets": ["y"]}),
    (stages.SMOTE(by="city", ratio=0.7, n_neighbors=2, max_donors=5, seed=3), {}),
    (stages.Downsample(by="value", ratio=0.8), {"targets": ["y"]}),
]


OUTCOMES = Path(__file__).parent / "stage_outcomes.json"
"""What each case does with each odd table, as declared. To declare a new case, or another outcome: add what
`rayline.testing.stage_laws.outcomes` finds (`python -m tests.testing.test_stages` writes it), and read the difference."""


def _key(stage: Stage, how: dict[str, Any]) -> str:
    return f"{stage!r} {' '.join(how.get('targets', ()))}".strip()


def _name(case: tuple[Stage, dict[str, Any]]) -> str:
    return repr(case[0])[:80]


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_the_contract(case: tuple[Stage, dict[str, Any]]) -> None:
    stage, how = case
    declared = json.loads(OUTCOMES.read_text(encoding="utf-8"))
    assert _key(stage, how) in declared, "no outcomes are declared for this case: see OUTCOMES"
    check_stage(stage, refuses=declared[_key(stage, how)], **how)


def test_every_stage_has_a_case() -> None:
    assert {type(stage).__name__ for stage, _ in CASES} >= {
        n for n in registry.stages() if registry.stage(n).__module__.startswith("rayline.")
    }


if __name__ == "__main__":
    logging.disable()  # stages that only warn
    found = {_key(stage, how): outcomes(stage, targets=how.get("targets", ())) for stage, how in CASES}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(found.items())]
    OUTCOMES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
