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

CASES: dict[str, tuple[Stage, dict[str, Any]]] = {
    "SimpleImputer": (stages.SimpleImputer(), {}),
    "SimpleImputer: median": (stages.SimpleImputer(strategy="median"), {}),
    "SimpleImputer: most_frequent": (stages.SimpleImputer(strategy="most_frequent"), {}),
    "SimpleImputer: constant": (stages.SimpleImputer(strategy="constant"), {}),
    "SimpleImputer: constant, none": (stages.SimpleImputer(["city", "note"], "constant", "none"), {}),
    "SimpleImputer: constant, fill_value": (stages.SimpleImputer(["count", "small"], "constant", -1.5), {}),
    "StandardScaler": (stages.StandardScaler(), {}),
    "StandardScaler: with_mean": (stages.StandardScaler(cs.float(), with_mean=False), {"targets": ["y"]}),
    "MinMaxScaler": (stages.MinMaxScaler(), {}),
    "MinMaxScaler: feature_range, clip": (stages.MinMaxScaler(feature_range=(-1, 3), clip=True), {"targets": ["y"]}),
    "OneHotEncoder": (stages.OneHotEncoder(), {}),
    "OneHotEncoder: first, ignore": (stages.OneHotEncoder(["count", "flag", "city", "day"], drop="first", missing="ignore"), {}),
    "OneHotEncoder: infrequent_if_exist, max_categories": (stages.OneHotEncoder(max_categories=3, handle_unknown="infrequent_if_exist"), {"targets": ["value"]}),
    "OneHotEncoder: error, min_frequency": (stages.OneHotEncoder(min_frequency=0.2, handle_unknown="error"), {}),
    "OrdinalEncoder": (stages.OrdinalEncoder(), {}),
    "OneHotEncoder: drop, categories": (stages.OneHotEncoder(["city"], categories={"city": ["Rome", "Oslo", "never"]}, drop={"city": "Oslo"}), {}),
    "OrdinalEncoder: min_frequency, max_categories": (stages.OrdinalEncoder(["city", "count"], min_frequency=0.1, max_categories=4), {}),
    "OrdinalEncoder: error, encoded_missing_value": (stages.OrdinalEncoder(["small", "flag", "day", "amount"], handle_unknown="error", encoded_missing_value=-2), {}),
    "OrdinalEncoder: next, int64": (stages.OrdinalEncoder(["city", "count"], unknown_value="next", encoded_missing_value="next", dtype="int64"), {}),
    "LabelEncoder": (stages.LabelEncoder(), {}),
    "LabelEncoder: classes": (stages.LabelEncoder(["value"], classes=["y", "x"]), {"targets": ["y"]}),
    "Vectorizer": (stages.Vectorizer(), {}),
    "Vectorizer: ngram_range, n_features, use_idf, l1": (stages.Vectorizer(["note", "city"], (1, 3), n_features=1000, use_idf=False, norm="l1"), {"targets": ["y"]}),
    "HashingVectorizer: ngram_range, binary": (stages.HashingVectorizer(ngram_range=(2, 2), binary=True), {}),
    "CountVectorizer: max_features": (stages.CountVectorizer(max_features=7), {}),
    "TfidfVectorizer: ngram_range, min_df, sublinear_tf": (stages.TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True), {}),
    "TfidfVectorizer: lowercase, token_pattern, norm": (stages.TfidfVectorizer(lowercase=False, token_pattern=r"[^ ]+", norm=None), {}),
    "CountVectorizer: ngram_range, stop_words": (stages.CountVectorizer(stop_words=["late", "the", "café"], ngram_range=(1, 2)), {}),
    "Vectorizer: stop_words, n_features": (stages.Vectorizer(["note"], stop_words=("crew", "storm"), n_features=64), {}),
    "CountVectorizer: ngram_range, token_pattern, max_features": (stages.CountVectorizer(["note"], ngram_range=(3, 3), token_pattern=".", max_features=30), {}),
    "TfidfVectorizer: token_pattern": (stages.TfidfVectorizer(["note"], token_pattern=r"(\w)\w+"), {}),
    "Tokenizer": (stages.Tokenizer(), {}),
    "DropColumns": (stages.DropColumns(["city", "amount"]), {}),
    "SelectColumns": (stages.SelectColumns(["city", "amount"]), {"targets": ["y"]}),
    "MaxAbsScaler": (stages.MaxAbsScaler(), {}),
    "MaxAbsScaler: clip": (stages.MaxAbsScaler(clip=True), {}),
    "RobustScaler": (stages.RobustScaler(), {}),
    "RobustScaler: unit_variance": (stages.RobustScaler(["price"], unit_variance=True), {}),
    "RobustScaler: with_centering, quantile_range": (stages.RobustScaler(quantile_range=(10, 80), with_centering=False), {"targets": ["y"]}),
    "Normalizer": (stages.Normalizer(), {}),
    "Normalizer: max": (stages.Normalizer(["amount", "count", "small"], norm="max"), {}),
    "Log": (stages.Log(["price", "count"]), {}),
    "Binarizer: threshold": (stages.Binarizer(threshold=5), {"targets": ["y"]}),
    "Clipper": (stages.Clipper(), {}),
    "Clipper: low, high": (stages.Clipper(low=3, high=8.5), {}),
    "PowerTransformer": (stages.PowerTransformer(), {"rtol": 1e-9}),
    "PowerTransformer: method, standardize": (stages.PowerTransformer(["price"], method="box-cox", standardize=False), {"rtol": 1e-9}),
    "QuantileTransformer: n_quantiles": (stages.QuantileTransformer(n_quantiles=20), {}),
    "QuantileTransformer: normal": (stages.QuantileTransformer(["amount", "count"], output_distribution="normal"), {}),
    "MissingIndicator": (stages.MissingIndicator(), {}),
    "MissingIndicator: all": (stages.MissingIndicator(["note", "price"], features="all"), {}),
    "GroupImputer: city": (stages.GroupImputer(["amount", "count", "flag"], by="city"), {}),
    "GroupImputer: flag, median": (stages.GroupImputer(["amount", "count"], by="flag", strategy="median"), {}),
    "GroupImputer: value, most_frequent": (stages.GroupImputer(["city", "count"], by="value", strategy="most_frequent"), {"targets": ["y"]}),
    "KNNImputer: n_neighbors": (stages.KNNImputer(["amount", "count", "price"], n_neighbors=3), {}),
    "KNNImputer: distance, max_donors": (stages.KNNImputer(weights="distance", max_donors=20), {"targets": ["y"]}),
    "FrequencyEncoder": (stages.FrequencyEncoder(), {}),
    "FrequencyEncoder: normalize": (stages.FrequencyEncoder(["city", "count"], normalize=False), {}),
    "RareCategories: min_frequency": (stages.RareCategories(min_frequency=0.2), {}),
    "Categorizer": (stages.Categorizer(), {}),
    "HashEncoder: n_features": (stages.HashEncoder(["city", "flag", "small"], n_features=8), {}),
    "FeatureHasher: n_features": (stages.FeatureHasher(["city", "flag", "amount", "count"], n_features=32), {}),
    "MultiHotEncoder": (stages.MultiHotEncoder(), {}),
    "KBinsDiscretizer": (stages.KBinsDiscretizer(), {}),
    "KBinsDiscretizer: n_bins, onehot, kmeans": (stages.KBinsDiscretizer(["amount", "price"], {"price": 3}, "onehot", "kmeans"), {}),
    "KBinsDiscretizer: linear": (stages.KBinsDiscretizer(quantile_method="linear"), {}),
    "KBinsDiscretizer: n_bins, onehot, uniform": (stages.KBinsDiscretizer(["amount", "count"], 3, "onehot", "uniform"), {}),
    "KBinsDiscretizer: edges": (stages.KBinsDiscretizer(["amount"], edges=[0, 40, 60]), {}),
    "TargetEncoder": (stages.TargetEncoder(), {"targets": ["y"], "rtol": 1e-9}),
    "TargetEncoder: smooth, cv": (stages.TargetEncoder(["city", "count"], smooth=10.0, cv=3), {"targets": ["price"], "rtol": 1e-9}),
    "TargetEncoder: classes": (stages.TargetEncoder(["city", "count"]), {"targets": ["value"], "rtol": 1e-9}),
    "TargetEncoder: city, cv, multiclass": (stages.TargetEncoder(["flag", "count"], target="city", target_type="multiclass", cv=2), {"rtol": 1e-9}),
    "TargetEncoder: binary": (stages.TargetEncoder(["value"], target_type="binary"), {"targets": ["y"], "rtol": 1e-9}),
    "PolynomialFeatures: degree": (stages.PolynomialFeatures(["amount", "count", "small"], 3), {}),
    "PolynomialFeatures: interaction_only": (stages.PolynomialFeatures(interaction_only=True), {"targets": ["y"]}),
    "SplineTransformer": (stages.SplineTransformer(), {}),
    "SplineTransformer: quantile, linear, zeros": (stages.SplineTransformer(["amount", "count"], 4, 2, "quantile", "linear", False, "zeros"), {"targets": ["y"]}),
    "SplineTransformer: knots, periodic": (stages.SplineTransformer(["amount"], knots=[20, 40, 60, 90], extrapolation="periodic"), {}),
    "SplineTransformer: degree, continue": (stages.SplineTransformer(["price", "small"], degree=1, extrapolation="continue"), {}),
    "SplineTransformer: degree, error": (stages.SplineTransformer(["amount"], degree=0, extrapolation="error"), {}),
    "Ratio: small": (stages.Ratio(["amount", "count"], per="small"), {}),
    "Expression: new, formula": (
        stages.Expression(
            output="new", formula=["if", ["==", ["col", "city"], "Oslo"], ["log", ["col", "price"]], ["col", "count"]]
        ),
        {},
    ),
    "Expression: amount, formula": (stages.Expression(output="amount", formula=["/", ["col", "amount"], 7]), {"targets": ["y"]}),
    "Concatenator": (stages.Concatenator(["amount", "count", "flag"]), {}),
    "FunctionTransformer: halve": (stages.FunctionTransformer(["amount"], "halve"), {}),
    "PCA: n_components": (stages.PCA(["amount", "price", "small"], n_components=2), {"rtol": 1e-7}),
    "PCA: n_components, whiten": (stages.PCA(["amount", "price", "small"], n_components=0.9, whiten=True), {"rtol": 1e-7}),
    "VarianceThreshold: threshold": (stages.VarianceThreshold(threshold=10.0), {"targets": ["y"]}),
    "CorrelationFilter: threshold": (stages.CorrelationFilter(threshold=0.1), {"targets": ["y"]}),
    "SelectKBest: k": (stages.SelectKBest(k=2), {"targets": ["y"], "rtol": 1e-9}),
    "SelectKBest: k, f_regression": (stages.SelectKBest(k=2, score="f_regression"), {"targets": ["price"], "rtol": 1e-9}),
    "DatetimeEncoder": (stages.DatetimeEncoder(), {}),
    "DatetimeEncoder: parts, cyclic, US, keep": (
        stages.DatetimeEncoder(
            parts=["quarter", "week", "weekday", "day_of_year", "minute", "is_weekend", "days"],
            cyclic=True,
            holidays="US",
            keep=True,
        ),
        {},
    ),
    "CheckMissing": (stages.CheckMissing(["price", "value"]), {}),
    "CheckMissing: warn": (stages.CheckMissing(action="warn"), {}),
    "CheckRange: low, warn": (stages.CheckRange(["amount", "price"], low=45, action="warn"), {}),
    "CheckRange": (stages.CheckRange(), {}),
    "CheckRange: low, missing": (stages.CheckRange(["amount", "count"], low=5, action="missing"), {}),
    "CheckCategories": (stages.CheckCategories(), {}),
    "CheckCategories: missing": (stages.CheckCategories(["city"], action="missing"), {}),
    "DropRows: where": (stages.DropRows(where=[">", ["col", "amount"], 50]), {"targets": ["y"]}),
    "Upsample": (stages.Upsample(), {"targets": ["y"]}),
    "SMOTE": (stages.SMOTE(["price", "small"]), {"targets": ["y"]}),
    "SMOTE: city, ratio, n_neighbors, max_donors, seed": (stages.SMOTE(by="city", ratio=0.7, n_neighbors=2, max_donors=5, seed=3), {}),
    "Downsample: value, ratio": (stages.Downsample(by="value", ratio=0.8), {"targets": ["y"]}),
}  # fmt: skip


OUTCOMES = Path(__file__).parent / "stage_outcomes.json"
"""What each case does with each odd table, as declared. To declare a new case, or another outcome: add what
`rayline.testing.stage_laws.outcomes` finds (`python -m tests.testing.test_stages` writes it), and read the difference."""

DECLARED: dict[str, dict[str, list[str]]] = json.loads(OUTCOMES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CASES)
def test_the_contract(name: str) -> None:
    stage, how = CASES[name]
    assert name in DECLARED, "no outcomes are declared for this case: see OUTCOMES"
    check_stage(stage, refuses=DECLARED[name], **how)


def test_every_stage_has_a_case() -> None:
    ours = {n for n in registry.stages() if registry.stage(n).__module__.startswith("rayline.")}
    assert {type(stage).__name__ for stage, _ in CASES.values()} >= ours
    assert all(name.partition(":")[0] == type(stage).__name__ for name, (stage, _) in CASES.items())
    assert set(DECLARED) == set(CASES), "outcomes are declared of a case that does not exist"


if __name__ == "__main__":
    logging.disable()  # stages that only warn
    found = {name: outcomes(stage, targets=how.get("targets", ())) for name, (stage, how) in CASES.items()}
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(found.items())]
    OUTCOMES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
