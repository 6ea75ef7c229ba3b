"""What the three libraries of boosted trees have in common, each against the library called directly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.special import expit, softmax

import rayline as rl
from rayline import device, train, tune
from rayline.core.errors import DataError, ParameterError, ResourceError, TrainingError
from rayline.core.scores import has_probabilities
from rayline.stages import OneHotEncoder, StandardScaler

catboost = pytest.importorskip("catboost", reason="CatBoost is not installed (pip install 'rayline[catboost]')")
lightgbm = pytest.importorskip("lightgbm")
xgboost = pytest.importorskip("xgboost")

N, ROUNDS = 300, 20
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(N, 3)).astype(np.float32)
NUMBER = X[:, 0] * X[:, 1] + X[:, 2] + RANDOM.normal(size=N) * 0.1
POSITIVE = np.exp(NUMBER) + 0.5
TWO, THREE = NUMBER > 0.2, np.digitize(NUMBER, [-0.7, 0.7])
NAMES = ["a", "b [1]", "d"]
LIGHT = {"verbosity": -1, "num_threads": 1, "seed": 1, "deterministic": True, "min_data_in_leaf": 5}
CAT = {
    "thread_count": 1,
    "random_seed": 1,
    "logging_level": "Silent",
    "allow_writing_files": False,
    "iterations": ROUNDS,
}


def table(labels: Any, **more: Any) -> pl.DataFrame:
    return pl.DataFrame(X, schema=NAMES).with_columns(y=pl.Series(np.asarray(labels)), **more)


def trainer(framework: str, params: Mapping[str, Any], rounds: int = ROUNDS, **kwargs: Any) -> Any:
    if framework == "xgboost":
        return train.XGBoostTrainer(dict(params), rounds, seed=1, **kwargs)
    if framework == "lightgbm":
        return train.LightGBMTrainer({"min_data_in_leaf": 5, **params}, rounds, seed=1, **kwargs)
    return train.CatBoostTrainer({"iterations": rounds, **params}, seed=1, **kwargs)


def fit(made: Any, data: pl.DataFrame, preprocessor: Any = None, **options: Any) -> Any:
    return train.fit(made, preprocessor, train_dataset=data, target_columns=["y"], verbose=False, **options)


def native(framework: str, params: Mapping[str, Any], labels: Any) -> Any:
    """The library called directly."""
    if framework == "xgboost":
        return xgboost.train({"nthread": 1, "seed": 1, **params}, xgboost.DMatrix(X, labels), ROUNDS)
    if framework == "lightgbm":
        return lightgbm.train({**LIGHT, **params}, lightgbm.Dataset(X, labels), ROUNDS)
    return catboost.CatBoost({**CAT, **params}).fit(catboost.Pool(X, labels, feature_names=NAMES))


def predicted(model: Any, **options: Any) -> Any:
    return np.asarray(model.predict(xgboost.DMatrix(X) if isinstance(model, xgboost.Booster) else X, **options))


# -- objectives --------------------------------------------------------------------------------------------------------


def own_objective(raw: Any, data: Any) -> Any:
    """Log loss, as a user would write it."""
    y = data.get_label().astype(int)
    if raw.ndim == 2:
        p = softmax(raw, axis=1)
        return p - np.eye(p.shape[1])[y], 2 * p * (1 - p)
    p = expit(raw)
    return p - y, p * (1 - p)


class OwnLoss:
    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> Any:
        p, y = expit(np.array(approxes)), np.array(targets)
        return list(zip(y - p, -p * (1 - p), strict=True))


class OwnLossOfSeveral:
    def calc_ders_multi(self, approx: Any, target: float, weight: float) -> Any:
        p = softmax(np.array(approx))
        return list(np.eye(len(p))[int(target)] - p), [list(row) for row in np.outer(p, p) - np.diag(p)]


CLASSES: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "binary:logistic": ("xgboost", {"objective": "binary:logistic"}, TWO, {}),
    "binary:logitraw": ("xgboost", {"objective": "binary:logitraw"}, TWO, {}),
    "binary:hinge": ("xgboost", {"objective": "binary:hinge"}, TWO, {}),
    "multi:softmax": ("xgboost", {"objective": "multi:softmax"}, THREE, {}),
    "multi:softprob": ("xgboost", {"objective": "multi:softprob"}, THREE, {}),
    "xgboost, own, two": ("xgboost", {}, TWO, {"obj": own_objective}),
    "xgboost, own, three": ("xgboost", {}, THREE, {"obj": own_objective}),
    "binary": ("lightgbm", {"objective": "binary"}, TWO, {}),
    "multiclass": ("lightgbm", {"objective": "multiclass"}, THREE, {}),
    "multiclassova": ("lightgbm", {"objective": "multiclassova"}, THREE, {}),
    "cross_entropy": ("lightgbm", {"objective": "cross_entropy"}, TWO, {}),
    "lightgbm, own, two": ("lightgbm", {"objective": own_objective}, TWO, {}),
    "lightgbm, own, three": ("lightgbm", {"objective": own_objective}, THREE, {}),
    "Logloss": ("catboost", {"loss_function": "Logloss"}, TWO, {}),
    "CrossEntropy": ("catboost", {"loss_function": "CrossEntropy"}, TWO, {}),
    "Focal": ("catboost", {"loss_function": "Focal:focal_alpha=0.5;focal_gamma=2"}, TWO, {}),
    "MultiClass": ("catboost", {"loss_function": "MultiClass"}, THREE, {}),
    "MultiClassOneVsAll": ("catboost", {"loss_function": "MultiClassOneVsAll"}, THREE, {}),
    "catboost, own, two": ("catboost", {"loss_function": OwnLoss(), "eval_metric": "Logloss"}, TWO, {}),
    "catboost, own, three": ("catboost", {"loss_function": OwnLossOfSeveral(), "eval_metric": "MultiClass"}, THREE, {}),
}


def raw_scores(model: Any) -> Any:
    if isinstance(model, xgboost.Booster):
        return predicted(model, output_margin=True)
    return (
        predicted(model, raw_score=True)
        if isinstance(model, lightgbm.Booster)
        else predicted(model, prediction_type="RawFormulaVal")
    )


@pytest.mark.filterwarnings("ignore:.*(numba|optim).*:UserWarning")
@pytest.mark.parametrize("name", CLASSES)
def test_scores_of_classes_are_probabilities_or_none(name: str, tmp_path: Path) -> None:
    framework, params, labels, kwargs = CLASSES[name]
    data = table(labels).with_columns(pl.concat_str(pl.lit("class "), pl.col("y").cast(pl.Int64)).alias("y"))
    result = fit(trainer(framework, params, **kwargs), data, test_dataset=data)
    pipeline = result.inference_pipeline
    raw = raw_scores(_unnamed(result.fitted_model))
    codes = raw.argmax(axis=1) if raw.ndim == 2 else raw > 0
    said = pipeline.predict(data)["prediction"].to_list()
    assert said == [f"class {int(code)}" for code in codes]  # the library's own decision
    assert result.metrics["test-accuracy"] == pytest.approx(np.mean(np.array(said) == data["y"].to_numpy()))
    if has_probabilities(pipeline.scores(data.lazy())):
        proba = pipeline.predict_proba(data).to_numpy()
        assert proba.min() >= 0
        assert proba.max() <= 1
        assert np.allclose(proba.sum(axis=1), 1, atol=1e-6)
        if raw.ndim == 1:
            order = np.argsort(raw, kind="stable")
            assert (np.diff(proba[order, 1]) >= 0).all()  # they rank rows as the raw scores do
    else:
        assert name in ("binary:hinge", "multi:softmax") or "own" in name
        with pytest.raises(ParameterError, match="no probabilities"):
            pipeline.predict_proba(data)
    pipeline.save(tmp_path / "x.rayline")
    assert rl.load(tmp_path / "x.rayline").predict(data).equals(pipeline.predict(data))
    assert pipeline.predict(data.head(3).drop("y").to_dicts()) == [{"prediction": label} for label in said[:3]]
    assert result.preprocessor.chain(result.fitted_model).predict(data).equals(pipeline.predict(data))


def _unnamed(model: Any) -> Any:
    if isinstance(model, xgboost.Booster):
        model = model.copy()
        model.feature_names = model.feature_types = None
    return model


NUMBERS: dict[str, tuple[str, dict[str, Any], Any]] = {
    **{o: ("xgboost", {"objective": o}, POSITIVE) for o in (
        "reg:squarederror", "reg:squaredlogerror", "reg:pseudohubererror", "reg:absoluteerror", "count:poisson", "reg:gamma",
        "reg:tweedie")},
    "reg:logistic": ("xgboost", {"objective": "reg:logistic"}, expit(NUMBER)),
    "reg:quantileerror": ("xgboost", {"objective": "reg:quantileerror", "quantile_alpha": 0.3}, POSITIVE),
    **{o: ("lightgbm", {"objective": o}, POSITIVE) for o in (
        "regression", "regression_l1", "huber", "fair", "poisson", "quantile", "mape", "gamma", "tweedie")},
    "cross_entropy_lambda": ("lightgbm", {"objective": "cross_entropy_lambda"}, expit(NUMBER)),
    **{o: ("catboost", {"loss_function": o}, POSITIVE) for o in (
        "RMSE", "MAE", "Quantile:alpha=0.3", "LogLinQuantile", "MAPE", "Poisson", "Expectile:alpha=0.3",
        "Tweedie:variance_power=1.5", "Huber:delta=1", "Lq:q=2", "LogCosh", "RMSPE")},
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
def test_predictions_are_on_the_scale_of_the_labels(name: str) -> None:
    framework, params, labels = NUMBERS[name]
    found = (
        fit(trainer(framework, params), table(labels))
        .inference_pipeline.predict(table(labels))["prediction"]
        .to_numpy()
    )
    logs = name in ("Poisson", "LogLinQuantile") or name.startswith("Tweedie")
    own = native(framework, params, labels)
    assert np.allclose(found, predicted(own, prediction_type="Exponent") if logs else predicted(own), rtol=1e-9)


@pytest.mark.parametrize(
    ("framework", "params"),
    [
        ("xgboost", {"objective": "reg:expectileerror", "expectile_alpha": [0.1, 0.9]}),
        ("catboost", {"loss_function": "RMSEWithUncertainty"}),
        ("catboost", {"loss_function": "GroupQuantile:alpha=0.5"}),
        ("catboost", {"class_names": ["no", "yes"]}),
        ("lightgbm", {"ignore_column": "name:a"}),
    ],
)
def test_what_has_no_meaning_here_is_refused_before_training(framework: str, params: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        trainer(framework, params)


@pytest.mark.parametrize("framework", ["xgboost", "lightgbm", "catboost"])
@pytest.mark.parametrize("size", [1e100, 1e-60])
def test_labels_beyond_single_precision_are_refused_or_scaled(framework: str, size: float) -> None:
    data = table(NUMBER * size)
    with pytest.raises(DataError, match="single precision"):
        fit(trainer(framework, {}), data)
    scaled = train.Preprocessor([], target_stages=[("scale", StandardScaler())])
    found = fit(trainer(framework, {}, 60), data, scaled).inference_pipeline.predict(data)["prediction"].to_numpy()
    assert np.corrcoef(found / size, NUMBER)[0, 1] > 0.9


# -- parameters that name features -------------------------------------------------------------------------------------

GROUPS, BY_PLACE = [["a", "b [1]"], ["d"]], [[0, 1], [2]]


@pytest.mark.parametrize(
    ("framework", "named", "numbered"),
    [
        ("xgboost", {"interaction_constraints": GROUPS}, {"interaction_constraints": "[[0, 1], [2]]"}),
        ("xgboost", {"monotone_constraints": {"b [1]": 1}}, {"monotone_constraints": "(0, 1, 0)"}),
        ("lightgbm", {"interaction_constraints": GROUPS}, {"interaction_constraints": BY_PLACE}),
        ("lightgbm", {"mc": {"a": 1}}, {"monotone_constraints": [1, 0, 0]}),
        ("lightgbm", {"feature_contri": {"a": 0.1}}, {"feature_contri": [0.1, 1.0, 1.0]}),
        ("catboost", {"monotone_constraints": {"a": 1}}, {"monotone_constraints": [1, 0, 0]}),
        ("catboost", {"ignored_features": ["a"]}, {"ignored_features": [0]}),
        ("catboost", {"feature_weights": {"d": 0.1}}, {"feature_weights": {2: 0.1}}),
    ],
)
def test_features_are_named_in_parameters(framework: str, named: dict[str, Any], numbered: dict[str, Any]) -> None:
    data = table(NUMBER)
    found = fit(trainer(framework, named), data).inference_pipeline.scores(data.lazy())
    assert (found == predicted(native(framework, numbered, NUMBER))).all()
    assert (found != predicted(native(framework, {}, NUMBER))).any()
    (key, value), *_ = named.items()
    wrong: Any = [["no such"]] if value == GROUPS else ["no such"] if isinstance(value, list) else {"no such": 1}
    with pytest.raises(ParameterError, match=f"{key}.*'no such'"):
        fit(trainer(framework, {key: wrong}), data)


OF_CITY = {"city_Lima", "city_Oslo", "city_Rome"}


def with_cities(framework: str, params: dict[str, Any]) -> Any:
    city = RANDOM.choice(["Oslo", "Rome", "Lima"], N)
    data = table(NUMBER + 3 * (city == "Rome"), city=pl.Series(city))
    return fit(trainer(framework, params), data, train.Preprocessor([("onehot", OneHotEncoder())]))


@pytest.mark.parametrize("framework", ["xgboost", "lightgbm"])
def test_a_raw_column_constrains_all_features_that_come_from_it(framework: str) -> None:
    result = with_cities(framework, {"interaction_constraints": [["city"], NAMES]})
    paths = _paths(result.fitted_model, list(result.model.schema))
    assert any(path & OF_CITY for path in paths)
    assert all(path <= OF_CITY or not path & OF_CITY for path in paths)


def test_a_raw_column_ignores_all_features_that_come_from_it() -> None:
    used = with_cities("catboost", {"ignored_features": ["city"]}).model.importance()
    assert {name for name, value in used.items() if not value} == OF_CITY


def _paths(model: Any, names: list[str]) -> list[set[str]]:
    """The features on each tree."""
    if isinstance(model, xgboost.Booster):
        frame = model.trees_to_dataframe()
        frame = frame[frame["Feature"] != "Leaf"]
        safe = {name.replace("[", "［").replace("]", "］"): name for name in names}
        return [{safe[f] for f in part["Feature"]} for _, part in frame.groupby("Tree")]
    frame = model.trees_to_dataframe().dropna(subset=["split_feature"])
    own = dict(zip(model.feature_name(), names, strict=True))
    return [{own[f] for f in part["split_feature"]} for _, part in frame.groupby("tree_index")]


def test_lightgbm_takes_numbers_as_categories_by_name() -> None:
    codes, means = RANDOM.integers(0, 12, N), RANDOM.permutation(12)
    data = pl.DataFrame({"k": codes, "z": X[:, 0], "y": means[codes] + 0.1 * X[:, 0]})
    rows = data.select("k", "z").to_numpy()
    own = lightgbm.train(LIGHT, lightgbm.Dataset(rows, data["y"].to_numpy(), categorical_feature=[0]), ROUNDS).predict(
        rows
    )
    for named in (["k"], "name:k", [0], "0"):
        found = fit(trainer("lightgbm", {"categorical_feature": named}), data).inference_pipeline.scores(data.lazy())
        assert (found == own).all(), named


def test_catboost_weighs_classes_by_label() -> None:
    data = table(np.where(TWO, "yes", "no"))
    found = fit(trainer("catboost", {"class_weights": {"no": 3}}), data).inference_pipeline.predict_proba(data)
    own = native("catboost", {"class_weights": [3, 1], "loss_function": "Logloss"}, TWO.astype(int))
    assert np.allclose(found["probability_yes"], predicted(own, prediction_type="Probability")[:, 1], rtol=1e-12)
    with pytest.raises(ParameterError, match="class_weights"):
        fit(trainer("catboost", {"class_weights": {"perhaps": 3}}), data)


# -- continued training, callbacks, importance -------------------------------------------------------------------------

STOPS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "xgboost": ({}, {"early_stopping_rounds": 3}),
    "lightgbm": ({"early_stopping_round": 3}, {}),
    "catboost": ({"early_stopping_rounds": 3}, {}),
}


@pytest.mark.parametrize("framework", STOPS)
def test_a_stopped_model_is_continued_with_iterations_that_count(framework: str) -> None:
    data, (params, kwargs) = table(NUMBER), STOPS[framework]
    first = fit(trainer(framework, params, 200, **kwargs), data.head(200), test_dataset=data.tail(100))
    model, before = first.fitted_model, first.inference_pipeline.scores(data.lazy())
    best = first.model.adapter.best_iteration(model)
    named = {"xgb_model" if framework == "xgboost" else "init_model": model}
    second = fit(trainer(framework, {}, **named), data.head(200))
    after = second.inference_pipeline.scores(data.lazy())
    labels, rows = NUMBER[:200], X[:200]
    if framework == "xgboost":
        names = model.feature_names
        more = xgboost.DMatrix(rows, labels, feature_names=names)
        own = xgboost.train({"nthread": 1, "seed": 1}, more, ROUNDS, xgb_model=model)
        expected = own.predict(xgboost.DMatrix(X, feature_names=names))
    elif framework == "lightgbm":
        expected = lightgbm.train(LIGHT, lightgbm.Dataset(rows, labels), ROUNDS, init_model=model).predict(X)
    else:
        pool = catboost.Pool(rows, labels, feature_names=NAMES)
        expected = catboost.CatBoost(CAT).fit(pool, init_model=model).predict(X)
    assert (after == expected).all()
    assert (after != before).any()
    assert first.model.adapter.best_iteration(model) == best  # the model handed over is as it was
    assert (first.inference_pipeline.scores(data.lazy()) == before).all()


class Counting:
    """A callback of the user's own with a state: it stops after five iterations of its life."""

    def __init__(self) -> None:
        self.heard = 0

    def _more(self) -> bool:
        self.heard += 1
        return self.heard < 5

    def after_iteration(self, info: Any) -> bool:  # CatBoost
        return self._more()

    def __call__(self, env: Any) -> None:  # LightGBM
        if not self._more():
            raise lightgbm.callback.EarlyStopException(env.iteration, env.evaluation_result_list)


@pytest.mark.parametrize("framework", STOPS)
def test_where_a_training_stopped_is_saved(framework: str, tmp_path: Path) -> None:
    data, (params, kwargs) = table(NUMBER), STOPS[framework]
    result = fit(trainer(framework, params, 200, **kwargs), data.head(200), test_dataset=data.tail(100))
    result.inference_pipeline.save(tmp_path / "x.rayline")
    loaded = rl.load(tmp_path / "x.rayline")
    best = [m.adapter.best_iteration(m.native) for m in (result.model, loaded.model)]
    assert best[0] == best[1] is not None
    assert (loaded.scores(data.lazy()) == result.inference_pipeline.scores(data.lazy())).all()


def test_what_predicts_no_numbers_is_refused() -> None:
    data = table(NUMBER)
    with pytest.raises(TrainingError, match="predicts NaN"):
        fit(trainer("xgboost", {"eta": float("nan")}), data, test_dataset=data)
    with pytest.raises(ParameterError, match="objective"):
        trainer("lightgbm", {"objective": ["binary"]})


@pytest.mark.parametrize("framework", STOPS)
def test_callbacks_carry_nothing_from_one_training_to_the_next(framework: str) -> None:
    data = table(NUMBER)
    stop = xgboost.callback.EarlyStopping(rounds=3) if framework == "xgboost" else Counting()
    made = trainer(framework, {}, 60, callbacks=[stop])
    given = {"test_dataset": data.tail(100)}
    heights = [fit(made, data.head(200), **given).history.height for _ in range(3)]
    assert heights[0] == heights[1] == heights[2] < 60
    assert getattr(stop, "heard", 0) == 0  # nor is the user's own object changed


def test_catboost_takes_its_own_callbacks_in_fit() -> None:
    assert fit(trainer("catboost", {}), table(NUMBER), callbacks=[Counting()]).history.height == 5


@pytest.mark.parametrize("framework", ["xgboost", "lightgbm"])
def test_importance_of_a_column_is_the_total_gain_of_its_features(framework: str) -> None:
    flag, noise = RANDOM.choice(["yes", "no"], N), RANDOM.choice([f"n{i:02d}" for i in range(40)], N)
    data = pl.DataFrame({"flag": flag, "noise": noise, "y": 1.0 * (flag == "yes") + RANDOM.normal(size=N) * 0.2})
    pipeline = fit(
        trainer(framework, {}, 30), data, train.Preprocessor([("onehot", OneHotEncoder())])
    ).inference_pipeline
    found = pipeline.importance()
    assert found["flag"] > found["noise"]
    model = pipeline.model.native
    own = model.get_score(importance_type="total_gain") if framework == "xgboost" else None
    total = sum(own.values()) if own is not None else model.feature_importance("gain").sum()
    assert sum(found.values()) == pytest.approx(total)


# -- GPUs --------------------------------------------------------------------------------------------------------------


def test_a_build_without_gpus_is_refused_before_anything_starts() -> None:
    if xgboost.build_info().get("USE_CUDA"):
        pytest.skip("this XGBoost computes on GPUs")
    made = trainer("xgboost", {}, num_workers=2, use_gpu=True)
    with pytest.raises(ResourceError, match="the package xgboost"):
        fit(made, table(NUMBER))
    with pytest.raises(ResourceError, match="the package xgboost"):
        tune.run(made, {"train_dataset": table(NUMBER), "cv": 2, "target_columns": ["y"]}, {}, verbose=False)


def test_catboost_is_given_no_callbacks_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    right, given = catboost.CatBoost.fit, []

    def on_cpu(self: Any, *args: Any, callbacks: Any = None, **kwargs: Any) -> Any:
        given.append(callbacks)
        self.set_params(task_type="CPU")
        return right(self, *args, callbacks=callbacks, **kwargs)

    monkeypatch.setattr(catboost.CatBoost, "fit", on_cpu)
    data = table(NUMBER)
    with pytest.raises(ResourceError, match="no GPU"):
        fit(trainer("catboost", {"task_type": "GPU"}), data)  # in CatBoost's own words it is the same wish
    with device.pretend("cpu"):
        history = fit(trainer("catboost", {"task_type": "GPU"}), data, test_dataset=data).history
        assert given == [None]
        assert history.equals(fit(trainer("catboost", {}), data, test_dataset=data).history)
        with pytest.raises(ParameterError, match="no callbacks of its own on a GPU"):
            fit(trainer("catboost", {"task_type": "GPU"}, callbacks=[Counting()]), data)


@pytest.mark.parametrize("framework", ["xgboost", "lightgbm", "catboost"])
def test_a_tensor_beside_a_category_is_a_vector_of_its_values(framework: str) -> None:
    constraints = {"monotone_constraints": {"d": 1}}
    category = pl.Series(["low" if row[1] < 0 else "high" for row in X])

    def fitted(shape: tuple[int, ...]) -> Any:
        tensor = pl.Series(np.repeat(X, 2, axis=1).reshape(N, *shape), dtype=pl.Array(pl.Float32, shape))
        rows = pl.DataFrame({"tensor": tensor, "word": category, "d": X[:, 2], "y": NUMBER})
        result = fit(trainer(framework, constraints, 5), rows)
        return result.inference_pipeline, rows

    (pipeline, rows), (flat, flat_rows) = fitted((2, 3)), fitted((6,))
    assert np.array_equal(pipeline.scores(rows.lazy()), flat.scores(flat_rows.lazy()))
    assert pipeline.importance() == flat.importance()
    assert set(pipeline.importance()) == {"tensor", "word", "d"}
