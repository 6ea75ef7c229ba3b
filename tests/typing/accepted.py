"""The whole public surface, as a type checker must see it: `reveal_type` must show no `Any` (see test_public_types.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, reveal_type

import polars as pl

import rayline as rl
from rayline import data, postprocess, serve, stages, train, tune
from rayline.stages import OneHotEncoder, OneHotEncoding, SimpleImputer, StandardScaler, TargetEncoder

table = pl.DataFrame({"x": [1.0, 2.0], "late": ["no", "yes"]})

if TYPE_CHECKING:
    imputer = SimpleImputer(strategy="median")
    pipeline = train.Preprocessor(
        stages=[("impute", imputer), ("scale", StandardScaler(with_mean=False)), ("onehot", OneHotEncoder())],
    )
    trainer = train.XGBoostTrainer({"max_depth": 3}, num_boost_round=20, num_workers=2, seed=1)
    result = train.fit(trainer, pipeline, train_dataset=table, target_columns=["late"])
    analysis = tune.run(trainer, data_config={"train_dataset": table}, config={})
    inference_pipeline = pipeline.chain(trainer.fitted_model)
    loaded = rl.load("late.rayline", use_gpu="auto")
    tune.run(trainer, use_gpu=True, resources_per_trial={"GPU": 0.25})
    train.TorchTrainer("MLP", compile={"mode": "max-autotune"}, mixed_precision=True, use_gpu=True)
    deployment = serve.to_deployment(loaded, name="late", use_gpu=True, ray_actor_options={"num_gpus": 0.5})

    reveal_type(imputer)
    reveal_type(data.map_batches)
    reveal_type(stages.PCA(n_components=2))
    reveal_type(OneHotEncoding())
    reveal_type(TargetEncoder())
    reveal_type(pipeline)
    reveal_type(pipeline.fit(table))
    reveal_type(trainer)
    reveal_type(train.Scaling(num_workers=(1, 4), backend="ray_train"))
    reveal_type(train.XGBoostTrainer({}, scaling=train.Scaling(num_workers=2)).scaling)
    reveal_type(train.LightGBMTrainer({}, num_boost_round=3))
    reveal_type(train.CatBoostTrainer({}))
    reveal_type(train.SklearnTrainer(object()))
    reveal_type(train.TorchTrainer("MLP", max_epochs=2))
    reveal_type(train.HorovodTrainer("MLP"))
    reveal_type(train.HuggingFaceTrainer("path"))
    reveal_type(train.RLlibTrainer("PPO", "CartPole-v1"))
    reveal_type(train.EarlyStopping("test-logloss", patience=3))
    reveal_type(trainer.fit(pipeline, table, target_columns=["late"]))
    reveal_type(result)
    reveal_type(result.metrics)
    reveal_type(result.inference_pipeline)
    reveal_type(analysis)
    reveal_type(analysis.best_pipeline)
    reveal_type(inference_pipeline)
    reveal_type(inference_pipeline.preprocessor)
    reveal_type(postprocess.Calibrate("beta"))
    reveal_type(postprocess.Threshold("cost", cost={"fp": 1, "fn": 5}))
    reveal_type(inference_pipeline.calibrated([postprocess.Conformal(coverage=0.9), postprocess.Clip(low=0)], table))
    reveal_type(analysis.calibrated([postprocess.Round()]))
    reveal_type(inference_pipeline.importance("shap", rows=table))
    reveal_type(inference_pipeline.partial_dependence(table, "x"))
    reveal_type(loaded)
    reveal_type(deployment)
    reveal_type(deployment.url)
    reveal_type(loaded.evaluate(table, metrics=["roc_auc"], by=["x"]))
    reveal_type(loaded.evaluate(table).metrics)
    reveal_type(loaded.evaluate(table).slices)
    reveal_type(loaded.evaluate(table).to_markdown())
    reveal_type(rl.compare({"old": loaded, "new": loaded}, table))
    reveal_type(rl.compare({"old": loaded, "new": loaded}, table).difference("roc_auc").low)
    reveal_type(train.cross_validate(trainer, pipeline, train_dataset=table, target_columns=["late"], cv=5))
    reveal_type(train.cross_validate(trainer, train_dataset=table, target_columns="late").metrics["roc_auc"].mean)
    reveal_type(result.save_report("report.html"))
    reveal_type(data.KFold(5))
    reveal_type(rl.RaylineError)
    reveal_type(rl.InferencePipeline)
