"""Metrics and early stopping on several workers are those of all rows.

Covers `frameworks.lightgbm_metrics` and `frameworks.xgboost_metrics` too.
"""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest
import xgboost
from sklearn import metrics as oracle

from rayline import train
from rayline.data import from_polars

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RANDOM = np.random.default_rng(3)


def table(n: int, *, weights: bool) -> pl.DataFrame:
    x = RANDOM.normal(size=(n, 3))
    y = np.where(x[:, 0] + 0.7 * RANDOM.normal(size=n) > 0.3, "yes", "no")
    made = pl.DataFrame({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "y": y})
    return made.with_columns(w=RANDOM.uniform(0.5, 2.0, n)) if weights else made


def share_of_second(scores: Any, data: Any) -> Any:
    """A metric that no mean of parts gives."""
    labels = data.get_label()
    return "gap", float(np.median(scores[labels > 0]) - np.median(scores[labels == 0])), True


def gap(scores: Any, data: Any) -> tuple[str, float]:
    return share_of_second(scores, data)[:2]


def datasets(rows: pl.DataFrame, pieces: int) -> Any:
    """Blocks of very different contents: each rank alone would measure something else."""
    rows = rows.sort("a")
    return from_polars(list(rows.iter_slices(-(-rows.height // pieces))))


@pytest.mark.parametrize("weights", [False, True])
def test_lightgbm_measures_all_rows(ray_session: Any, *, weights: bool) -> None:
    data, test = table(600, weights=weights), table(301, weights=weights)
    params = {
        "metric": ["binary_logloss", "auc", "average_precision", "binary_error"], "learning_rate": 0.3, "min_data_in_leaf": 5,
        "early_stopping_round": 5, "first_metric_only": True,
    }  # fmt: skip
    trainer = train.LightGBMTrainer(params, 60, feval=share_of_second, num_workers=2, seed=1)
    given: Any = {"sample_weight": "w"} if weights else {}
    result = trainer.fit(None, datasets(data, 4), datasets(test, 3), ["y"], verbose=False, **given)
    model, history = result.fitted_model, result.history
    assert history.height < 60
    losses = history["test-binary_logloss"].to_numpy()
    assert model.best_iteration == int(np.argmin(losses)) + 1  # stopped by what all rows say
    assert history.height == model.best_iteration + 5
    for name, rows in (("train", data), ("test", test)):
        truth, weight = (rows["y"] == "yes").to_numpy(), rows["w"].to_numpy() if weights else None
        for i in (0, model.best_iteration - 1):
            p = model.predict(rows.select("a", "b", "c").to_numpy(), num_iteration=i + 1)
            row = history.row(i, named=True)
            expected = {
                "binary_logloss": oracle.log_loss(truth, p, sample_weight=weight),
                "auc": oracle.roc_auc_score(truth, p, sample_weight=weight),
                "average_precision": oracle.average_precision_score(truth, p, sample_weight=weight),
                "binary_error": 1 - oracle.accuracy_score(truth, p > 0.5, sample_weight=weight),
                "gap": np.median(p[truth]) - np.median(p[~truth]),
            }
            for metric, value in expected.items():
                assert row[f"{name}-{metric}"] == pytest.approx(value, rel=1e-6), (name, metric, i)


def test_lightgbm_takes_a_rank_without_test_rows(ray_session: Any) -> None:
    data, test = table(400, weights=False), table(1, weights=False)
    result = train.LightGBMTrainer({}, 3, num_workers=2, seed=1).fit(
        None, datasets(data, 2), datasets(test, 1), ["y"], verbose=False
    )
    p = result.fitted_model.predict(test.select("a", "b", "c").to_numpy())
    loss = oracle.log_loss(test["y"] == "yes", p, labels=[False, True])
    assert result.history["test-binary_logloss"][-1] == pytest.approx(loss, rel=1e-6)


def test_lightgbm_stops_together_when_a_callback_of_its_own_does(ray_session: Any) -> None:
    data, test = table(600, weights=False), table(300, weights=False)
    stop = lightgbm.early_stopping(5, first_metric_only=True, verbose=False)
    trainer = train.LightGBMTrainer({"learning_rate": 0.3}, 60, callbacks=[stop], num_workers=2, seed=1)
    result = trainer.fit(None, datasets(data, 4), datasets(test, 3), ["y"], verbose=False)
    assert result.fitted_model.best_iteration == int(np.argmin(result.history["test-binary_logloss"])) + 1


@pytest.mark.parametrize("weights", [False, True])
def test_xgboost_measures_all_rows(ray_session: Any, *, weights: bool) -> None:
    data, test = table(600, weights=weights), table(301, weights=weights)
    params = {"eval_metric": ["auc", "aucpr", "error", "logloss"], "eta": 0.5}
    options: dict[str, Any] = {"early_stopping_rounds": 5, "custom_metric": gap, "maximize": True}
    trainer = train.XGBoostTrainer(params, 60, **options, num_workers=2, seed=1)
    given: Any = {"sample_weight": "w"} if weights else {}
    result = trainer.fit(None, datasets(data, 4), datasets(test, 3), ["y"], verbose=False, **given)
    model, history = result.fitted_model, result.history
    for name, rows in (("train", data), ("test", test)):
        truth, weight = (rows["y"] == "yes").to_numpy(), rows["w"].to_numpy() if weights else None
        matrix = xgboost.DMatrix(
            rows.select("a", "b", "c").to_numpy(), truth, weight=weight, feature_names=["a", "b", "c"]
        )
        for i in (0, history.height // 2):
            row, part = history.row(i, named=True), model[: i + 1]
            part.set_param([("eval_metric", metric) for metric in params["eval_metric"]])  # type: ignore[attr-defined]
            own = dict(one.split(":") for one in part.eval(matrix, "all").split()[1:])
            p = part.predict(matrix)
            for metric in params["eval_metric"]:  # type: ignore[attr-defined]
                assert row[f"{name}-{metric}"] == pytest.approx(float(own[f"all-{metric}"]), abs=2e-5), (
                    name,
                    metric,
                    i,
                )
            assert row[f"{name}-gap"] == pytest.approx(np.median(p[truth]) - np.median(p[~truth]), rel=1e-5)
