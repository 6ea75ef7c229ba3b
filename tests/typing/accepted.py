"""The whole public surface, as a type checker must see it: `reveal_type` must show no `Any` (see test_public_types.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, reveal_type

import numpy as np
import numpy.typing as npt
import polars as pl

import rayline as rl
from rayline import data, evaluate, postprocess, serve, stages, testing, train, tune
from rayline.stages import OneHotEncoder, OneHotEncoding, SimpleImputer, StandardScaler, TargetEncoder

table = pl.DataFrame({"x": [1.0, 2.0], "late": ["no", "yes"]})


def accuracy(y_true: npt.NDArray[np.generic], y_pred: npt.NDArray[np.generic]) -> float:
    return float(np.mean(y_true == y_pred))


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

    # -- rayline ---------------------------------------------------------------------------------------------------------
    for error in (
        rl.RaylineError,
        rl.ArtifactError,
        rl.DataError,
        rl.MissingExtraError,
        rl.NotBetterError,
        rl.NotFittedError,
    ):
        reveal_type(error("what", "expected", "hint"))
    for error in (
        rl.ParameterError,
        rl.PredictionError,
        rl.ResourceError,
        rl.SchemaError,
        rl.ServeError,
        rl.TrainingError,
    ):
        reveal_type(error("what", "expected", "hint"))
    reveal_type(loaded)
    reveal_type(rl.InferencePipeline(pipeline, loaded.model, [postprocess.Clip(low=0.0)]))
    reveal_type(rl.Model)
    reveal_type(rl.Preprocessor([("scale", StandardScaler())]))
    reveal_type(rl.compare({"old": loaded, "new": loaded}, table))
    reveal_type(rl.compare({"old": loaded, "new": loaded}, table).difference("roc_auc").low)
    reveal_type(rl.model_card(loaded, "card.md", name="late", data=table, history=result.history))

    @rl.register_stage
    class Half(rl.ColumnStage): ...

    @rl.register_framework
    class Constant(rl.Framework): ...

    reveal_type(Half)
    reveal_type(Constant)
    reveal_type(rl.Stage)

    # -- preprocessors, pipelines and models -----------------------------------------------------------------------------
    reveal_type(pipeline)
    reveal_type(pipeline.fit(table, target_columns=["late"]))
    reveal_type(pipeline.fit_folds(table, 5))
    reveal_type(pipeline.clone())
    reveal_type(pipeline.replace({"impute": {"strategy": "mean"}}))
    reveal_type(pipeline.stages)
    reveal_type(pipeline.target_stages)
    reveal_type(pipeline.learned)
    reveal_type(pipeline.lineage)
    reveal_type(pipeline.feature_names_out)
    reveal_type(pipeline.input_schema)
    reveal_type(pipeline.output_schema)
    reveal_type(pipeline.target_columns)
    reveal_type(pipeline.is_fitted)
    reveal_type(pipeline.scans)
    reveal_type(rl.Preprocessor.load("late.json"))
    reveal_type(rl.Preprocessor.from_json(pipeline.to_json()))
    reveal_type(inference_pipeline)
    reveal_type(inference_pipeline.preprocessor)
    reveal_type(inference_pipeline.model)
    reveal_type(inference_pipeline.input_schema)
    reveal_type(inference_pipeline.output_schema)
    reveal_type(inference_pipeline.examples)
    reveal_type(inference_pipeline.classes)
    reveal_type(inference_pipeline.calibrated([postprocess.Conformal(coverage=0.9), postprocess.Clip(low=0)], table))
    reveal_type(inference_pipeline.importance("shap", rows=table))
    reveal_type(inference_pipeline.partial_dependence(table, "x"))
    reveal_type(inference_pipeline.write_predictions(table, "predictions", resume=True, rows_per_file=100_000))
    reveal_type(inference_pipeline.on_gpu(False))
    reveal_type(loaded.model.classes)
    reveal_type(loaded.model.importance())
    reveal_type(loaded.model.on_gpu("auto"))
    reveal_type(loaded.evaluate(table, metrics=["roc_auc"], by=["x"]))
    reveal_type(loaded.evaluate(table).metrics["roc_auc"].value)
    reveal_type(loaded.evaluate(table).slices)
    reveal_type(loaded.evaluate(table).to_markdown())

    # -- rayline.data ----------------------------------------------------------------------------------------------------
    for splitter in (data.KFold(5), data.RepeatedKFold(5, n_repeats=2), data.Bootstrap(10, seed=1)):
        reveal_type(splitter)
    for by_column in (
        data.StratifiedKFold(5, column="late"),
        data.GroupKFold(5, column="x"),
        data.TimeSeriesSplit(3, column="x"),
    ):
        reveal_type(by_column)
    reveal_type(data.Holdout(0.2, stratify="late"))
    reveal_type(data.Splitter)
    reveal_type(data.Folds)
    reveal_type(data.read_parquet)
    reveal_type(data.read_csv)
    reveal_type(data.read_json)
    reveal_type(data.from_pandas)
    reveal_type(data.from_polars)
    reveal_type(data.from_arrow)
    reveal_type(data.map_batches)
    reveal_type(data.train_test_split(table, test_size=0.2, stratify="late"))

    # -- rayline.stages --------------------------------------------------------------------------------------------------
    reveal_type(imputer)
    reveal_type(stages.SimpleImputer(["x"], strategy="constant", fill_value=0.0))
    reveal_type(stages.GroupImputer(["x"], by="late", strategy="median"))
    reveal_type(stages.KNNImputer(n_neighbors=3, weights="distance"))
    reveal_type(stages.MissingIndicator(features="all"))
    reveal_type(stages.StandardScaler(with_mean=False))
    reveal_type(stages.MinMaxScaler(feature_range=(-1.0, 1.0), clip=True))
    reveal_type(stages.MaxAbsScaler())
    reveal_type(stages.RobustScaler(quantile_range=(5.0, 95.0)))
    reveal_type(stages.Normalizer(norm="l1"))
    reveal_type(stages.Log(offset=1.0))
    reveal_type(stages.PowerTransformer(method="box-cox"))
    reveal_type(stages.QuantileTransformer(n_quantiles=100, output_distribution="normal"))
    reveal_type(stages.KBinsDiscretizer(n_bins={"x": 4}, encode="onehot", strategy="kmeans"))
    reveal_type(stages.Binarizer(threshold=0.5))
    reveal_type(stages.Clipper(low=0.0, high=1.0))
    reveal_type(stages.SplineTransformer(n_knots=4, degree=2))
    reveal_type(stages.PolynomialFeatures(degree=2, interaction_only=True))
    reveal_type(stages.Ratio(["x"], per="y", zero=0.0))
    reveal_type(stages.Expression(output="z", formula=pl.col("x") * 2))
    reveal_type(stages.Concatenator(output="features"))
    reveal_type(stages.FunctionTransformer(["x"], function="double"))
    reveal_type(stages.PCA(n_components=2))
    reveal_type(stages.SelectKBest(k=3, score="f_classif"))
    reveal_type(stages.VarianceThreshold(threshold=0.1))
    reveal_type(stages.CorrelationFilter(threshold=0.9))
    reveal_type(stages.SelectColumns(["x"]))
    reveal_type(stages.DropColumns(pl.selectors.string()))
    reveal_type(stages.DropRows(where=pl.col("x") > 1))
    reveal_type(stages.OneHotEncoder(handle_unknown="error", categories={"size": ["S", "M"]}))
    reveal_type(OneHotEncoding())
    reveal_type(stages.OneHotEncoding(drop="first"))
    reveal_type(stages.OrdinalEncoder(unknown_value=-1.0, dtype="int64"))
    reveal_type(stages.LabelEncoder(classes=["no", "yes"]))
    reveal_type(TargetEncoder())
    reveal_type(stages.TargetEncoder(smooth=10.0, cv=3))
    reveal_type(stages.FrequencyEncoder(normalize=False))
    reveal_type(stages.RareCategories(min_frequency=0.05, name="rest"))
    reveal_type(stages.Categorizer())
    reveal_type(stages.HashEncoder(n_features=32))
    reveal_type(stages.FeatureHasher(n_features=1024))
    reveal_type(stages.MultiHotEncoder(max_categories=10))
    reveal_type(stages.DatetimeEncoder(parts=["year", "weekday"], cyclic=True))
    reveal_type(stages.CountVectorizer(ngram_range=(1, 2), min_df=2))
    reveal_type(stages.TfidfVectorizer(max_features=100, norm="l1"))
    reveal_type(stages.HashingVectorizer(n_features=4096))
    reveal_type(stages.Vectorizer(stop_words=["the"]))
    reveal_type(stages.Tokenizer(lowercase=False))
    reveal_type(stages.SMOTE(by="late", n_neighbors=3))
    reveal_type(stages.Upsample(by="late", ratio=0.5))
    reveal_type(stages.Downsample(by="late", seed=1))
    reveal_type(stages.CheckCategories(action="warn"))
    reveal_type(stages.CheckMissing(action="error"))
    reveal_type(stages.CheckRange(low=0.0, action="missing"))
    reveal_type(stages.register_function)
    reveal_type(imputer.parameters())
    reveal_type(imputer.replace(strategy="mean"))
    reveal_type(imputer.is_fitted)

    # -- rayline.postprocess ---------------------------------------------------------------------------------------------
    reveal_type(postprocess.Calibrate("beta"))
    reveal_type(postprocess.Threshold("cost", cost={"fp": 1, "fn": 5}))
    reveal_type(postprocess.Conformal(coverage=0.9, by=["x"], method="cv+"))
    reveal_type(postprocess.Clip(low=0.0))
    reveal_type(postprocess.Round(decimals=2))

    # -- rayline.train ---------------------------------------------------------------------------------------------------
    reveal_type(train.Preprocessor([("scale", StandardScaler())]))
    reveal_type(trainer)
    reveal_type(train.Trainer("xgboost", args=[{}], kwargs={"num_boost_round": 3}, class_weight="balanced"))
    reveal_type(train.XGBoostTrainer({}, scaling=train.Scaling(num_workers=2)).scaling)
    reveal_type(train.LightGBMTrainer({}, num_boost_round=3))
    reveal_type(train.CatBoostTrainer({}))
    reveal_type(train.SklearnTrainer(object()))
    reveal_type(train.TorchTrainer("MLP", max_epochs=2))
    reveal_type(train.HorovodTrainer("MLP"))
    reveal_type(train.HuggingFaceTrainer("path"))
    reveal_type(train.RLlibTrainer("PPO", "CartPole-v1"))
    reveal_type(train.Scaling(num_workers=(1, 4), backend="ray_train"))
    reveal_type(trainer.replace({"max_depth": 5}))
    reveal_type(trainer.scaled(train.Scaling(num_workers=2)))
    reveal_type(trainer.scheduled([(5, {"eta": 0.3}), (20, {"eta": 0.1})]))
    reveal_type(trainer.fit(pipeline, table, target_columns=["late"]))

    class Stop(train.Callback):
        def on_iteration(self, run: train.Run, iteration: int, metrics: object) -> bool:
            run.stop("me")
            return len(run.history) > 3

    callbacks = [
        Stop(),
        train.EarlyStopping("test-logloss", patience=3),
        train.ModelCheckpoint("checkpoints", every=5, keep=2),
        train.Progress(every=5),
        train.MLflow("late", save_pipeline=True),
        train.TensorBoard("runs"),
        train.WandB("late", mode="offline"),
    ]
    reveal_type(callbacks)
    reveal_type(train.Tracker)
    reveal_type(result)
    matrix, labels = np.zeros((4, 2)), np.array([0, 1, 0, 1])
    of_arrays = train.fit(trainer, X=matrix, y=labels, callbacks=callbacks, metrics=["roc_auc"])
    reveal_type(of_arrays)
    reveal_type(result.metrics)
    reveal_type(result.metric("auc"))
    reveal_type(result.history)
    reveal_type(result.model)
    reveal_type(result.inference_pipeline)
    reveal_type(result.preprocessor)
    reveal_type(result.trainer)
    reveal_type(result.seconds)
    reveal_type(result.evaluate(table))
    reveal_type(result.save_report("report.html"))
    scores = train.cross_validate(trainer, pipeline, train_dataset=table, target_columns=["late"], cv=data.KFold(5))
    reveal_type(scores)
    reveal_type(train.CrossValidation)
    reveal_type(train.Result)
    reveal_type(scores.metrics["roc_auc"].mean)
    reveal_type(scores.mean)
    reveal_type(scores.standard_error)
    reveal_type(scores.folds)
    reveal_type(scores.models)
    reveal_type(scores.pipelines)
    reveal_type(scores.evaluate(metrics=["roc_auc"]))

    # -- rayline.tune ----------------------------------------------------------------------------------------------------
    space = {
        "eta": tune.loguniform(1e-3, 1.0),
        "subsample": tune.uniform(0.5, 1.0),
        "gamma": tune.quniform(0.0, 1.0, 0.1),
        "lambda": tune.qloguniform(0.1, 10.0, 0.1),
        "max_depth": tune.randint(2, 8),
        "max_bin": tune.qrandint(32, 256, 32),
        "num_boost_round": tune.lograndint(10, 100),
        "max_leaves": tune.qlograndint(4, 64, 4),
        "base_score": tune.randn(0.5, 0.1),
        "alpha": tune.qrandn(0.0, 1.0, 0.5),
        "tree_method": tune.choice(["hist", "approx"]),
        "grow_policy": tune.grid_search(["depthwise", "lossguide"]),
        "seed": tune.sample_from(lambda: 3),
    }
    reveal_type(space)
    reveal_type(tune.Population(interval=5))
    reveal_type(tune.run(trainer, None, space, train_dataset=table, target_columns="late", scheduler=tune.Population()))
    reveal_type(analysis)
    reveal_type(tune.Analysis)
    reveal_type(analysis.trials)
    reveal_type(analysis.results)
    reveal_type(analysis.best_trial)
    reveal_type(analysis.best_config)
    reveal_type(analysis.best_score)
    reveal_type(analysis.best_standard_error)
    reveal_type(analysis.best_result)
    reveal_type(analysis.best_model)
    reveal_type(analysis.best_pipeline)
    reveal_type(analysis.best_inference_pipeline)
    reveal_type(analysis.best_trainer)
    reveal_type(analysis.pareto)
    reveal_type(analysis.fits)
    reveal_type(analysis.metrics)
    reveal_type(analysis.importance())
    reveal_type(analysis.learning_curves(0))
    reveal_type(analysis.schedule())
    reveal_type(analysis.refit(0))
    reveal_type(analysis.scores(0))
    reveal_type(analysis.ensemble(top=3))
    reveal_type(analysis.bagged_pipeline())
    reveal_type(analysis.stacked_pipeline(trainer, top=3))
    reveal_type(analysis.calibrated([postprocess.Round()]))
    comparison = tune.compare({"a": trainer, "b": (trainer, space)}, train_dataset=table, target_columns=["late"])
    reveal_type(comparison)
    reveal_type(tune.Comparison)
    reveal_type(comparison.leaderboard)
    reveal_type(comparison.best)
    reveal_type(comparison.best_analysis)
    reveal_type(comparison.best_inference_pipeline)

    # -- rayline.evaluate ------------------------------------------------------------------------------------------------
    @evaluate.register_metric
    class Late(evaluate.MetricStatistic):
        name, mode, tasks = "late_share", "max", ("regression",)

        @classmethod
        def of(cls, batch: evaluate.ScoredBatch) -> Late:
            reveal_type(batch.y_true)
            reveal_type(batch.probabilities)
            return cls()

        def merge(self, other: Late) -> Late:
            return other

        def value(self) -> float:
            return 0.0

    reveal_type(Late)
    reveal_type(evaluate.EvaluationReport)
    reveal_type(evaluate.Estimate(0.9, 0.8, 1.0).is_defined)
    reveal_type(evaluate.metric(lambda y_true, y_pred: 0.0, mode="min", name="missed"))
    reveal_type(evaluate.plot_contributions)
    reveal_type(evaluate.plot_dependence)

    # -- rayline.serve ---------------------------------------------------------------------------------------------------
    reveal_type(deployment)
    reveal_type(serve.Deployment)
    reveal_type(deployment.deploy(allow_schema_change=True))
    reveal_type(deployment.update(loaded))
    reveal_type(deployment.url)
    reveal_type(deployment.name)
    reveal_type(deployment.status())
    reveal_type(serve.create_app(loaded, serve.ServerOptions(name="late", token="secret")))
    reveal_type(serve.deploy_config("late.rayline", name="late"))
    reveal_type(serve.run)

    # -- rayline.testing -------------------------------------------------------------------------------------------------
    reveal_type(testing.check_stage)
    reveal_type(testing.check_framework)
    reveal_type(testing.check_task)
    reveal_type(testing.example_table(10, seed=1))
    reveal_type(testing.task_table(10, seed=1))
    reveal_type(testing.training_table(10, seed=1))

    # -- what comes back has the type of what was given ------------------------------------------------------------------
    frame = table.to_pandas()
    reveal_type(inference_pipeline.predict(table))
    reveal_type(inference_pipeline.predict(table.lazy()))
    reveal_type(inference_pipeline.predict([{"x": 1.0}]))
    reveal_type(inference_pipeline.predict_proba([{"x": 1.0}]))
    reveal_type(inference_pipeline.predict_proba(table))
    reveal_type(inference_pipeline.explain(table))
    reveal_type(inference_pipeline.transform(table, keep_columns=["x"]))
    reveal_type(inference_pipeline.write_predictions(table, "predictions"))
    reveal_type(inference_pipeline.model.predict(table))
    reveal_type(pipeline.transform(table))
    reveal_type(pipeline.fit_transform(table))
    reveal_type(pipeline.inverse_transform(table))
    reveal_type(pipeline.fit_folds(table, data.KFold(3)))
    reveal_type(data.train_test_split(table, test_size=0.2))
    reveal_type(data.map_batches(table, inference_pipeline.predict))
    reveal_type(next(data.KFold(3).split(table)))
    reveal_type(data.from_polars)
    reveal_type(tune.compare({"small": trainer}, train_dataset=table, target_columns=["late"]).best_pipeline)

    # Every form that an argument may have.
    ds = data.read_parquet("flights.parquet")
    for rows in (table, table.lazy(), frame, table.to_arrow(), {"x": np.ones(3), "late": ["no", "yes", "no"]}, ds):
        train.fit(trainer, train_dataset=rows, target_columns="late")
    train.fit(trainer, X=np.ones((3, 2)), y=np.ones(3), sample_weight=np.ones(3))
    train.fit(trainer, X=table, y=table["late"], X_test=frame, y_test=["no", "yes"], pos_label="yes")
    train.fit(
        trainer,
        train_dataset=table,
        target_columns=["a", "b"],
        metrics=["f1", accuracy],
        pos_label={"a": "yes", "b": 1},
    )
    train.fit(trainer, train_dataset=table, callbacks=[train.Progress(5), object()], metrics={"share": accuracy})
    trainer.fit(pipeline, table, table, "late", sample_weight="w", refit=True, verbose=False)
    train.cross_validate(trainer, train_dataset=table, target_columns="late", cv=[(np.arange(2), np.arange(2, 4))])
    tune.run(trainer, train_dataset=table, target_columns="late", cv=data.GroupKFold(3, column="x"), metric=["f1", accuracy],
             mode=["max", None], search="optuna", scheduler=tune.Population(interval=2), config={"eta": tune.uniform(0, 1)})  # fmt: skip
    loaded.evaluate(table, metrics=accuracy, by=["x", ("x", "late")], target_columns={"late": "truth"})
    serve.create_app(loaded, max_body_bytes=1_000)
    pipeline.chain(object()).predict(frame)
