"""Mistakes that a type checker must report: each line that ends in `# wrong` (see test_public_types.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

import rayline as rl
from rayline import data, serve, stages, train, tune

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
