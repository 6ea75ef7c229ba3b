"""Contributions against the frameworks called directly, brute force, and the laws that they keep.

Covers `evaluate.explain_sampling` too.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, QuantileRegressor, Ridge
from sklearn.svm import SVC, LinearSVC

import rayline as rl
from rayline import train
from rayline.evaluate import explain_sampling
from rayline.stages import PCA, CountVectorizer, OneHotEncoder, SimpleImputer, StandardScaler
from tests import toy


def table(n: int = 300, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3))
    city = random.choice(["Oslo", "Rome", "Bern"], n)
    lift = (city == "Rome") * 1.0
    return pl.DataFrame(
        {
            "a": x[:, 0],
            "b": np.where(random.random(n) < 0.1, np.nan, x[:, 1]),
            "c": x[:, 2],
            "city": city,
            "words": random.choice(["red green", "green blue blue", "red"], n),
            "y": 2 * x[:, 0] + lift + random.normal(size=n),
            "kind": random.choice(["p", "q", "r"], n, p=[0.5, 0.3, 0.2]),
            "late": np.where(x[:, 0] + lift + random.normal(size=n) > 0, "yes", "no"),
            "early": np.where(x[:, 2] + random.normal(size=n) > 0, "yes", "no"),
        }
    ).with_columns(pl.col("b").fill_nan(None))


COLUMNS = ["a", "b", "c", "city", "words"]


def stages(*, text: bool = True) -> train.Preprocessor:
    parts: list[Any] = [
        ("impute", SimpleImputer(["b"])),
        ("scale", StandardScaler(["a", "b"])),
        ("onehot", OneHotEncoder(["city"])),
    ]
    return train.Preprocessor(
        [*parts, ("text", CountVectorizer(["words"])) if text else ("drop", rl.stages.DropColumns(["words"]))]
    )


def fitted(trainer: Any, *targets: str, text: bool = True, preprocessor: Any = None) -> rl.InferencePipeline:
    rows = table().select(*COLUMNS, *targets)
    own = stages(text=text) if preprocessor is None else preprocessor
    return train.fit(trainer, own, rows, None, list(targets), verbose=False).inference_pipeline


CASES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "xgboost": (train.XGBoostTrainer({"max_depth": 3, "nthread": 1}, num_boost_round=20), ("late",)),
    "xgboost regression": (train.XGBoostTrainer({"max_depth": 3, "nthread": 1}, num_boost_round=20), ("y",)),
    "xgboost multiclass": (train.XGBoostTrainer({"max_depth": 3, "nthread": 1}, num_boost_round=10), ("kind",)),
    "xgboost targets": (train.XGBoostTrainer({"max_depth": 3, "nthread": 1}, num_boost_round=10), ("late", "early")),
    "xgboost linear": (train.XGBoostTrainer({"booster": "gblinear", "nthread": 1}, num_boost_round=10), ("y",)),
    "xgboost dart": (train.XGBoostTrainer({"booster": "dart", "nthread": 1}, num_boost_round=10), ("y",)),
    "xgboost vectors": (train.XGBoostTrainer({"multi_strategy": "multi_output_tree", "nthread": 1}, num_boost_round=3), ("late", "early")),
    "lightgbm": (train.LightGBMTrainer({"verbose": -1, "num_threads": 1}, num_boost_round=20), ("late",)),
    "lightgbm multiclass": (train.LightGBMTrainer({"verbose": -1, "num_threads": 1}, num_boost_round=10), ("kind",)),
    "lightgbm linear": (train.LightGBMTrainer({"verbose": -1, "num_threads": 1, "linear_tree": True}, num_boost_round=3), ("y",)),
    "catboost": (train.CatBoostTrainer({"iterations": 20, "thread_count": 1}), ("late",)),
    "catboost multiclass": (train.CatBoostTrainer({"iterations": 10, "thread_count": 1}), ("kind",)),
    "logistic": (train.SklearnTrainer(LogisticRegression()), ("late",)),
    "logistic multiclass": (train.SklearnTrainer(LogisticRegression()), ("kind",)),
    "ridge": (train.SklearnTrainer(Ridge()), ("y",)),
    "ridge targets": (train.SklearnTrainer(Ridge()), ("y", "c2")),
    "svc linear": (train.SklearnTrainer(LinearSVC()), ("late",)),
    "forest": (train.SklearnTrainer(RandomForestClassifier(5, random_state=0)), ("late",)),
    "forest regression": (train.SklearnTrainer(RandomForestRegressor(5, random_state=0)), ("y",)),
    "svc": (train.SklearnTrainer(SVC()), ("kind",)),
    "least squares": (train.Trainer("least-squares"), ("y",)),
}  # fmt: skip
assert toy.LeastSquares  # type: ignore[truthy-function]  # imported for its registration


@pytest.mark.parametrize("case", CASES)
def test_contributions_add_up_to_the_score(case: str) -> None:
    trainer, targets = CASES[case]
    fit_on = table().with_columns(c2=pl.col("y") - pl.col("c"))
    preprocessor = stages(text=case not in ("lightgbm linear", "least squares"))
    pipeline = train.fit(
        trainer, preprocessor, fit_on.select(*COLUMNS, *targets), None, list(targets), verbose=False
    ).inference_pipeline
    rows = table(20, seed=1)
    made = pipeline.explain(rows)
    for suffix in [f"_{t}" for t in targets] if len(targets) > 1 else [""]:
        total = made.select(pl.sum_horizontal(f"{c}{suffix}" for c in [*COLUMNS, "base_value"])).to_series()
        np.testing.assert_allclose(total, made[f"score{suffix}"], atol=1e-6, rtol=0)
        assert made.select(pl.col("a" + suffix).abs().sum()).item() > 0
    assert made.equals(pl.concat([pipeline.explain(rows.head(7)), pipeline.explain(rows.tail(13))]))
    assert pl.DataFrame(pipeline.explain(rows.to_dicts()[:2])).equals(made.head(2))
    if case in SCORES:
        np.testing.assert_allclose(made["score"], SCORES[case](pipeline, rows), atol=2e-6, rtol=2e-6)


def logit(p: Any) -> Any:
    return np.log(p / (1 - p))


def probability(pipeline: rl.InferencePipeline, rows: pl.DataFrame) -> Any:
    return pipeline.predict_proba(rows)["probability_yes"].to_numpy()


SCORES: dict[str, Any] = {
    **dict.fromkeys(["xgboost", "lightgbm", "catboost", "logistic"], lambda p, r: logit(probability(p, r))),
    **dict.fromkeys(["xgboost regression", "xgboost linear", "xgboost dart", "ridge", "lightgbm linear", "forest regression", "least squares"],
                    lambda p, r: p.predict(r)["prediction"].to_numpy()),
    "forest": probability,
}  # fmt: skip


def test_several_classes_explain_the_predicted_one() -> None:
    pipeline = fitted(CASES["xgboost multiclass"][0], "kind")
    rows = table(40, seed=1)
    made = pipeline.explain(rows)
    assert made.columns == [*COLUMNS, "base_value", "score", "class"]
    assert made["class"].equals(pipeline.predict(rows)["prediction"].alias("class"))
    scores = np.stack([pipeline.explain(rows, of=c)["score"].to_numpy() for c in "pqr"], axis=1)
    np.testing.assert_array_equal(scores.max(axis=1), made["score"])
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, pipeline.predict_proba(rows).to_numpy(), atol=1e-5)


@pytest.mark.parametrize("case", ["xgboost", "forest"])
def test_the_first_of_two_classes_is_the_other_side(case: str) -> None:
    pipeline, rows = fitted(CASES[case][0], "late"), table(20, seed=1)
    yes, no = pipeline.explain(rows), pipeline.explain(rows, of="no")
    np.testing.assert_allclose(yes.select(COLUMNS).to_numpy(), -no.select(COLUMNS).to_numpy())
    np.testing.assert_allclose(yes["score"] + no["score"], 0.0 if case == "xgboost" else 1.0, atol=1e-12)
    total = no.select(pl.sum_horizontal([*COLUMNS, "base_value"])).to_series()
    np.testing.assert_allclose(total, no["score"], atol=1e-6)


def test_trees_are_explained_as_the_framework_does() -> None:
    import xgboost

    pipeline = fitted(CASES["xgboost"][0], "late", text=False)
    rows = table(30, seed=1)
    features = pipeline.preprocessor.transform(rows).select(pipeline.model.feature_names)  # type: ignore[union-attr]
    data = xgboost.DMatrix(features.to_numpy(), feature_names=pipeline.model.native.feature_names)
    found = pipeline.model.native.predict(data, pred_contribs=True)
    made = pipeline.explain(rows)
    own = {name: found[:, i] for i, name in enumerate(features.columns)}
    np.testing.assert_array_equal(made["a"], own["a"].astype(float))
    cities = sum(own[n].astype(float) for n in features.columns if n.startswith("city"))
    np.testing.assert_allclose(made["city"], cities, atol=1e-12)


@pytest.mark.parametrize("framework", ["xgboost", "sklearn"])
def test_a_quantile_is_chosen(framework: str) -> None:
    if framework == "xgboost":
        trainer: Any = train.XGBoostTrainer(
            {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.5, 0.9], "max_depth": 2}, num_boost_round=8
        )
    else:
        trainer = train.SklearnTrainer(QuantileRegressor(alpha=0.0), quantile_alpha=[0.1, 0.5, 0.9])
    rows = table(60).select("a", "c", "y")
    pipeline = trainer.fit(None, rows, target_columns=["y"], verbose=False).inference_pipeline
    predicted = pipeline.predict(rows)
    for of, name in ((None, "prediction_0.5"), (0.1, "prediction_0.1"), (0.9, "prediction_0.9")):
        found = pipeline.explain(rows, of=of)
        assert found["score"].to_numpy() == pytest.approx(predicted[name].to_numpy(), abs=1e-4)
        total = found["base_value"] + found["a"] + found["c"]
        assert total.to_numpy() == pytest.approx(found["score"].to_numpy(), abs=1e-4)
    with pytest.raises(rl.ParameterError, match="one of the quantiles"):
        pipeline.explain(rows, of=0.3)


def test_linear_models_are_compared_with_the_mean_of_the_background() -> None:
    pipeline, rows = fitted(train.SklearnTrainer(Ridge()), "y", text=False), table(30, seed=1)
    background = table(50, seed=2)
    made = pipeline.explain(rows, background=background)
    names = pipeline.model.feature_names
    x, usual = (pipeline.preprocessor.transform(t).select(names) for t in (rows, background))  # type: ignore[union-attr]
    weights = dict(zip(names, pipeline.model.native.coef_.ravel(), strict=True))
    np.testing.assert_allclose(made["a"], weights["a"] * (x["a"] - usual["a"].mean()), atol=1e-12)
    usual_prediction: Any = pipeline.predict(background)["prediction"].mean()
    np.testing.assert_allclose(made["base_value"], usual_prediction)


def test_a_component_of_several_columns_is_shared() -> None:
    preprocessor = train.Preprocessor(
        [("drop", rl.stages.DropColumns(["city", "words"])), ("impute", SimpleImputer()), ("pca", PCA(n_components=2))]
    )
    pipeline, rows = fitted(train.SklearnTrainer(Ridge()), "y", preprocessor=preprocessor), table(10, seed=1)
    made = pipeline.explain(rows)
    np.testing.assert_allclose(made["a"], made["b"])
    np.testing.assert_allclose(made["a"], made["c"])
    np.testing.assert_allclose(made.select(pl.sum_horizontal([*COLUMNS, "base_value"])).to_series(), made["score"])


@pytest.mark.parametrize("n", [1, 3, 5])
def test_all_coalitions_are_shapleys_formula(n: int) -> None:
    random = np.random.default_rng(n)
    worths = {own: random.normal() for size in range(n + 1) for own in itertools.combinations(range(n), size)}
    asked = explain_sampling.coalitions(n, 0)
    found = asked.weights @ [worths[tuple(np.flatnonzero(mask))] for mask in asked.masks]
    expected = np.zeros(n)
    for order in itertools.permutations(range(n)):
        for i, column in enumerate(order):
            before = tuple(sorted(order[:i]))
            expected[column] += worths[tuple(sorted((*before, column)))] - worths[before]
    np.testing.assert_allclose(found, expected / math.factorial(n))


def test_permutations_of_many_columns_add_up_and_come_near() -> None:
    random = np.random.default_rng(0)
    weights, pairs = random.normal(size=12), random.normal(size=12)

    def predict(frame: pl.DataFrame) -> Any:
        x = frame.to_numpy()
        return (x @ weights + (x[:, ::2] * x[:, 1::2]) @ pairs[:6])[:, None]

    names = [f"c{i}" for i in range(12)]
    rows, background = (pl.DataFrame(random.normal(size=(n, 12)), schema=names) for n in (5, 8))
    values, base = explain_sampling.shapley_values(predict, rows, background, explain_sampling.coalitions(12, 0))
    np.testing.assert_allclose(values.sum(axis=2) + base, predict(rows), atol=1e-12)
    # Shapley values of x_i x_j against background rows, in closed form; forward and backward permutations give pairs exactly.
    x, b = rows.to_numpy(), background.to_numpy()
    expected = weights * (x - b.mean(axis=0))
    for k in range(6):
        i, j = 2 * k, 2 * k + 1
        own = pairs[k] * (x[:, None, [i, j]] - b[None, :, [i, j]])
        other = (x[:, None, [j, i]] + b[None, :, [j, i]]) / 2
        expected[:, [i, j]] += (own * other).mean(axis=1)
    np.testing.assert_allclose(values[:, 0], expected, atol=1e-9)


def test_a_duplicated_column_shares_the_importance() -> None:
    rows = table().select("a", "c", "y").with_columns(again=pl.col("a"))
    for estimator in (Ridge(), RandomForestRegressor(20, max_features=1, random_state=0)):
        pipeline = train.fit(train.SklearnTrainer(estimator), None, rows, None, ["y"], verbose=False).inference_pipeline
        found = pipeline.importance("shap", rows=rows.head(50), background=rows.tail(20))
        assert found is not None
        alone = train.fit(
            train.SklearnTrainer(estimator), None, rows.drop("again"), None, ["y"], verbose=False
        ).inference_pipeline
        whole = alone.importance("shap", rows=rows.head(50), background=rows.tail(20))
        assert whole is not None
        assert found["a"] == pytest.approx(found["again"], rel=0.3)
        assert found["a"] + found["again"] == pytest.approx(whole["a"], rel=0.2)


def test_the_type_of_table_columns_to_keep_and_names() -> None:
    pipeline, rows = fitted(CASES["xgboost"][0], "late"), table(6, seed=1)
    expected = pipeline.explain(rows)
    assert pipeline.explain(rows.lazy()).collect().equals(expected)
    assert pl.from_pandas(pipeline.explain(rows.to_pandas())).equals(expected)
    assert pl.DataFrame(pipeline.explain(rows.to_arrow())).equals(expected)
    kept = pipeline.explain(rows, keep_columns=["late"], prefix="why_")
    assert kept.columns == ["late", *(f"why_{n}" for n in expected.columns)]
    assert pipeline.explain(rows, keep_columns="late", prefix="why_").equals(kept)
    assert pipeline.explain(rows, keep_columns=None).equals(expected)
    assert pipeline.explain(rows.head(0)).schema == expected.schema
    with pytest.raises(rl.SchemaError, match="prefix="):
        pipeline.explain(rows, keep_columns=["a"])


def test_postprocessing_does_not_change_the_explanation() -> None:
    from rayline.postprocess import Calibrate, Threshold

    pipeline, rows = fitted(CASES["xgboost"][0], "late"), table(50, seed=1)
    made = pipeline.calibrated([Calibrate("sigmoid"), Threshold(0.9)], table(100, seed=2))
    assert made.explain(rows).equals(pipeline.explain(rows))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"of": "maybe"}, rl.ParameterError, "of has a wrong value"),
        ({"background": pl.DataFrame({"a": [1.0]})}, rl.SchemaError, "background"),
        ({"background": table(0)}, rl.ParameterError, "at least one row"),
        ({"keep_columns": ["nothing"]}, rl.SchemaError, "keep_columns"),
        ({"keep_columns": 5}, rl.ParameterError, "names of columns"),
        ({"seed": -1}, rl.ParameterError, "seed"),
        ({"off": 1}, rl.ParameterError, "unknown argument"),
    ],
)
def test_wrong_use_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    pipeline = fitted(CASES["xgboost"][0], "late")
    with pytest.raises(error, match=words):
        pipeline.explain(table(5), **options)
    with pytest.raises(rl.SchemaError, match="'a'"):
        pipeline.explain(table(5).drop("a"))


@pytest.mark.ray
def test_a_dataset_is_explained_like_a_table(ray_session: None) -> None:
    from rayline import data
    from rayline.core import registry

    rows = table(60, seed=1)
    ds = data.from_polars(rows).repartition(3)
    for case in ("forest", "xgboost"):
        pipeline = fitted(CASES[case][0], "late")
        found = registry.engine("ray").collect(pipeline.explain(ds))
        expected = pipeline.explain(rows)
        assert found.sort("a", "score").equals(expected.sort("a", "score"))
    shap = pipeline.importance("shap", rows=ds)
    assert shap == pytest.approx(pipeline.importance("shap", rows=rows), rel=1e-12)
    dependence = pipeline.partial_dependence(ds, "a", grid=4)
    assert dependence.to_numpy() == pytest.approx(pipeline.partial_dependence(rows, "a", grid=4).to_numpy(), rel=1e-12)
