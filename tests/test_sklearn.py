"""Rayline's estimators in scikit-learn's own world, checked by scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import rayline as rl
from rayline import train
from rayline.sklearn import RaylineClassifier, RaylineRegressor, RaylineTransformer
from rayline.stages import CountVectorizer, Log, OneHotEncoder, SimpleImputer, StandardScaler, TargetEncoder

ONE = {"nthread": 1}
ESTIMATORS = [
    RaylineClassifier(train.XGBoostTrainer({**ONE, "max_depth": 3}, num_boost_round=20, seed=0)),
    RaylineRegressor(
        train.XGBoostTrainer(ONE, num_boost_round=20, seed=0), train.Preprocessor([("scale", StandardScaler())])
    ),
    RaylineTransformer(train.Preprocessor([("fill", SimpleImputer()), ("scale", StandardScaler())])),
]


def declared(estimator: Any) -> dict[str, str]:
    """The checks of scikit-learn that do not hold, with the reason."""
    if isinstance(estimator, (RaylineRegressor, RaylineTransformer)):
        return {}
    return {
        "check_sample_weight_equivalence_on_dense_data": "XGBoost cuts its bins at weighted quantiles: a weight of two "
        "is not a row twice (its own XGBClassifier fails the check, too)",
    }


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=declared)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def cancer() -> tuple[Any, Any]:
    X, y = load_breast_cancer(return_X_y=True)
    return X[:300], y[:300]


def model() -> RaylineClassifier:
    preprocessor = train.Preprocessor([("impute", SimpleImputer()), ("scale", StandardScaler())])
    return RaylineClassifier(train.XGBoostTrainer({**ONE, "max_depth": 2}, num_boost_round=10, seed=0), preprocessor)


def test_search_changes_trainer_and_stages(cancer: tuple[Any, Any]) -> None:
    grid = {"trainer__max_depth": [1, 3], "preprocessor__impute__strategy": ["mean", "median"]}
    search = GridSearchCV(model(), grid, cv=3, scoring="roc_auc").fit(*cancer)
    assert search.best_score_ > 0.95
    assert len(search.cv_results_["params"]) == 4
    assert search.predict(cancer[0]).shape == (300,)


def test_cross_validation_calibration_and_importance(cancer: tuple[Any, Any]) -> None:
    X, y = cancer
    assert cross_val_score(model(), X, y, cv=3).mean() > 0.9
    calibrated = CalibratedClassifierCV(model(), cv=3).fit(X, y)
    assert calibrated.predict_proba(X).shape == (300, 2)
    importance = permutation_importance(model().fit(X, y), X, y, n_repeats=2, random_state=0)
    assert importance.importances_mean.max() > 0


def test_tables_keep_their_columns() -> None:
    table = pd.DataFrame({"x": [0.0, 1.0, np.nan, 3.0] * 10, "city": ["Rome", "Oslo", "Rome", None] * 10})
    y = np.array(["no", "no", "yes", "yes"] * 10)
    trainer = train.XGBoostTrainer({**ONE, "min_child_weight": 0}, num_boost_round=10)
    fitted = RaylineClassifier(trainer, train.Preprocessor([("onehot", OneHotEncoder())])).fit(table, y)
    assert list(fitted.feature_names_in_) == ["x", "city"]
    assert fitted.predict(table).tolist() == y.tolist()
    assert trainer.replace({}).framework == "xgboost"
    with pytest.raises(rl.NotFittedError):
        _ = trainer.fitted_model  # the caller's trainer is not the one that was fitted


def test_wrong_parameters_are_named() -> None:
    with pytest.raises(rl.ParameterError, match="trainr"):
        model().set_params(trainr__max_depth=3)
    with pytest.raises(rl.ParameterError, match="imputer"):
        model().set_params(preprocessor__imputer__strategy="mean")


def mixed() -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": random.normal(50, 3, 60),
            "city": random.choice(["Oslo", "Rome"], 60),
            "note": random.choice(["late plane", "no plane", "storm"], 60),
        }
    )


def test_a_preprocessor_as_a_transformer() -> None:
    table = mixed()
    stages = [("scale", StandardScaler(["x"])), ("onehot", OneHotEncoder(["city"]))]
    made = RaylineTransformer(train.Preprocessor(stages)).fit(table.drop(columns="note"))
    names = ["x", "city_Oslo", "city_Rome"]
    assert made.get_feature_names_out().tolist() == names
    matrix = made.transform(table.drop(columns="note"))
    assert matrix.shape == (60, 3)
    back = made.inverse_transform(matrix)
    np.testing.assert_allclose(back["x"], table["x"])
    assert back["city"].to_list() == table["city"].to_list()
    frame = made.set_output(transform="pandas").transform(table.drop(columns="note"))
    assert list(frame.columns) == names
    pipe = make_pipeline(RaylineTransformer(train.Preprocessor(stages)), LogisticRegression())
    assert cross_val_score(pipe, table.drop(columns="note"), table["x"] > 50, cv=3).mean() > 0.9


def test_text_stays_sparse_and_training_rows_are_cross_fitted() -> None:
    table = mixed()
    words = RaylineTransformer(train.Preprocessor([("words", CountVectorizer(["note"]))]))
    found = words.fit_transform(table[["note"]])
    assert found.nnz == sum(len(note.split()) for note in table["note"])
    assert words.get_feature_names_out().tolist() == ["note_late", "note_no", "note_plane", "note_storm"]
    encoder = RaylineTransformer(train.Preprocessor([("mean", TargetEncoder(["city"]))]))
    training = encoder.fit_transform(table[["x", "city"]], table["x"])
    assert len(np.unique(training[:, 1])) > 2
    assert len(np.unique(encoder.transform(table[["x", "city"]])[:, 1])) == 2


def test_a_regressor_with_target_stages() -> None:
    x = np.linspace(0, 5, 200)[:, None]
    y = np.exp(2 * x.ravel())
    stages = train.Preprocessor([("scale", StandardScaler())], target_stages=[("log", Log(offset=0))])
    model = RaylineRegressor(train.SklearnTrainer(LinearRegression()), stages).fit(x, y)
    np.testing.assert_allclose(model.predict(x), y, rtol=1e-9)


@pytest.mark.parametrize("labels", [["no", "yes"], [3, 7], [False, True], [1.0, 2.0], ["a", "b", "c"]], ids=repr)
def test_the_pipeline_inside_answers_with_labels(labels: list[Any], tmp_path: Any) -> None:
    x = np.arange(90.0)[:, None]
    y = np.array(labels)[np.arange(90) // 7 % len(labels)]
    model = RaylineClassifier(train.XGBoostTrainer({**ONE, "min_child_weight": 0}, num_boost_round=10, seed=0)).fit(
        x, y
    )
    table = pd.DataFrame({"x0": x[:, 0]})
    assert model.predict(x).dtype == y.dtype
    assert model.pipeline_.classes == labels
    model.pipeline_.save(tmp_path / "p.rayline")
    for pipeline in (model.pipeline_, rl.load(tmp_path / "p.rayline"), model.result_.inference_pipeline):
        assert pipeline.predict(table)["prediction"].tolist() == model.predict(x).tolist()
        assert list(pipeline.predict_proba(table).columns) == [f"probability_{str(v).lower()}" for v in labels]
