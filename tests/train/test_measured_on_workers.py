"""Metrics of a test set on workers: exact, and nothing that grows with its rows passes through the driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
import sklearn.metrics as sk

import rayline as rl
from rayline import evaluate, train
from rayline.train import table_training
from tests.ray_bytes import bytes_fetched

pytestmark = pytest.mark.ray


def rows(n: int) -> pl.DataFrame:
    random = np.random.default_rng(n)
    x, z = random.normal(size=n), random.normal(size=n)
    return pl.DataFrame({"x": x, "z": z, "late": np.where(x + random.normal(size=n) > 0, "yes", "no")})


def dataset(ray: Any, table: pl.DataFrame) -> Any:
    parts = table.iter_slices(-(-table.height // 3))
    return ray.data.from_arrow([part.to_arrow(compat_level=pl.CompatLevel.oldest()) for part in parts])


def worst(y_true: Any, y_pred: Any) -> float:
    return float(((y_true == "yes") & (y_pred == "no")).mean())


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    return bytes_fetched(monkeypatch)


# What every adapter trains is measured by the same code, on two workers or on one (the contract has the values for each framework).
TRAINERS = {
    "two workers": train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=2, num_workers=2, seed=1),
    "one worker": train.XGBoostTrainer({"max_depth": 2, "nthread": 1}, num_boost_round=2, num_workers=1, seed=1),
}


@pytest.mark.parametrize("workers", TRAINERS)
def test_the_driver_fetches_no_more_for_more_test_rows(
    ray_session: Any, fetched: Callable[[], int], workers: str
) -> None:
    trainset, sizes = dataset(ray_session, rows(500)), {}
    for n in (1_000, 50_000):
        table = rows(n)
        fetched()
        result = TRAINERS[workers].fit(None, trainset, dataset(ray_session, table), "late", verbose=False)
        sizes[n] = fetched()
        probability = result.model.predict_proba(table)["probability_yes"].to_numpy()
        truth = (table["late"] == "yes").to_numpy()
        assert result.metrics["test-roc_auc"] == pytest.approx(sk.roc_auc_score(truth, probability), rel=1e-6)
    assert sizes[50_000] - sizes[1_000] < 50_000  # less than a byte a row


def test_functions_scorers_and_statistics(ray_session: Any) -> None:
    class Missed(evaluate.MetricStatistic):  # of this function: no worker can import it
        name, mode, tasks = "missed_share", "min", ("binary",)

        def __init__(self, missed: int = 0, n: int = 0) -> None:
            self.missed, self.n = missed, n

        @classmethod
        def of(cls, batch: evaluate.ScoredBatch) -> Any:
            return cls(int(((batch.y_true == "yes") & (batch.y_pred == "no")).sum()), len(batch))

        def merge(self, other: Any) -> Any:
            return type(self)(self.missed + other.missed, self.n + other.n)

        def value(self) -> float:
            return self.missed / self.n

    table = rows(300)
    area = sk.make_scorer(sk.roc_auc_score, response_method="predict_proba")
    wanted = {"worst": worst, "area": area, "own": Missed}
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, num_workers=2, metrics=wanted, seed=1)
    result = trainer.fit(None, dataset(ray_session, table), dataset(ray_session, table), "late", verbose=False)
    predicted = result.model.predict(table)["prediction"].to_numpy()
    chance = result.model.predict_proba(table)["probability_yes"].to_numpy()
    truth = table["late"].to_numpy()
    assert result.metrics["test-worst"] == worst(truth, predicted) == pytest.approx(result.metrics["test-own"])
    assert result.metrics["test-area"] == pytest.approx(sk.roc_auc_score(truth == "yes", chance))


def test_weights_that_a_function_does_not_take_are_said(ray_session: Any) -> None:
    table = rows(200).with_columns(w=pl.Series(np.arange(200) % 3 + 0.5))
    data = dataset(ray_session, table)
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=2, num_workers=2, metrics=[worst], seed=1)
    with pytest.warns(UserWarning, match="worst is not weighted"):
        result = train.fit(trainer, None, data, data, "late", sample_weight="w", verbose=False)
    predicted = result.model.predict(table.drop("w"))["prediction"].to_numpy()
    assert result.metrics["test-worst"] == pytest.approx(worst(table["late"].to_numpy(), predicted))


def test_a_rank_without_test_rows(ray_session: Any) -> None:
    trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=2, num_workers=2, seed=1)
    one = rows(1)
    result = trainer.fit(None, dataset(ray_session, rows(100)), dataset(ray_session, one), "late", verbose=False)
    predicted = result.model.predict(one)["prediction"]
    assert result.metrics["test-accuracy"] == float((predicted == one["late"]).mean())  # type: ignore[arg-type]


def test_too_many_rows_for_a_function_are_refused_before_the_training(
    ray_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_training, "MAX_GATHERED", 99)
    trainer = train.XGBoostTrainer({}, num_boost_round=2, num_workers=2, metrics=[worst])
    with pytest.raises(rl.DataError, match="metric 'worst': it needs all rows at once, and there are 100") as raised:
        trainer.fit(None, dataset(ray_session, rows(100)), dataset(ray_session, rows(100)), "late", verbose=False)
    assert "MetricStatistic" in str(raised.value)
