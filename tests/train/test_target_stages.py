"""Target stages on the whole path: what a model learns, what metrics measure, what predictions are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import mean_absolute_error, root_mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer as SkPower
from sklearn.preprocessing import StandardScaler as SkScaler

import rayline as rl
from rayline import train, tune
from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.core.stage import Stage
from rayline.core.target import Target
from rayline.stages import (
    Concatenator,
    DropRows,
    HashEncoder,
    LabelEncoder,
    Log,
    MinMaxScaler,
    OneHotEncoder,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
)
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.row_groups import CELL, TableGroups
from rayline.tune.tune_data import search_data
from tests import toy

N = 400


def table(seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    x, z = random.normal(size=N), random.normal(size=N)
    price = np.exp(1.5 * x - 0.5 * z + 4 + 0.1 * random.normal(size=N))
    return pl.DataFrame({"x": x, "z": z, "price": price, "miles": 3 * x + random.normal(size=N)})


ONE = table().drop("miles")


def preprocessor(*stages: Stage) -> train.Preprocessor:
    named = [(f"target{i}", stage) for i, stage in enumerate(stages)]
    return train.Preprocessor([("scale", StandardScaler(["x", "z"]))], target_stages=named)


def ridge() -> train.Trainer:
    return train.SklearnTrainer(Ridge())


@pytest.mark.parametrize(
    ("stages", "theirs"),
    [
        ([Log(offset=0)], {"func": np.log, "inverse_func": np.exp}),
        ([Log()], {"func": np.log1p, "inverse_func": np.expm1}),
        ([StandardScaler()], {"transformer": SkScaler()}),
        ([PowerTransformer(method="box-cox")], {"transformer": SkPower("box-cox")}),
        ([PowerTransformer()], {"transformer": SkPower()}),
        ([Log(offset=0), StandardScaler()], {"func": np.log, "inverse_func": np.exp}),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_as_scikit_learn(stages: list[Stage], theirs: dict[str, Any]) -> None:
    trainset, testset = ONE[:300], ONE[300:]
    # The last case standardises too: that does not change what a regression without a penalty predicts.
    estimator = LinearRegression() if len(stages) > 1 else Ridge()
    result = train.SklearnTrainer(estimator).fit(preprocessor(*stages), trainset, testset, "price", verbose=False)
    oracle = TransformedTargetRegressor(make_pipeline(SkScaler(), estimator), **theirs)
    oracle.fit(trainset.select("x", "z").to_numpy(), trainset["price"].to_numpy())
    expected = oracle.predict(testset.select("x", "z").to_numpy())
    found = result.inference_pipeline.predict(testset)["prediction"].to_numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    truth = testset["price"].to_numpy()
    assert result.metrics["test-rmse"] == pytest.approx(root_mean_squared_error(truth, found), rel=1e-12)
    assert result.metrics["test-mae"] == pytest.approx(mean_absolute_error(truth, found), rel=1e-12)
    assert result.metrics["train-rmse"] < trainset["price"].std()  # type: ignore[operator]


@pytest.mark.parametrize(
    "stages", [[Log()], [QuantileTransformer(n_quantiles=40), MinMaxScaler()], [PowerTransformer()]]
)
def test_one_answer_everywhere(stages: list[Stage], tmp_path: Path) -> None:
    result = train.XGBoostTrainer({"nthread": 1}, num_boost_round=15).fit(
        preprocessor(*stages), ONE, target_columns="price", verbose=False
    )
    pipeline = result.inference_pipeline
    expected = pipeline.predict(ONE)["prediction"].to_list()
    assert [pipeline.predict([row])[0]["prediction"] for row in ONE.head(60).to_dicts()] == expected[:60]
    assert pipeline.transform(ONE)["prediction"].to_list() == expected
    pipeline.save(tmp_path / "p.rayline")
    again = rl.load(tmp_path / "p.rayline")
    assert again.predict(ONE)["prediction"].to_list() == expected
    assert again.target.to_json() == pipeline.target.to_json()
    assert result.preprocessor.chain(result.fitted_model).predict(ONE)["prediction"].to_list() == expected
    loaded = train.Preprocessor.from_json(result.preprocessor.to_json())
    assert loaded == result.preprocessor
    assert loaded.chain(result.fitted_model).predict(ONE)["prediction"].to_list() == expected
    assert np.corrcoef(np.log(expected), np.log(ONE["price"]))[0, 1] > 0.8


def test_served_as_in_process() -> None:
    from rayline.serve.app import create_app
    from tests.serve.conftest import Client

    result = train.XGBoostTrainer({"nthread": 1}, num_boost_round=5).fit(
        preprocessor(Log()), ONE, target_columns="price", verbose=False
    )
    rows = ONE.select("x", "z").head(7).to_dicts()
    client = Client(create_app(result.inference_pipeline))
    try:
        served = client.post("/predict", json=rows).json()["predictions"]
    finally:
        client.close()
    assert served == [row["prediction"] for row in result.inference_pipeline.predict(rows)]


def test_several_targets() -> None:
    data = table()
    p = train.Preprocessor(
        [("scale", StandardScaler())],
        target_stages=[("log", Log(["price"], offset=0)), ("scales", StandardScaler())],
    )
    result = train.SklearnTrainer(LinearRegression()).fit(p, data, data, ["price", "miles"], verbose=False)
    found = result.inference_pipeline.predict(data)
    x = data.select("x", "z").to_numpy()
    price = np.exp(LinearRegression().fit(x, np.log(data["price"])).predict(x))
    miles = LinearRegression().fit(x, data["miles"]).predict(x)
    np.testing.assert_allclose(found["prediction_price"], price, rtol=1e-9)
    np.testing.assert_allclose(found["prediction_miles"], miles, rtol=1e-9, atol=1e-9)
    mae = np.mean([mean_absolute_error(data["price"], price), mean_absolute_error(data["miles"], miles)])
    assert result.metrics["test-mae"] == pytest.approx(mae)
    row = result.inference_pipeline.predict(data.head(1).to_dicts())[0]
    assert row == {name: found[name][0] for name in found.columns}


def test_one_scan_and_the_same_features() -> None:
    p = preprocessor(PowerTransformer()).fit(ONE, target_columns=["price"])
    assert p.scans == 1
    plain = train.Preprocessor([("scale", StandardScaler(["x", "z"]))]).fit(ONE, target_columns=["price"])
    assert p.transform(ONE).equals(plain.transform(ONE))  # targets stay as they are
    assert p.output_schema == plain.output_schema
    assert "target_stages=[('target0', PowerTransformer" in repr(p)
    folds = p.fit_folds(ONE, 3, target_columns=["price"])
    assert len({repr(fold["target0"].state) for fold in folds}) == 3  # type: ignore[union-attr]
    assert all(fold.scans == 1 for fold in folds)


def test_rows_that_the_stages_drop_do_not_count() -> None:
    data = ONE.with_columns(price=pl.when(pl.col("x") > 1).then(-1.0).otherwise("price"))
    p = train.Preprocessor(
        [("positive", DropRows(where=["<=", ["col", "price"], 0]))], target_stages=[("log", Log(offset=0))]
    )
    result = ridge().fit(p, data, target_columns="price", verbose=False)
    expected = Ridge().fit(
        (kept := data.filter(pl.col("price") > 0)).select("x", "z").to_numpy(), np.log(kept["price"].to_numpy())
    )
    np.testing.assert_allclose(result.fitted_model.coef_, expected.coef_, rtol=1e-9)


@pytest.mark.parametrize("fitted", [False, True])
def test_what_a_stage_cannot_take_is_refused_before_the_training(fitted: bool) -> None:
    bad = ONE.with_columns(price=pl.when(pl.int_range(pl.len()) < 3).then(-1.0).otherwise("price"))
    for p, words in [
        (preprocessor(Log(offset=0)), r"column 'price' has 3 rows|'price' has 3 values that target stage 'target0'"),
        (preprocessor(PowerTransformer(method="box-cox")), "'price' has 3 (rows|values)"),
    ]:
        if fitted:
            p.fit(ONE, target_columns=["price"])
        with pytest.raises(DataError, match=words):
            ridge().fit(p, bad, target_columns="price", verbose=False)
        if not fitted:
            with pytest.raises(DataError, match="'price' has 3 values that target stage 'target0'"):
                ridge().fit(p, ONE, bad, target_columns="price", verbose=False)


def test_wrong_target_stages_are_refused() -> None:
    refused: list[tuple[Stage, type[Exception], str]] = [
        (OneHotEncoder(), SchemaError, "convert .* to"),
        (HashEncoder(), SchemaError, "wrong type"),
        (Concatenator(), SchemaError, "one number for each target"),
        (Log(["speed"]), SchemaError, r"target stage 'target0' \(Log\).*'speed'"),
        (LabelEncoder(), DataError, "converts the target to classes"),
    ]
    for stage, error, words in refused:
        with pytest.raises(error, match=words):
            train.SklearnTrainer(LinearRegression()).fit(
                preprocessor(stage), ONE.head(9), target_columns="price", verbose=False
            )
    with pytest.raises(ParameterError, match=r"target stages \(target0\) and no target"):
        preprocessor(Log()).fit(ONE)
    with pytest.raises(ParameterError, match="target_stages"):
        train.Preprocessor([("log", Log())], target_stages=[("log", Log())])
    with pytest.raises(ParameterError, match="outermost"):
        train.Preprocessor([("inner", preprocessor(Log()))])
    classes = ONE.with_columns(price=pl.col("x") > 0)
    with pytest.raises(DataError, match=r"'target0' \(Log\) converts classes to numbers"):
        train.XGBoostTrainer({"objective": "binary:logistic"}).fit(
            preprocessor(Log()), classes, target_columns="price", verbose=False
        )
    fitted = preprocessor(Log()).fit(ONE, target_columns=["price"])
    with pytest.raises(SchemaError, match="fitted on 'price', which is not a target now"):
        ridge().fit(fitted, ONE.rename({"price": "cost"}), target_columns="cost", verbose=False)


@pytest.mark.parametrize("given", [None, ["yes", "no"], ["perhaps", "no", "yes"]])
def test_label_encoder_sets_the_classes(given: list[str] | None, tmp_path: Path) -> None:
    data = toy.table()
    p = train.Preprocessor([("onehot", OneHotEncoder())], target_stages=[("labels", LabelEncoder(classes=given))])
    trainer = train.XGBoostTrainer({"nthread": 1, "min_child_weight": 0}, num_boost_round=10)
    result = trainer.fit(p, data, data, "late", verbose=False)
    assert result.model.classes == (given or ["no", "yes"])
    plain = trainer.replace({}).fit(
        train.Preprocessor([("onehot", OneHotEncoder())]), data, data, "late", verbose=False
    )
    found = result.inference_pipeline.predict_proba(data)
    assert found.columns == [f"probability_{c}" for c in (given or ["no", "yes"])]
    expected = plain.inference_pipeline.predict_proba(data)
    tolerance = 1e-5 if given is None or len(given) == 2 else 0.2
    np.testing.assert_allclose(found["probability_yes"], expected["probability_yes"], atol=tolerance)
    if given is None or len(given) == 2:
        assert result.metrics["test-roc_auc"] == pytest.approx(plain.metrics["test-roc_auc"])
    result.inference_pipeline.save(tmp_path / "l.rayline")
    assert rl.load(tmp_path / "l.rayline").classes == result.model.classes


def test_label_encoder_makes_classes_of_numbers_and_refuses_other_labels() -> None:
    data = toy.table()
    p = train.Preprocessor(
        [("onehot", OneHotEncoder())], target_stages=[("labels", LabelEncoder(classes=[4, 3, 2, 1, 0]))]
    )
    result = train.XGBoostTrainer({"nthread": 1}, num_boost_round=2).fit(p, data, target_columns="size", verbose=False)
    assert result.model.classes == [4, 3, 2, 1, 0]
    assert result.inference_pipeline.predict(data)["prediction"].dtype == pl.Int64
    few = train.Preprocessor(target_stages=[("labels", LabelEncoder(classes=[0, 1]))])
    with pytest.raises(DataError, match="'size' has 24 rows whose label is not among the classes"):
        train.XGBoostTrainer({}).fit(few, data.select("age", "size"), target_columns="size", verbose=False)


def test_target_is_data() -> None:
    p = preprocessor(Log(), StandardScaler())
    result = ridge().fit(p, ONE, target_columns="price", verbose=False)
    target = result.model.target
    assert Target.from_json(target.to_json()) == target
    scores = np.array([0.1, np.nan, 2.0])
    values = target.values(scores)
    assert math.isnan(values[1])
    assert target.predictions(scores)["prediction"].to_list() == [values[0], None, values[2]]
    assert [target.row_prediction(scores[i : i + 1])["prediction"] for i in range(3)] == [values[0], None, values[2]]
    np.testing.assert_allclose(target.values(target.encode(ONE)), ONE["price"].to_numpy(), rtol=1e-12)
    assert target.values(np.empty(0)).shape == (0,)


def test_tuning_measures_on_the_labels_scale_and_fits_each_slice(tmp_path: Path) -> None:
    from rayline.tune.drivers import prepare
    from rayline.tune.evaluate import FoldEvaluator

    found = prepare(SearchRequest(ridge(), search_data({"train_pipeline": preprocessor(PowerTransformer()), "train_dataset": ONE, "cv": 4, "target_columns": "price"}), {"preprocessor": {"target0": {"method": tune.choice(["box-cox", "yeo-johnson"])}}}, SearchOptions(metric="rmse", num_samples=1)))  # fmt: skip
    evaluator = FoldEvaluator(found.problem, found.groups)
    for method in ("box-cox", "yeo-johnson", "box-cox"):
        for fold, (train_rows, test_rows) in enumerate(_slices(found)):
            candidate = found.problem.candidate({"preprocessor": {"target0": {"method": method}}})
            evaluation = evaluator(candidate, fold)
            alone = ridge().fit(
                preprocessor(PowerTransformer(method=method)), train_rows, test_rows, "price", verbose=False
            )
            assert evaluation.score.score == pytest.approx(alone.metrics["test-rmse"], rel=1e-6)
            expected = alone.inference_pipeline.predict(test_rows)["prediction"].to_numpy()
            np.testing.assert_allclose(evaluation.scores, expected, rtol=1e-6)
    with pytest.raises(ParameterError, match="measured by the framework"):
        prepare(SearchRequest(train.XGBoostTrainer({}), search_data({"train_pipeline": preprocessor(Log()), "train_dataset": ONE, "cv": 2, "target_columns": "price"}), {}, SearchOptions(metric="mphe", num_samples=1)))  # fmt: skip


def _slices(found: Any) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    made, rows = [], pl.concat(found.groups.frames())
    table = rows.drop(cs.starts_with(CELL))
    for split, _, fold in found.problem.folds:
        cells = rows[f"{CELL}{split}"]
        made.append((table.filter(cells.is_in(fold.train)), table.filter(cells.is_in(fold.test))))
    return made


def test_held_out_labels_leave_no_trace() -> None:
    """The canary: labels of held-out rows set to 1e30 change neither what the stages learn nor the model."""
    from rayline.tune.drivers import prepare
    from rayline.tune.evaluate import FoldEvaluator

    config = {
        "train_pipeline": preprocessor(PowerTransformer()),
        "train_dataset": ONE,
        "cv": 3,
        "target_columns": "price",
    }
    found = prepare(SearchRequest(ridge(), search_data(config), {}, SearchOptions(metric="rmse", num_samples=1)))
    rows = pl.concat(found.groups.frames())
    for fold, (split, _, cells) in enumerate(found.problem.folds):
        held = rows[f"{CELL}{split}"].is_in(cells.test)
        poisoned = rows.with_columns(pl.when(held).then(1e30).otherwise("price").alias("price"))
        clean, dirty = (
            FoldEvaluator(found.problem, TableGroups([data]).summarised())(found.problem.candidate({}), fold).scores
            for data in (rows, poisoned)
        )
        assert clean.tolist() == dirty.tolist()


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray(ray_session: Any) -> None:
    def dataset(data: pl.DataFrame) -> Any:
        return ray_session.data.from_arrow(
            [part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in data.iter_slices(120)]
        )

    def fit(*data: Any, **how: Any) -> train.Result:
        trainer = train.XGBoostTrainer({"nthread": 1}, num_boost_round=10, seed=1, **how)
        return trainer.fit(preprocessor(Log(), StandardScaler()), *data, target_columns="price", verbose=False)  # type: ignore[misc]

    expected = fit(ONE[:300], ONE[300:])
    on_ray = fit(dataset(ONE[:300]), dataset(ONE[300:]))
    assert on_ray.metrics == pytest.approx(expected.metrics, rel=1e-5)
    workers = fit(dataset(ONE[:300]), dataset(ONE[300:]), num_workers=1)
    assert workers.metrics == pytest.approx(expected.metrics, rel=1e-5)
    assert (
        workers.history["test-rmse"][-1] < 1.0 < workers.metrics["test-rmse"]
    )  # the framework measures what it learns
    predicted = workers.inference_pipeline.transform(dataset(ONE)).to_pandas().sort_values("x")["prediction"]
    assert predicted.to_list() == workers.inference_pipeline.predict(ONE.sort("x"))["prediction"].to_list()
    bad = ONE.with_columns(price=pl.col("price") - 1000)
    with pytest.raises(DataError, match=r"column 'price' has [0-9]+ rows whose logarithm"):
        fit(dataset(bad), num_workers=1)


@pytest.mark.ray
@pytest.mark.slow
def test_tune_run(ray_session: Any) -> None:
    analysis = tune.run(
        ridge(),
        data_config={"train_pipeline": preprocessor(Log()), "train_dataset": ONE, "cv": 3, "target_columns": "price"},
        config={
            "alpha": tune.grid_search([0.1, 10.0]),
            "preprocessor": {"target0": {"offset": tune.grid_search([0.0, 1.0])}},
        },
        metric="rmse",
        verbose=False,
    )
    best = analysis.best_pipeline.chain(analysis.best_model).predict(ONE)["prediction"]
    assert np.corrcoef(np.log(best), np.log(ONE["price"]))[0, 1] > 0.95
    oof = analysis.oof
    truth, held_out = oof["price"], oof["prediction"]
    assert analysis.best_score == pytest.approx(root_mean_squared_error(truth, held_out), rel=0.35)
    mixed = analysis.ensemble(top=2).predict(ONE)["prediction"]
    assert np.corrcoef(np.log(mixed), np.log(ONE["price"]))[0, 1] > 0.95


@pytest.mark.ray
@pytest.mark.slow
def test_deployed_on_ray_serve(ray_session: Any) -> None:
    import httpx
    from ray import serve as ray_serve

    from rayline import serve

    result = train.XGBoostTrainer({"nthread": 1}, num_boost_round=5).fit(
        preprocessor(PowerTransformer()), ONE, target_columns="price", verbose=False
    )
    deployment = serve.to_deployment(result.inference_pipeline, name="price", ray_actor_options={"num_cpus": 0.5})
    try:
        deployment.deploy()
        for n in (1, 7, 300):
            rows = ONE.select("x", "z").head(n)
            answer = httpx.post(f"{deployment.url}/predict", json=rows.to_dicts(), timeout=60).json()
            assert answer["predictions"] == result.inference_pipeline.predict(rows)["prediction"].to_list()
    finally:
        ray_serve.shutdown()
