"""Counts and positive amounts: objectives that cannot learn every number, of every framework.

Covers `core.objective` and `frameworks.torch_losses` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import train
from rayline.core.errors import DataError, ParameterError
from rayline.core.objective import NON_NEGATIVE, POSITIVE, LabelRange
from rayline.stages import StandardScaler
from tests.train.conftest import saved_and_loaded

Make = Callable[[], train.Trainer]


def _sklearn(name: str, **params: Any) -> Make:
    def make() -> train.Trainer:
        import sklearn.ensemble
        import sklearn.linear_model

        kind = getattr(sklearn.ensemble, name, None) or getattr(sklearn.linear_model, name)
        return train.SklearnTrainer(kind(**params))

    return make


def _torch(loss: str) -> Make:
    return lambda: train.TorchTrainer("Linear", loss=loss, lr=0.05, max_epochs=40, seed=1)


NON_NEGATIVE_ONLY: dict[str, Make] = {
    "xgboost poisson": lambda: train.XGBoostTrainer(
        {"objective": "count:poisson", "max_depth": 3}, num_boost_round=40, seed=1
    ),
    "xgboost tweedie": lambda: train.XGBoostTrainer(
        {"objective": "reg:tweedie", "max_depth": 3}, num_boost_round=20, seed=1
    ),
    "lightgbm poisson": lambda: train.LightGBMTrainer({"objective": "poisson"}, num_boost_round=40, seed=1),
    "lightgbm tweedie": lambda: train.LightGBMTrainer({"objective": "tweedie"}, num_boost_round=40, seed=1),
    "catboost poisson": lambda: train.CatBoostTrainer({"loss_function": "Poisson", "iterations": 60}, seed=1),
    "catboost tweedie": lambda: train.CatBoostTrainer(
        {"loss_function": "Tweedie:variance_power=1.5", "iterations": 60, "learning_rate": 0.3}, seed=1
    ),
    "sklearn poisson": _sklearn("PoissonRegressor"),
    "sklearn tweedie": _sklearn("TweedieRegressor", power=1.5, link="log"),
    "sklearn boosted poisson": _sklearn("HistGradientBoostingRegressor", loss="poisson", max_iter=40),
    "sklearn forest": _sklearn("RandomForestRegressor", criterion="poisson", n_estimators=10),
    "torch poisson": _torch("poisson"),
    "torch tweedie": _torch("tweedie"),
}
POSITIVE_ONLY: dict[str, Make] = {
    "xgboost gamma": lambda: train.XGBoostTrainer(
        {"objective": "reg:gamma", "max_depth": 3}, num_boost_round=20, seed=1
    ),
    "lightgbm gamma": lambda: train.LightGBMTrainer({"objective": "gamma"}, num_boost_round=40, seed=1),
    "sklearn gamma": _sklearn("GammaRegressor"),
    "sklearn boosted gamma": _sklearn("HistGradientBoostingRegressor", loss="gamma", max_iter=40),
    "torch gamma": _torch("gamma"),
}


def _made(make: Make) -> train.Trainer:
    try:
        return make()
    except ImportError as error:
        pytest.skip(str(error))


def _table(*, positive: bool, n: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(0)
    x = random.normal(size=n)
    mean = np.exp(0.6 * x + 1)
    y = random.gamma(8.0, mean / 8) if positive else random.poisson(mean).astype(float)
    return pl.DataFrame({"x": x, "noise": random.normal(size=n), "y": y})


@pytest.mark.parametrize("name", [*NON_NEGATIVE_ONLY, *POSITIVE_ONLY])
def test_counts_are_learned_saved_and_predicted_as_means(name: str) -> None:
    table = _table(positive=name in POSITIVE_ONLY)
    preprocessor = train.Preprocessor([("scale", StandardScaler())])
    result = _made({**NON_NEGATIVE_ONLY, **POSITIVE_ONLY}[name]).fit(preprocessor, table, table, ["y"], verbose=False)
    predicted = result.inference_pipeline.predict(table)["prediction"].to_numpy()
    # Means, not their logarithms, and close to the true ones.
    mean = np.exp(0.6 * table["x"].to_numpy() + 1)
    assert (predicted > 0).all()
    assert np.corrcoef(np.log(predicted), np.log(mean))[0, 1] > 0.8
    assert abs(predicted.mean() - table["y"].mean()) < 0.25 * table["y"].mean()  # type: ignore[operator]
    loaded = saved_and_loaded(result.inference_pipeline)
    assert np.array_equal(loaded.predict(table)["prediction"].to_numpy(), predicted)
    rows = loaded.predict(table.head(3).to_dicts())
    assert np.allclose([row["prediction"] for row in rows], predicted[:3], rtol=1e-5)


@pytest.mark.parametrize("where", ["train", "test"])
@pytest.mark.parametrize("name", [*NON_NEGATIVE_ONLY, *POSITIVE_ONLY])
def test_labels_that_cannot_be_learned_are_refused_before_the_training(name: str, where: str) -> None:
    table, worst = _table(positive=name in POSITIVE_ONLY), 0.0 if name in POSITIVE_ONLY else -1.0
    bad = table.with_columns(y=pl.when(pl.int_range(pl.len()) == 7).then(worst).otherwise("y"))
    tables = (bad, table) if where == "train" else (table, bad)
    trainer = _made({**NON_NEGATIVE_ONLY, **POSITIVE_ONLY}[name])
    with pytest.raises(DataError, match=r"'y' has labels that the objective .* cannot learn") as caught:
        trainer.fit(None, *tables, ["y"], verbose=False)
    expected = "above 0" if name in POSITIVE_ONLY else "of at least 0"
    assert f"Expected every label {expected}; got labels from {worst:g}" in str(caught.value)


def test_catboost_without_gamma_says_so() -> None:
    pytest.importorskip("catboost")
    with pytest.raises(ParameterError, match="loss_function='Gamma'"):
        train.CatBoostTrainer({"loss_function": "Gamma"})


def test_losses_of_torch_are_deviances() -> None:
    torch = pytest.importorskip("torch")
    from sklearn.metrics import mean_gamma_deviance, mean_poisson_deviance, mean_tweedie_deviance

    from rayline.frameworks import torch_losses

    random = np.random.default_rng(1)
    y, mean = random.gamma(2.0, 1.0, 50), random.gamma(2.0, 1.0, 50)

    def excess(loss: Any) -> float:
        """Twice how much worse the loss of these means is than that of the truth itself."""
        own, best = (loss(torch.tensor(np.log(value)), torch.tensor(y)).mean() for value in (mean, y))
        return float(2 * (own - best))

    assert excess(torch_losses.GammaLoss()) == pytest.approx(mean_gamma_deviance(y, mean))
    assert excess(torch_losses.poisson_nll) == pytest.approx(mean_poisson_deviance(y, mean))
    assert excess(torch_losses.TweedieLoss(1.3)) == pytest.approx(mean_tweedie_deviance(y, mean, power=1.3))


@pytest.mark.parametrize(
    ("labels", "smallest", "largest", "holds"),
    [
        (NON_NEGATIVE, 0, 9, True),
        (POSITIVE, 0, 9, False),
        (LabelRange(0, 1), 0, 1, True),
        (LabelRange(0, 1), 0, 2, False),
    ],
)
def test_label_ranges(labels: LabelRange, smallest: float, largest: float, holds: bool) -> None:
    assert labels.holds(smallest, largest) is holds
