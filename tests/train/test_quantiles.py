"""Several quantiles of one target: a column of predictions for each, in every framework that can."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from rayline import train
from rayline.core.errors import ParameterError
from rayline.inference.card import model_card
from rayline.inference.model import Model
from rayline.stages import Log, StandardScaler
from tests.train.conftest import saved_and_loaded

LEVELS = [0.1, 0.5, 0.9]
NAMES = ["prediction_0.1", "prediction_0.5", "prediction_0.9"]


def _sklearn_boosted() -> train.Trainer:
    from sklearn.ensemble import GradientBoostingRegressor

    return train.SklearnTrainer(GradientBoostingRegressor(n_estimators=40), quantile_alpha=LEVELS, seed=1)


def _sklearn_pipeline() -> train.Trainer:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler as Scaler

    inner = make_pipeline(Scaler(), HistGradientBoostingRegressor(max_iter=40))
    return train.SklearnTrainer(inner, quantile_alpha=LEVELS, seed=1)


def _sklearn_linear() -> train.Trainer:
    from sklearn.linear_model import QuantileRegressor

    return train.SklearnTrainer(QuantileRegressor(alpha=0.0), quantile_alpha=LEVELS)


TRAINERS: dict[str, Callable[[], train.Trainer]] = {
    "xgboost": lambda: train.XGBoostTrainer(
        {"objective": "reg:quantileerror", "quantile_alpha": LEVELS, "max_depth": 3}, num_boost_round=40, seed=1
    ),
    "catboost": lambda: train.CatBoostTrainer(
        {"loss_function": "MultiQuantile:alpha=0.1,0.5,0.9", "iterations": 80, "learning_rate": 0.2}, seed=1
    ),
    "torch": lambda: train.TorchTrainer("MLP", quantile_alpha=LEVELS, lr=0.01, max_epochs=100, seed=1),
    "sklearn boosted": _sklearn_boosted,
    "sklearn pipeline": _sklearn_pipeline,
    "sklearn linear": _sklearn_linear,
}


def _table(n: int = 500) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.uniform(0, 2, n)
    return pl.DataFrame({"x": x, "noise": random.normal(size=n), "y": 10 + x + random.normal(size=n) * (0.5 + x)})


def _trainer(name: str) -> train.Trainer:
    try:
        return TRAINERS[name]()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", TRAINERS)
def test_one_column_for_each_quantile(name: str) -> None:
    table = _table()
    preprocessor = train.Preprocessor([("scale", StandardScaler())])
    result = _trainer(name).fit(preprocessor, table, table, ["y"], verbose=False)
    pipeline = result.inference_pipeline
    predicted = pipeline.predict(table)
    assert predicted.columns == NAMES
    values, y = predicted.to_numpy(), table["y"].to_numpy()
    shares = (y[:, None] <= values).mean(axis=0)
    assert np.abs(shares - LEVELS).max() < 0.08
    # The metrics are scikit-learn's of these predictions.
    from sklearn.metrics import mean_pinball_loss

    expected = np.mean([mean_pinball_loss(y, values[:, i], alpha=q) for i, q in enumerate(LEVELS)])
    assert result.metrics["test-pinball"] == pytest.approx(expected, rel=1e-6)
    inside = (values.min(axis=1) <= y) & (y <= values.max(axis=1))
    assert result.metrics["test-coverage"] == pytest.approx(inside.mean())
    # Saved, row by row, and as the framework's own model behind the preprocessor.
    loaded = saved_and_loaded(pipeline)
    assert loaded.predict(table).equals(predicted)
    assert loaded.target.quantiles == tuple(LEVELS)
    rows = loaded.predict(table.head(3).to_dicts())
    assert [list(row) for row in rows] == [NAMES] * 3
    assert np.allclose([list(row.values()) for row in rows], values[:3], rtol=1e-5)
    chained = result.preprocessor.chain(result.fitted_model)
    assert chained.predict(table).equals(predicted)
    assert isinstance(chained.model, Model)
    assert "quantiles 0.1, 0.5, 0.9" in model_card(pipeline, data=table)


def test_xgboost_predicts_what_it_predicts_itself() -> None:
    xgboost = pytest.importorskip("xgboost")
    table = _table()
    result = _trainer("xgboost").fit(None, table, None, ["y"], verbose=False)
    data = xgboost.DMatrix(table.select("x", "noise").to_numpy(), label=table["y"].to_numpy())
    params = {"objective": "reg:quantileerror", "quantile_alpha": LEVELS, "max_depth": 3, "seed": 1, "nthread": 1}
    own = xgboost.train(params, data, 40)
    expected = own.predict(data)
    assert np.allclose(result.inference_pipeline.predict(table).to_numpy(), expected, rtol=1e-6)


def test_quantiles_behind_target_stages_are_quantiles_of_the_labels() -> None:
    pytest.importorskip("xgboost")
    table = _table().with_columns(y=pl.col("y").exp())
    preprocessor = train.Preprocessor([("scale", StandardScaler())], target_stages=[("log", Log(offset=0))])
    result = _trainer("xgboost").fit(preprocessor, table, table, ["y"], verbose=False)
    predicted = result.inference_pipeline.predict(table)
    assert predicted.columns == NAMES
    plain = _trainer("xgboost").fit(
        train.Preprocessor([("scale", StandardScaler())]),
        table.with_columns(pl.col("y").log()),
        None,
        ["y"],
        verbose=False,
    )
    expected = np.exp(plain.inference_pipeline.predict(table).to_numpy())
    assert np.allclose(predicted.to_numpy(), expected, rtol=1e-5)
    rows = result.inference_pipeline.predict(table.head(2).to_dicts())
    assert np.allclose([list(row.values()) for row in rows], predicted.to_numpy()[:2], rtol=1e-9)
    assert saved_and_loaded(result.inference_pipeline).predict(table).equals(predicted)


def test_one_quantile_is_one_prediction() -> None:
    pytest.importorskip("xgboost")
    table = _table()
    for alpha in (0.9, [0.9]):
        trainer = train.XGBoostTrainer({"objective": "reg:quantileerror", "quantile_alpha": alpha}, num_boost_round=20)
        result = trainer.fit(None, table, table, ["y"], metrics=["pinball", "mae"], verbose=False)
        assert result.inference_pipeline.predict(table).columns == ["prediction"]
        assert result.metrics["test-pinball"] > 0


def test_several_quantiles_have_no_single_error() -> None:
    pytest.importorskip("xgboost")
    with pytest.raises(ParameterError, match="'rmse' is not for a target of several quantiles"):
        _trainer("xgboost").fit(None, _table(), _table(), ["y"], metrics=["rmse"], verbose=False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: train.XGBoostTrainer({"objective": "reg:quantileerror", "quantile_alpha": [0.1, 1.0]}),
            "quantile_alpha",
        ),
        (
            lambda: train.XGBoostTrainer({"objective": "reg:quantileerror", "quantile_alpha": [0.5, 0.5]}),
            "quantile_alpha",
        ),
        (lambda: train.LightGBMTrainer({"objective": "quantile", "alpha": [0.1, 0.9]}), "one quantile per model"),
        (lambda: train.CatBoostTrainer({"loss_function": "MultiQuantile:alpha=0.1,2"}), "alpha"),
        (lambda: train.TorchTrainer("Linear", quantile_alpha=[0.1, "x"]), "quantile_alpha"),  # type: ignore[list-item]
        (lambda: train.TorchTrainer("Linear", quantile_alpha=[0.1], loss="mse_loss"), "quantile_alpha"),
    ],
)
def test_wrong_quantiles_are_refused(make: Callable[[], train.Trainer], message: str) -> None:
    try:
        with pytest.raises(ParameterError, match=message):
            make()
    except ImportError as error:
        pytest.skip(str(error))


def test_estimators_without_quantiles_are_refused() -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    for estimator in (linear.LinearRegression(), linear.SGDRegressor()):
        with pytest.raises(ParameterError, match="quantile_alpha"):
            train.SklearnTrainer(estimator, quantile_alpha=LEVELS)


def test_quantiles_of_several_targets_are_refused() -> None:
    pytest.importorskip("xgboost")
    table = _table().with_columns(other=pl.col("y") * 2)
    with pytest.raises(ParameterError, match="quantiles of 2 targets"):
        _trainer("xgboost").fit(None, table, None, ["y", "other"], verbose=False)


def test_served_quantiles_are_an_object() -> None:
    pytest.importorskip("xgboost")
    table = _table()
    pipeline = _trainer("xgboost").fit(None, table, None, ["y"], verbose=False).inference_pipeline
    from rayline.serve.protocol import PredictionWriter

    results = PredictionWriter(pipeline.target).predictions(pipeline.scores(table.head(2).lazy()))
    expected = pipeline.predict(table.head(2)).to_dicts()
    assert results == [dict(zip(["0.1", "0.5", "0.9"], row.values(), strict=True)) for row in expected]


def test_served_quantiles_are_explained() -> None:
    pytest.importorskip("xgboost")
    from rayline.serve.explanations import RowExplainer

    table = _table()
    pipeline = _trainer("xgboost").fit(None, table, None, ["y"], verbose=False).inference_pipeline
    (answer,), (expected,) = (
        RowExplainer(pipeline).explanations(table.head(1), None),
        pipeline.explain(table.head(1)).to_dicts(),
    )
    assert answer["score"] == expected["score"]
    assert answer["score"] == pytest.approx(pipeline.predict(table.head(1))["prediction_0.5"][0], rel=1e-6)
    assert answer["contributions"] == {name: expected[name] for name in answer["contributions"]}
