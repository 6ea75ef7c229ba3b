"""Batch inference on Ray Data, against a bare scan with the library's own predict and against what one writes by hand today;
and how long a fresh process takes to open an artifact."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import xgboost

from bench.report import Comparison, Options, Section, seconds
from bench.synthetic import FLOATS, WITH_MISSING, table
from rayline import data, train
from rayline.inference.pipeline import InferencePipeline
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler

TREES = 50
CATEGORIES = ["s10", "s100"]
COLUMNS = [*FLOATS, *CATEGORIES]
FILES = 8


def run(options: Options) -> Section:
    """All comparisons of this program."""
    n = options.small(5_000_000)
    section = Section(
        "Batch inference",
        f"XGBoost, {TREES} trees of depth 6, behind impute + scale + one-hot (10 columns become 118) on {n:,} rows in Parquet, Ray with 2 "
        "CPUs. Every line reads the files and consumes all predictions. By hand: a class for map_batches with pandas, as Ray's "
        "documentation has it, that holds a fitted scikit-learn ColumnTransformer and the Booster (concurrency 2).",
        packages=["xgboost-cpu", "ray", "scikit-learn", "pandas"],
    )
    pipeline = trained()
    section.add(opened(pipeline, options))
    section.add(*on_ray(pipeline, n, options))
    return section


def trained() -> InferencePipeline:
    """A pipeline over some rows of the table."""
    rows = _labelled(200_000)
    stages = [
        ("impute", SimpleImputer(WITH_MISSING)),
        ("scale", StandardScaler(FLOATS)),
        ("onehot", OneHotEncoder(CATEGORIES)),
    ]
    trainer = train.XGBoostTrainer({"objective": "binary:logistic", "max_depth": 6}, num_boost_round=TREES)
    result = train.fit(
        trainer, train.Preprocessor(stages), train_dataset=rows, target_columns=["y"], metrics=[], verbose=False
    )
    return result.inference_pipeline


def _labelled(n: int) -> pl.DataFrame:
    rows = table(n, seed=0).select(COLUMNS)
    return rows.with_columns(y=((pl.col("f4") > 4) ^ (pl.col("s10") > "v4")).cast(pl.Int8))


def opened(pipeline: InferencePipeline, options: Options) -> Comparison:
    """Seconds from `import rayline` to the loaded pipeline in a fresh process, and of importing XGBoost alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.rayline"
        pipeline.save(path)
        ours = [_fresh(f"import rayline; rayline.load({str(path)!r})") for _ in range(options.repeats + 2)]
        library = [_fresh("import xgboost") for _ in range(options.repeats + 2)]
    return Comparison("import rayline and load, fresh process (the goal is 1 s)", ours, "import xgboost alone", library)


def _fresh(work: str) -> float:
    code = f"import time; start = time.perf_counter()\n{work}\nprint(time.perf_counter() - start)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def on_ray(pipeline: InferencePipeline, n: int, options: Options) -> list[Comparison]:
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        with tempfile.TemporaryDirectory() as folder:
            for i in range(FILES):
                table(n // FILES, seed=i).select(COLUMNS).write_parquet(Path(folder) / f"{i}.parquet")
            transformed = pipeline.preprocessor.transform(table(n, seed=0).select(COLUMNS).head(n // FILES))
            booster = pipeline.model.native

            def scan() -> None:
                for _ in data.read_parquet(folder).iter_internal_ref_bundles():
                    pass

            def ours() -> None:
                for _ in pipeline.transform(data.read_parquet(folder), keep_columns=[]).iter_internal_ref_bundles():
                    pass

            def native() -> None:
                """The library's own predict of the same rows on this machine's cores."""
                matrix = transformed.select(booster.feature_names or transformed.columns).to_numpy(order="c")
                for _ in range(FILES):
                    booster.inplace_predict(matrix, validate_features=False)

            by_hand = hand_written(folder)
            scan()
            mine, bare, theirs = [], [], []
            for i in range(options.repeats):
                mine.append(seconds(ours))
                bare.append(seconds(scan) + seconds(native))
                if i == 0 or options.full:
                    theirs.append(seconds(by_hand))
    finally:
        if started:
            ray.shutdown()
    return [
        Comparison("transform on Ray", mine, "bare scan + Booster.inplace_predict", bare, goal=1.2),
        Comparison("transform on Ray", mine, "map_batches(pandas) by hand", theirs),
    ]


def hand_written(folder: str) -> Any:
    """What a Ray user writes today: scikit-learn for the preprocessing, a callable class for the model."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer as Imputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder as OneHot
    from sklearn.preprocessing import StandardScaler as Scaler

    rows = _labelled(200_000).to_pandas()
    whole = [name for name in FLOATS if name not in WITH_MISSING]
    transformer = ColumnTransformer(
        [
            ("filled", make_pipeline(Imputer(), Scaler()), WITH_MISSING),
            ("whole", Scaler(), whole),
            ("onehot", OneHot(handle_unknown="ignore"), CATEGORIES),
        ]
    ).fit(rows[COLUMNS])
    params = {"objective": "binary:logistic", "max_depth": 6}
    booster = xgboost.train(params, xgboost.DMatrix(transformer.transform(rows[COLUMNS]), rows["y"]), TREES)

    class Predictor:
        def __init__(self) -> None:
            self.transformer, self.booster = transformer, booster

        def __call__(self, batch: Any) -> Any:
            batch["prediction"] = (
                self.booster.predict(xgboost.DMatrix(self.transformer.transform(batch[COLUMNS]))) > 0.5
            )
            return batch[["prediction"]]

    def work() -> None:
        # Half a CPU for each: actors that hold all CPUs leave none to read the files, and nothing ever ends.
        predicted = data.read_parquet(folder).map_batches(Predictor, batch_format="pandas", concurrency=2, num_cpus=0.5)
        for _ in predicted.iter_internal_ref_bundles():
            pass

    return work
