"""Fitted stages drop columns that a later training names as targets, as if the fit had known them.

Covers `preprocessing.without_columns` too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest

import rayline as rl
from rayline import stages, train
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler, Vectorizer

LABELS: dict[str, Any] = {"text": ["no", "yes"], "integers": [0, 1], "floats": [0.5, 2.5], "booleans": [False, True]}


def table(kind: str = "text", n: int = 60) -> pl.DataFrame:
    random = np.random.default_rng(0)
    late = random.random(n) < 0.5
    return pl.DataFrame(
        {
            "age": [None if random.random() < 0.1 else float(v) for v in random.normal(40, 5, n) + 9 * late],
            "size": random.integers(1, 9, n),
            "city": random.choice(["Oslo", "Rome"], n),
            "note": [" ".join(random.choice(["a", "late", "big", "plane"], 6)) for _ in range(n)],
            "labels": pl.Series([LABELS[kind][v] for v in late.astype(int)]),
            "weight": random.random(n) + 0.5,
        }
    )


def usual(**scaler: Any) -> train.Preprocessor:
    return train.Preprocessor(
        [
            ("impute", SimpleImputer()), ("inner", train.Preprocessor([("onehot", OneHotEncoder()), ("text", Vectorizer(n_features=64))])),
            ("scale", StandardScaler(**scaler)),
        ]
    )  # fmt: skip


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("kind", LABELS)
def test_a_fit_without_targets_trains(kind: str, saved: bool, tmp_path: Path) -> None:
    data = table(kind)
    fitted = usual().fit(data)
    if saved:
        fitted.save(tmp_path / "p.json")
        fitted = train.Preprocessor.load(tmp_path / "p.json")
    trainer = train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=4)
    result = train.fit(trainer, fitted, data, target_columns=["labels"], sample_weight="weight", verbose=False)
    told = usual()
    expected = train.fit(trainer, told, data, target_columns=["labels"], sample_weight="weight", verbose=False)
    assert result.inference_pipeline.preprocessor == expected.inference_pipeline.preprocessor
    rows = data.drop("labels", "weight")
    predicted = result.inference_pipeline.predict(rows)
    assert predicted.equals(expected.inference_pipeline.predict(rows))
    assert result.inference_pipeline.predict(rows.head(1).to_dicts()) == predicted.head(1).to_dicts()
    assert fitted.chain(result.model).predict(rows).equals(predicted)
    assert fitted.chain(trainer.fitted_model).predict(rows).equals(predicted)
    result.inference_pipeline.save(tmp_path / "x.rayline")
    assert rl.load(tmp_path / "x.rayline").predict(rows).equals(predicted)


@pytest.mark.ray
@pytest.mark.parametrize("kind", LABELS)
def test_a_fit_without_targets_trains_on_ray(kind: str, ray_session: Any, tmp_path: Path) -> None:
    data = table(kind)
    parts = [part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in data.iter_slices(25)]
    usual().fit(ray_session.data.from_arrow(parts)).save(tmp_path / "p.json")
    fitted = train.Preprocessor.load(tmp_path / "p.json")
    trainer = train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=4)
    result = train.fit(trainer, fitted, ray_session.data.from_arrow(parts), target_columns=["labels"], verbose=False)
    expected = train.fit(trainer, usual(), data, target_columns=["labels"], verbose=False)
    assert result.inference_pipeline.input_schema == expected.inference_pipeline.input_schema
    found = result.inference_pipeline.transform(ray_session.data.from_arrow([part.drop(["labels"]) for part in parts]))
    wanted = expected.inference_pipeline.transform(data.drop("labels")).sort("weight")
    assert found.to_pandas().sort_values("weight")["prediction"].to_list() == wanted["prediction"].to_list()


SEVERAL = [
    ("standardized", [("a", StandardScaler()), ("b", stages.PolynomialFeatures()), ("c", StandardScaler())]),
    (
        "derived",
        [("a", OneHotEncoder()), ("b", stages.MissingIndicator(features="all")), ("c", StandardScaler(cs.integer()))],
    ),
    ("selected", [("a", StandardScaler(cs.numeric())), ("b", stages.SelectColumns(cs.float()))]),
    ("vector", [("a", StandardScaler()), ("b", stages.Concatenator())]),
    (
        "filtered",
        [("a", stages.VarianceThreshold()), ("b", stages.DropRows(where=pl.col("age") > 45)), ("c", SimpleImputer())],
    ),
    ("rows of the target", [("rows", stages.DropRows(where=["==", ["col", "labels"], 0])), ("c", StandardScaler())]),
]


@pytest.mark.parametrize(("name", "chain"), SEVERAL)
def test_what_is_derived_from_a_target_goes_too(name: str, chain: list[Any]) -> None:
    for kind in ("text", "integers"):
        data = table(kind)
        if name == "rows of the target" and kind == "text":
            continue
        expected = train.Preprocessor(chain).fit(data, target_columns="labels")
        for fitted in (train.Preprocessor(chain).fit(data), _reloaded(train.Preprocessor(chain).fit(data))):
            found = fitted.without_targets(["labels"])
            assert found.output_schema == expected.output_schema
            assert found.transform_training(data).equals(expected.transform_training(data))
            assert found.transform(data.drop("labels")).equals(expected.transform(data.drop("labels")))


def _reloaded(fitted: train.Preprocessor) -> train.Preprocessor:
    return train.Preprocessor.from_json(json.loads(json.dumps(fitted.to_json())))


DEPENDS = [
    [("a", stages.PCA())],
    [("a", stages.KNNImputer())],
    [("a", stages.CorrelationFilter())],
    [("a", stages.Normalizer()), ("b", StandardScaler())],
    [("a", StandardScaler()), ("rows", stages.DropRows(where=pl.col("labels") > 0)), ("b", SimpleImputer())],
    [("a", stages.Expression(output="twice", formula=pl.col("labels") * 2))],
    [("a", stages.Ratio(["age"], per="labels"))],
    [("a", stages.GroupImputer(by="labels"))],
    [("a", OneHotEncoder(["city"])), ("b", OneHotEncoder(cs.by_name("labels"))), ("c", StandardScaler(["labels_0"]))],
    [("a", StandardScaler(["age", "labels"]))],
    [("a", stages.KBinsDiscretizer(["labels"]))],
]


@pytest.mark.parametrize("chain", DEPENDS, ids=lambda chain: " ".join(type(stage).__name__ for _, stage in chain))
def test_what_depends_on_a_target_is_refused(chain: list[Any]) -> None:
    data = table("integers").with_columns(
        pl.col("age").fill_null(1.0) if chain[0][1].__class__ is stages.PCA else "age"
    )
    fitted = train.Preprocessor(chain).fit(data)
    before = fitted.to_json()
    with pytest.raises(rl.SchemaError, match="'labels'") as caught:
        train.fit(train.XGBoostTrainer({}, num_boost_round=1), fitted, data, target_columns="labels", verbose=False)
    assert "Hint" in str(caught.value)
    assert fitted.to_json() == before


def test_a_stage_that_names_the_target_may_be_fitted_before() -> None:
    """Its inner folds leave out the target that it is told, so they do not depend on who names it."""
    data = table("integers")
    chain = [("codes", stages.TargetEncoder(["city"], target="labels"))]
    trainer = train.XGBoostTrainer({}, num_boost_round=2)
    before, unfitted = (
        train.fit(trainer, preprocessor, data, target_columns="labels", verbose=False)
        for preprocessor in (train.Preprocessor(chain).fit(data), train.Preprocessor(chain))
    )
    assert before.metrics == unfitted.metrics
    rows = data.drop("labels")
    assert before.inference_pipeline.transform(rows).equals(unfitted.inference_pipeline.transform(rows))


def test_a_saved_selector_is_no_list_of_names(tmp_path: Path) -> None:
    """What a selector chose was not named: a loaded preprocessor is fitted again without the target, as a search does."""
    data = table("integers")
    train.Preprocessor([("scale", StandardScaler(cs.numeric()))]).fit(data).save(tmp_path / "p.json")
    loaded = _reloaded(train.Preprocessor.load(tmp_path / "p.json"))
    again = loaded.clone()
    again.refuse_targets(["labels"])
    assert list(again.fit(data, target_columns="labels")["scale"].state["columns"]) == ["age", "size", "weight"]  # type: ignore[union-attr]
    named = train.Preprocessor([("scale", StandardScaler(["age", "labels"]))]).fit(data)
    with pytest.raises(rl.SchemaError, match="works on 'labels'"):
        _reloaded(named).clone().refuse_targets(["labels"])
