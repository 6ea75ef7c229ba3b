"""Mistakes that a type checker must report: each line that ends in `# wrong` (see test_public_types.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

import rayline as rl
from rayline import data, evaluate, postprocess, serve, stages, train, tune

if TYPE_CHECKING:
    trainer = train.XGBoostTrainer({})
    stages.SimpleImputer(stratgy="mean")  # wrong
    stages.StandardScaler(with_mean=1.5)  # wrong
    stages.NoSuchStage()  # wrong
    from rayline.stages import SimpleImputr  # wrong

    train.XGBoostTrainer({}, num_wrokers=2)  # wrong
    train.XGBoostTrainer({}, num_workers="two")  # wrong
    train.XGBoostTrainer({}, scaling=2)  # wrong
    train.Scaling(num_wrokers=2)  # wrong
    train.Scaling(backend="actor")  # wrong
    train.TorchTrainer(max_epoch=3)  # wrong
    train.NoSuchTrainer()  # wrong
    train.EarlyStopping("test-logloss", patence=3)  # wrong
    data.KFold(n_splits="five")  # wrong
    data.no_such_function()  # wrong
    serve.to_deployment(object(), nmae="late")  # wrong
    serve.to_deployment(object(), use_gpu="cuda")  # wrong
    train.TorchTrainer(compile="max-autotune")  # wrong
    pipeline = rl.load("late.rayline")
    pipeline.predict(5)  # wrong
    pipeline.predict(pl.DataFrame(), use_gpus=True)  # wrong
    reveal = pipeline.predict([{"x": 1.0}]).height  # wrong
    pipeline.evaluate(pl.DataFrame(), metrics=5)  # wrong
    pipeline.evaluate(pl.DataFrame(), metric="f1")  # wrong
    train.fit(trainer, train_dataset=5)  # wrong
    train.fit(trainer, callbacks=train.Progress(5))  # wrong
    trainer.fit(traindataset=pl.DataFrame())  # wrong
    trainer.fit(None, pl.DataFrame(), wieght="w")  # wrong
    train.cross_validate(trainer, cv="five")  # wrong
    tune.run(trainer, nun_samples=3)  # wrong
    tune.run(trainer, search=5)  # wrong
    tune.compare({"a": trainer}, nun_samples=3)  # wrong
    data.train_test_split(pl.DataFrame(), test_size="a fifth")  # wrong
    serve.create_app(pipeline, max_body=5)  # wrong

    # -- a wrong keyword -------------------------------------------------------------------------------------------------
    postprocess.Calibrate(methd="beta")  # wrong
    postprocess.Conformal(coverge=0.9)  # wrong
    evaluate.metric(max, mod="min")  # wrong
    tune.Population(intervall=5)  # wrong
    tune.uniform(low=0.0, high=1.0)  # wrong
    data.Holdout(percent=0.2)  # wrong
    serve.ServerOptions(max_rows=3)  # wrong
    train.LightGBMTrainer({}, num_boost_rounds=3)  # wrong
    train.SklearnTrainer(object(), epoch=2)  # wrong

    # -- a wrong literal -------------------------------------------------------------------------------------------------
    evaluate.metric(max, mode="smallest")  # wrong
    train.Scaling(backend="ray")  # wrong
    pipeline.predict(pl.DataFrame(), use_gpu="cuda")  # wrong
    data.map_batches(pl.DataFrame(), pipeline.predict, use_gpu="gpu")  # wrong
    rl.load("late.rayline", use_gpu="always")  # wrong
    stages.SimpleImputer(strategy="mode")  # wrong
    stages.GroupImputer(by="c", strategy="constant")  # wrong
    stages.MissingIndicator(features="missing_only")  # wrong
    stages.KNNImputer(weights="distances")  # wrong
    stages.Normalizer(norm="l3")  # wrong
    stages.PowerTransformer(method="yeo_johnson")  # wrong
    stages.QuantileTransformer(output_distribution="gauss")  # wrong
    stages.KBinsDiscretizer(encode="one-hot")  # wrong
    stages.KBinsDiscretizer(strategy="k-means")  # wrong
    stages.KBinsDiscretizer(quantile_method="median")  # wrong
    stages.SplineTransformer(extrapolation="zero")  # wrong
    stages.SplineTransformer(handle_missing="drop")  # wrong
    stages.OneHotEncoder(handle_unknown="ingore")  # wrong
    stages.OneHotEncoder(drop="last")  # wrong
    stages.OneHotEncoder(missing="drop")  # wrong
    stages.OrdinalEncoder(handle_unknown="ignore")  # wrong
    stages.OrdinalEncoder(unknown_value="last")  # wrong
    stages.TargetEncoder(target_type="classes")  # wrong
    stages.TargetEncoder(smooth="none")  # wrong
    stages.SelectKBest(score="chi2")  # wrong
    stages.TfidfVectorizer(norm="max")  # wrong
    stages.CheckMissing(action="missing")  # wrong
    stages.CheckRange(action="raise")  # wrong
    postprocess.Calibrate("platt")  # wrong
    postprocess.Conformal(method="jackknife")  # wrong
    postprocess.Threshold("f2")  # wrong
    train.Scaling(placement="even")  # wrong
    train.EarlyStopping("test-logloss", mode="lower")  # wrong
    train.WandB(mode="off")  # wrong
    train.XGBoostTrainer({}, class_weight="balance")  # wrong
    train.XGBoostTrainer({}, use_gpu="auto")  # wrong
    train.TorchTrainer(inputs="rows")  # wrong
    train.HuggingFaceTrainer("model", task="ner")  # wrong
    tune.run(trainer, mode="lower")  # wrong
    tune.run(trainer, mode=["min", "lower"])  # wrong
    tune.run(trainer, on_interrupt="stop")  # wrong
    tune.run(trainer, run_on="cluster")  # wrong
    tune.run(trainer, search="hyperopt")  # wrong
    tune.compare({"a": trainer}, scheduler="bohb")  # wrong
    pipeline.transform(pl.DataFrame(), on_error="skip")  # wrong
    pipeline.write_predictions(pl.DataFrame(), "predictions", on_error="skip")  # wrong
    pipeline.importance("gains")  # wrong
    pipeline.importance(by="column")  # wrong
    data.map_batches(pl.DataFrame(), pipeline.predict, batch_format="arrow")  # wrong
    data.read_parquet("late.parquet", missing_columns="ignore")  # wrong

    # -- a wrong type, of each named alias -------------------------------------------------------------------------------
    train.fit(trainer, train_dataset=pl.DataFrame(), target_columns=3)  # wrong
    train.fit(trainer, train_dataset=pl.DataFrame(), metrics=0.5)  # wrong
    train.fit(trainer, X=5, y=[1, 2])  # wrong
    train.fit(trainer, X=pl.DataFrame(), y=5)  # wrong
    train.fit(trainer, train_dataset=pl.DataFrame(), pos_label=object())  # wrong
    train.fit(trainer, train_dataset=pl.DataFrame(), callbacks=5)  # wrong
    tune.run(trainer, train_dataset=5)  # wrong
    tune.run(trainer, train_dataset=pl.DataFrame(), metric=0.5)  # wrong
    tune.randint(0.5, 2.5)  # wrong
    pipeline.evaluate(5)  # wrong
    pipeline.evaluate(pl.DataFrame(), by=5)  # wrong
    pipeline.transform(5)  # wrong
    pipeline.calibrated([stages.StandardScaler()], pl.DataFrame())  # wrong
    rl.compare({"a": pipeline}, 5)  # wrong
    postprocess.Clip(low="zero")  # wrong
    postprocess.Round(decimals="two")  # wrong
    stages.OneHotEncoder(max_categories="ten")  # wrong
    stages.PCA(columns=5)  # wrong
    data.KFold(5).split(5)  # wrong
    data.train_test_split(5)  # wrong
    evaluate.Estimate("high", 0.1, 0.2)  # wrong
    serve.ServerOptions(request_timeout_s="30 s")  # wrong
    serve.deploy_config(5)  # wrong

    # -- a missing argument ----------------------------------------------------------------------------------------------
    tune.uniform(0.0)  # wrong
    tune.choice()  # wrong
    tune.run()  # wrong
    train.fit()  # wrong
    train.EarlyStopping()  # wrong
    data.train_test_split()  # wrong
    data.KFold(5).split()  # wrong
    pipeline.predict()  # wrong
    pipeline.evaluate()  # wrong
    pipeline.calibrated()  # wrong
    evaluate.metric(max)  # wrong
    evaluate.register_metric()  # wrong
    serve.to_deployment()  # wrong
    stages.register_function("double")  # wrong
    rl.load()  # wrong
