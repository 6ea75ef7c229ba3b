"""Pipelines as ONNX models: the same predictions, or a refusal that says why.

Covers `frameworks.torch_onnx` and `testing.task_laws` too.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, RadiusNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler
from sklearn.svm import SVC, LinearSVC

for needed in ("onnxmltools", "skl2onnx", "onnxruntime"):
    pytest.importorskip(needed, reason=f"{needed} is not installed (pip install 'rayline[onnx]' onnxruntime)")

import onnxruntime

import rayline as rl
from rayline import train
from rayline.onnx import to_onnx
from rayline.stages import (
    PCA,
    DropColumns,
    KBinsDiscretizer,
    Log,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    Ratio,
    SimpleImputer,
    StandardScaler,
)
from tests import toy

pytestmark = pytest.mark.filterwarnings("ignore")  # the converters' own

BINARY = toy.table().with_columns(kind=pl.when(pl.col("size") > 2).then(pl.lit("big")))
MANY = BINARY.with_columns(late=pl.col("late") + pl.when(pl.col("size") == 1).then(pl.lit("?")).otherwise(pl.lit("")))
NUMBER = BINARY.with_columns(late=pl.col("size") * 1.5 + pl.col("age").fill_null(0))


def preprocessor() -> rl.Preprocessor:
    return rl.Preprocessor(
        [
            ("impute", SimpleImputer(strategy="median")),
            ("mode", SimpleImputer(["kind"], strategy="most_frequent")),
            ("scale", StandardScaler(["age"])),
            ("range", MinMaxScaler(["size"], clip=True)),
            ("codes", OrdinalEncoder(["kind"])),
            ("onehot", OneHotEncoder(["city"])),
        ]
    )


def scores(model: Any, table: pl.DataFrame) -> Any:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed: dict[str, Any] = {}
    for column in session.get_inputs():
        values = table[column.name]
        filled = values.fill_null("") if values.dtype == pl.String else values.cast(pl.Float64).fill_null(float("nan"))
        feed[column.name] = filled.to_numpy().astype(object if values.dtype == pl.String else float).reshape(-1, 1)
    return np.asarray(session.run(["scores"], feed)[0])


@pytest.mark.parametrize(
    "trainer",
    [
        train.XGBoostTrainer({"nthread": 1}, num_boost_round=8),
        train.LightGBMTrainer({"min_data_in_leaf": 2, "num_threads": 1}, num_boost_round=8),
        pytest.param(
            train.Trainer("catboost", {"iterations": 8, "thread_count": 1}),
            marks=pytest.mark.skipif(find_spec("catboost") is None, reason="CatBoost is not installed"),
        ),
    ],
    ids=["xgboost", "lightgbm", "catboost"],
)
@pytest.mark.parametrize("table", [BINARY, MANY, NUMBER], ids=["binary", "multiclass", "regression"])
def test_a_graph_gives_the_pipelines_scores(trainer: Any, table: pl.DataFrame, tmp_path: Path) -> None:
    result = trainer.replace({}).fit(preprocessor(), table, target_columns="late", verbose=False)
    pipeline = result.inference_pipeline
    unseen = table.with_columns(city=pl.lit("Atlantis"), age=pl.lit(99.0))
    for rows in (table, unseen):
        got = scores(to_onnx(pipeline, tmp_path / "m.onnx"), rows)
        wanted = pipeline.predict_proba(rows) if pipeline.classes else pipeline.predict(rows)
        assert np.allclose(got.reshape(wanted.shape), wanted.to_numpy(), atol=1e-5)
    assert (tmp_path / "m.onnx").stat().st_size > 0


@pytest.mark.parametrize(("estimator", "table"), [(LogisticRegression(), BINARY), (Ridge(), NUMBER)])
def test_estimators(estimator: Any, table: pl.DataFrame) -> None:
    pipeline = (
        train.SklearnTrainer(estimator)
        .fit(preprocessor(), table, target_columns="late", verbose=False)
        .inference_pipeline
    )
    wanted = pipeline.predict_proba(table) if pipeline.classes else pipeline.predict(table)
    assert np.allclose(scores(to_onnx(pipeline), table).reshape(wanted.shape), wanted.to_numpy(), atol=1e-4)


@pytest.mark.parametrize(
    "stages", [[Log(), StandardScaler()], [PowerTransformer()], [PowerTransformer(method="box-cox")]], ids=repr
)
def test_target_stages_are_undone_in_the_graph(stages: Any) -> None:
    table = NUMBER.with_columns(late=pl.col("late") + 0.5)
    steps = rl.Preprocessor(preprocessor().stages, target_stages=[(f"t{i}", stage) for i, stage in enumerate(stages)])
    trainer = train.XGBoostTrainer({"nthread": 1}, num_boost_round=8)
    pipeline = trainer.fit(steps, table, target_columns="late", verbose=False).inference_pipeline
    found = scores(to_onnx(pipeline), table)
    np.testing.assert_allclose(found[:, 0], pipeline.predict(table)["prediction"], rtol=1e-5)


def test_formulas_are_nodes() -> None:
    steps = rl.Preprocessor(
        [
            ("age", SimpleImputer(["age"])),
            ("log", Log(["size"])),
            ("power", PowerTransformer(["age"])),
            ("unit", Normalizer(["age", "size"])),
            ("products", PolynomialFeatures(["age", "size"])),
            ("ratio", Ratio(["age"], per="size", zero=0.0)),
            ("pca", PCA(["age", "size"], n_components=2, whiten=True)),
            ("onehot", OneHotEncoder(["city"])),
            ("drop", DropColumns(["kind"])),
        ]
    )
    trainer = train.SklearnTrainer(Ridge())
    pipeline = trainer.fit(steps, NUMBER, target_columns="late", verbose=False).inference_pipeline
    wanted = pipeline.predict(NUMBER)["prediction"].to_numpy()
    np.testing.assert_allclose(scores(to_onnx(pipeline), NUMBER)[:, 0], wanted, rtol=1e-4, atol=1e-4)


def test_early_stopping_is_kept() -> None:
    params = {"nthread": 1, "eval_metric": "logloss"}
    trainer = train.XGBoostTrainer(params, num_boost_round=60, early_stopping_rounds=2)
    pipeline = trainer.fit(
        preprocessor(), BINARY, BINARY.reverse().head(9), target_columns="late", verbose=False
    ).inference_pipeline
    assert np.allclose(scores(to_onnx(pipeline), BINARY), pipeline.predict_proba(BINARY).to_numpy(), atol=1e-5)


def test_what_has_no_form_is_refused_by_name() -> None:
    with pytest.raises(rl.ParameterError, match="'least-squares' cannot be exported"):
        to_onnx(toy.pipeline())
    trainer = train.XGBoostTrainer({"nthread": 1}, num_boost_round=2)
    strict = rl.Preprocessor(
        [("onehot", OneHotEncoder(["city"], handle_unknown="error")), ("kind", OneHotEncoder(["kind"]))]
    )
    refused = trainer.fit(strict, BINARY, target_columns="late", verbose=False).inference_pipeline
    with pytest.raises(rl.ParameterError, match="'onehot' refuses"):
        to_onnx(refused)
    odd = rl.Preprocessor([("bins", KBinsDiscretizer(["size"])), ("onehot", OneHotEncoder())])
    strange = trainer.fit(odd, BINARY, target_columns="late", verbose=False).inference_pipeline
    with pytest.raises(rl.ParameterError, match="cannot be exported to ONNX"):
        to_onnx(strange)


EXPORTED = [
    LogisticRegression(),
    OneVsRestClassifier(LogisticRegression()),
    KNeighborsClassifier(3),
    MLPClassifier((5,), max_iter=20, random_state=0),
    RandomForestClassifier(5, random_state=0),
    GaussianNB(),
    make_pipeline(RobustScaler(), GradientBoostingClassifier(n_estimators=5)),
]


@pytest.mark.parametrize("estimator", EXPORTED, ids=lambda e: repr(e)[:30])
@pytest.mark.parametrize("table", [BINARY, MANY], ids=["binary", "multiclass"])
def test_labels_and_scores_of_estimators(estimator: Any, table: pl.DataFrame) -> None:
    trainer = train.SklearnTrainer(estimator)
    pipeline = trainer.fit(preprocessor(), table, target_columns="late", verbose=False).inference_pipeline
    found = scores(to_onnx(pipeline), table)
    assert np.allclose(found, pipeline.predict_proba(table).to_numpy(), atol=1e-4)
    labels = np.array(pipeline.classes)[found.argmax(axis=1)]
    assert (labels == pipeline.predict(table)["prediction"].to_numpy()).all()


@pytest.mark.parametrize(
    ("estimator", "words"),
    [
        (SVC(), "SVC gives no probabilities"),
        (LinearSVC(), "LinearSVC gives no probabilities"),
        (RidgeClassifier(), "RidgeClassifier gives no probabilities"),
        (FixedThresholdClassifier(LogisticRegression(), threshold=0.6), "other labels than the likeliest"),
        (HistGradientBoostingClassifier(max_iter=2), "cannot be exported to ONNX"),
        (LinearDiscriminantAnalysis(), "gives other results"),  # a fault of the converter's
        (RadiusNeighborsClassifier(3.0), "does not run"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_would_answer_otherwise_is_refused(estimator: Any, words: str) -> None:
    trainer = train.SklearnTrainer(estimator)
    pipeline = trainer.fit(preprocessor(), BINARY, target_columns="late", verbose=False).inference_pipeline
    with pytest.raises(rl.ParameterError, match=words):
        to_onnx(pipeline)


@pytest.mark.parametrize(
    "params",
    [
        {"objective": objective}
        for objective in ("reg:squarederror", "reg:absoluteerror", "reg:tweedie", "count:poisson", "reg:logistic")
    ],
    ids=lambda p: p["objective"],
)
def test_objectives_answer_alike_or_are_refused(params: dict[str, Any]) -> None:
    table = NUMBER.with_columns(late=(pl.col("late") + 1) / (pl.col("late").max() + 2))
    trainer = train.XGBoostTrainer({"nthread": 1, **params}, num_boost_round=8)
    pipeline = trainer.fit(preprocessor(), table, target_columns="late", verbose=False).inference_pipeline
    try:
        made = to_onnx(pipeline)
    except rl.ParameterError as error:
        assert "Booster" in str(error)  # noqa: PT017  # either is right, a wrong answer is not
        return
    assert np.allclose(scores(made, table)[:, 0], pipeline.predict(table)["prediction"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("task", "params"),
    [
        ("quantiles", {"objective": "reg:quantileerror", "quantile_alpha": [0.1, 0.9]}),
        ("ranking", {"objective": "rank:ndcg"}),
        ("survival", {"objective": "survival:aft"}),
    ],
)
def test_other_objectives_of_xgboost_are_refused(task: str, params: dict[str, Any]) -> None:
    pytest.importorskip("xgboost")
    from rayline.testing.task_laws import TaskCase

    case = TaskCase(task, "xgboost", (params,), {"num_boost_round": 2}, exact=True)
    with pytest.raises(rl.ParameterError, match=f"the objective {params['objective']} cannot be exported to ONNX"):
        to_onnx(case.pipeline)


def test_counts_of_torch_are_means() -> None:
    pytest.importorskip("torch")
    from rayline.testing.task_laws import TaskCase

    # The graph is compared with the pipeline's own predictions before it is returned.
    assert to_onnx(TaskCase("counts", "torch", ("Linear",), {"loss": "poisson", "max_epochs": 2}, exact=False).pipeline)
