"""Mistakes that a type checker must report: each line that ends in `# wrong` (see test_public_types.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rayline import data, serve, stages, train

if TYPE_CHECKING:
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
