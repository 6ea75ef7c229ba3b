"""Contributions of raw columns, against the frameworks' own contributions of prepared features."""

from __future__ import annotations

import lightgbm
import numpy as np
import polars as pl
import xgboost

from bench.report import Comparison, Options, seconds
from bench.synthetic import FLOATS, WITH_MISSING, table
from rayline import train
from rayline.stages import OneHotEncoder, SimpleImputer, StandardScaler

TREES, CATEGORIES = 50, ["s10", "s100"]


def comparisons(options: Options) -> list[Comparison]:
    """`explain` of raw rows, and `pred_contribs` of the same rows after the stages."""
    rows = table(options.small(20_000), seed=1).select([*FLOATS, *CATEGORIES])
    fit_on = table(50_000, seed=0).select([*FLOATS, *CATEGORIES])
    fit_on = fit_on.with_columns(y=((pl.col("f4") > 4) ^ (pl.col("s10") > "v4")).cast(pl.Int8))
    stages = [
        ("impute", SimpleImputer(WITH_MISSING)),
        ("scale", StandardScaler(FLOATS)),
        ("onehot", OneHotEncoder(CATEGORIES)),
    ]
    trainers = {
        "XGBoost": train.XGBoostTrainer({"objective": "binary:logistic", "max_depth": 6}, num_boost_round=TREES),
        "LightGBM": train.LightGBMTrainer({"objective": "binary", "verbose": -1}, num_boost_round=TREES),
    }
    found = []
    for name, trainer in trainers.items():
        pipeline = train.fit(trainer, train.Preprocessor(stages), fit_on, None, ["y"], verbose=False).inference_pipeline
        assert pipeline.preprocessor is not None
        features = (
            pipeline.preprocessor.transform(rows).select(pipeline.model.feature_names).to_numpy().astype(np.float32)
        )
        native = pipeline.model.native

        def own(native: object = native, features: np.ndarray = features) -> object:  # type: ignore[type-arg]
            if isinstance(native, xgboost.Booster):
                return native.predict(xgboost.DMatrix(features), pred_contribs=True, validate_features=False)
            assert isinstance(native, lightgbm.Booster)
            return native.predict(features, pred_contrib=True)

        ours, theirs = [], []
        for _ in range(options.repeats):
            ours.append(seconds(lambda pipeline=pipeline: pipeline.explain(rows)))
            theirs.append(seconds(own))
        what = f"explain {rows.height:,} raw rows, {name} of {features.shape[1]} features"
        found.append(Comparison(what, ours, f"{name}'s pred_contribs of prepared features", theirs, goal=1.2))
    return found
