"""Survival times: events that were observed, censored times, and times between two bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import train, tune
from rayline.core.errors import DataError, ParameterError, SchemaError
from rayline.inference.card import model_card
from rayline.serve.protocol import PredictionWriter
from rayline.stages import Log, StandardScaler
from tests.train.conftest import saved_and_loaded

TRAINERS: dict[str, Callable[..., train.Trainer]] = {
    "xgboost aft": lambda **o: train.XGBoostTrainer(
        {"objective": "survival:aft", "aft_loss_distribution": "normal", "aft_loss_distribution_scale": 0.5, "max_depth": 3},
        num_boost_round=40, **o,
    ),
    "xgboost cox": lambda **o: train.XGBoostTrainer({"objective": "survival:cox", "max_depth": 3}, num_boost_round=30, **o),
    "catboost aft": lambda **o: train.CatBoostTrainer(
        {"loss_function": "SurvivalAft:dist=Normal;scale=0.5", "iterations": 80, "learning_rate": 0.2}, **o
    ),
    "catboost cox": lambda **o: train.CatBoostTrainer({"loss_function": "Cox", "iterations": 40}, **o),
}  # fmt: skip
RISK = ("xgboost cox", "catboost cox")


def trainer_of(name: str, **options: Any) -> train.Trainer:
    try:
        return TRAINERS[name](**{"seed": 1, **options})
    except ImportError as error:
        pytest.skip(str(error))


def patients(n: int = 400, seed: int = 0) -> pl.DataFrame:
    """A greater x means a longer life; a third of the times are censored."""
    random = np.random.default_rng(seed)
    x = random.normal(size=n)
    time = np.exp(1 + x + random.normal(size=n) * 0.4)
    censored = random.exponential(np.exp(2.5), n)
    return pl.DataFrame(
        {
            "x": x,
            "noise": random.normal(size=n),
            "days": np.minimum(time, censored),
            "died": time <= censored,
            "time": time,
        }
    )


def naive_concordance(days: np.ndarray, died: np.ndarray, risk: np.ndarray) -> float:
    right = pairs = 0.0
    for i in np.flatnonzero(died):
        later = (days > days[i]) | ((days == days[i]) & ~died)
        pairs += later.sum()
        right += (risk[i] > risk[later]).sum() + (risk[i] == risk[later]).sum() / 2
    return float(right / pairs)


def given(**more: Any) -> dict[str, Any]:
    return {"target_columns": ["days"], "event": "died", "verbose": False, **more}


def preprocessor() -> train.Preprocessor:
    return train.Preprocessor([("scale", StandardScaler())])


@pytest.mark.parametrize("name", TRAINERS)
def test_the_whole_path(name: str) -> None:
    table, test = patients().drop("time"), patients(200, seed=1)
    result = trainer_of(name).fit(preprocessor(), table, test.drop("time"), **given())
    pipeline = result.inference_pipeline
    assert list(pipeline.input_schema) == ["x", "noise"]
    predicted = pipeline.predict(test)
    assert predicted.columns == ["prediction"]
    scores = predicted["prediction"].to_numpy()
    is_risk = name in RISK
    expected = naive_concordance(test["days"].to_numpy(), test["died"].to_numpy(), scores if is_risk else -scores)
    assert result.metrics["test-concordance"] == pytest.approx(expected, abs=1e-9)
    assert expected > 0.75
    assert pipeline.target.predicts_risk is is_risk
    if not is_risk:  # times on the scale of the labels, also of those who were censored
        assert abs(np.median(np.log(scores / test["time"].to_numpy()))) < 0.3
    loaded = saved_and_loaded(pipeline)
    assert loaded.predict(test).equals(predicted)
    assert loaded.target == pipeline.target
    rows = loaded.predict(test.select("x", "noise").head(3).to_dicts())
    assert np.allclose([row["prediction"] for row in rows], scores[:3], rtol=1e-6)
    assert result.preprocessor.chain(result.fitted_model).predict(test).equals(predicted)
    assert ("a relative risk" if is_risk else "a time") in model_card(pipeline, data=test)
    assert PredictionWriter(pipeline.target).predictions(pipeline.scores(test.head(2).lazy())) == pytest.approx(
        scores[:2]
    )


def test_xgboost_learns_what_it_learns_itself() -> None:
    xgboost = pytest.importorskip("xgboost")
    table = patients()
    features = table.select("x", "noise").to_numpy()
    days, died = table["days"].to_numpy(), table["died"].to_numpy()
    params = {"max_depth": 3, "seed": 1, "nthread": 1}
    aft = xgboost.DMatrix(features, label_lower_bound=days, label_upper_bound=np.where(died, days, np.inf))
    cox = xgboost.DMatrix(features, label=np.where(died, days, -days))
    for name, data, rounds, own in (
        ("xgboost aft", aft, 40, {"objective": "survival:aft", "aft_loss_distribution_scale": 0.5}),
        ("xgboost cox", cox, 30, {"objective": "survival:cox"}),
    ):
        expected = xgboost.train({**params, **own}, data, rounds).predict(data)
        result = trainer_of(name).fit(None, table.drop("time"), **given())
        assert np.allclose(result.inference_pipeline.predict(table)["prediction"], expected, rtol=1e-5)


def test_bounds_of_times() -> None:
    pytest.importorskip("xgboost")
    table = patients()
    low = pl.col("time").floor()
    bounds = table.select("x", "noise", low=low, high=pl.when("died").then(low + 1).otherwise(None))
    result = trainer_of("xgboost aft").fit(None, bounds, target_columns=["low", "high"], verbose=False)
    days = result.inference_pipeline.predict(bounds)["prediction"].to_numpy()
    assert np.corrcoef(np.log(days), np.log(table["time"].to_numpy()))[0, 1] > 0.8
    infinite = bounds.with_columns(pl.col("high").fill_null(float("inf")))
    same = trainer_of("xgboost aft").fit(None, infinite, target_columns=["low", "high"], verbose=False)
    assert np.array_equal(same.inference_pipeline.predict(bounds)["prediction"].to_numpy(), days)


def test_without_events_all_were_observed() -> None:
    pytest.importorskip("xgboost")
    table = patients().select("x", "noise", days="time")
    plain = trainer_of("xgboost cox").fit(None, table, target_columns=["days"], verbose=False)
    event = trainer_of("xgboost cox").fit(None, table.with_columns(died=pl.lit(True)), **given())
    one, other = (r.inference_pipeline.predict(table)["prediction"].to_numpy() for r in (plain, event))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("died", ["boolean", "integers", "floats", "array"])
def test_events_of_any_type(died: str) -> None:
    table = patients().drop("time")
    expected = trainer_of("xgboost aft").fit(None, table, **given()).inference_pipeline.predict(table)
    if died == "array":
        x, y = table.select("x", "noise"), table["days"].to_numpy()
        result = trainer_of("xgboost aft").fit(None, X=x, y=y, event=table["died"].to_numpy(), verbose=False)
    else:
        dtype = {"boolean": pl.Boolean, "integers": pl.Int8, "floats": pl.Float32}[died]
        result = trainer_of("xgboost aft").fit(None, table.with_columns(pl.col("died").cast(dtype)), **given())
    assert result.inference_pipeline.predict(table).equals(expected)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (pl.col("days") - 100, DataError, "Expected every label of at least 0"),
        (pl.when(pl.col("x") > 2).then(0.0).otherwise("days").alias("days"), DataError, "times above 0"),
        (pl.when(pl.col("x") > 2).then(None).otherwise("days").alias("days"), DataError, "'days' has"),
        (pl.col("died").cast(pl.Int8) + 1, DataError, "'died' has values from 1 to 2"),
        (pl.col("died").cast(pl.Float64) / 2, DataError, "'died' has values from 0 to 0.5"),
        (pl.col("died").cast(pl.String), SchemaError, "'died'"),
        (pl.when(pl.col("x") > 2).then(None).otherwise("died").alias("died"), DataError, "'died' has"),
    ],
)
@pytest.mark.parametrize("where", ["train", "test"])
def test_wrong_labels(change: pl.Expr, error: type[Exception], message: str, where: str) -> None:
    table = patients().drop("time")
    bad = table.with_columns(change)
    tables = (bad, table) if where == "train" else (table, bad)
    # In the test set another type than that of the training rows is an error of its own.
    with pytest.raises(
        error if where == "train" else (DataError, SchemaError), match=message if where == "train" else "'days'|'died'"
    ):
        trainer_of("xgboost aft").fit(None, *tables, **given())


def test_wrong_arguments() -> None:
    pytest.importorskip("xgboost")
    table = patients().drop("time")
    with pytest.raises(ParameterError, match="is for survival times"):
        train.XGBoostTrainer({"objective": "reg:gamma"}).fit(None, table, **given())
    stages = train.Preprocessor([], target_stages=[("log", Log())])
    with pytest.raises(ParameterError, match="target stages do not apply"):
        trainer_of("xgboost aft").fit(stages, table, **given())
    with pytest.raises(ParameterError, match="cannot learn 2 target columns"):
        trainer_of("xgboost cox").fit(None, table, target_columns=["days", "died"], verbose=False)
    with pytest.raises(ParameterError, match="one worker only"):
        trainer_of("xgboost cox", num_workers=2)
    swapped = table.with_columns(high=pl.col("days") / 2).drop("died")
    with pytest.raises(DataError, match="upper bounds of at least 'days'"):
        trainer_of("xgboost aft").fit(None, swapped, target_columns=["days", "high"], verbose=False)


@pytest.mark.ray
def test_tuned_and_on_workers(ray_session: Any) -> None:
    import ray

    pytest.importorskip("xgboost")
    table = patients().drop("time")
    analysis = tune.run(
        trainer_of("xgboost aft"), config={"max_depth": tune.grid_search([2, 4])}, train_dataset=table, target_columns=["days"],
        event="died", cv=3, verbose=False,
    )  # fmt: skip
    assert analysis.metric == "concordance"
    found = [
        naive_concordance(part["days"].to_numpy(), part["died"].to_numpy(), -part["prediction"].to_numpy())
        for part in analysis.oof.partition_by("fold")
    ]
    assert analysis.best_score == pytest.approx(np.mean(found))
    ds = ray.data.from_arrow([part.to_arrow() for part in table.iter_slices(100)])
    result = trainer_of("xgboost aft", num_workers=2).fit(preprocessor(), ds, ds, **given())
    scores = result.inference_pipeline.predict(table)["prediction"].to_numpy()
    expected = naive_concordance(table["days"].to_numpy(), table["died"].to_numpy(), -scores)
    assert result.metrics["test-concordance"] == pytest.approx(expected)
    assert expected > 0.75
