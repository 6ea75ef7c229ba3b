"""Training: a trainer, a preprocessor and data become a result, the same way for every framework.

`train.<Name>Trainer` is there for every framework of the registry; a framework of your own is trained by
`train.Trainer("its-name", …)`.
"""

from __future__ import annotations

from rayline.inference.pipeline import Preprocessor
from rayline.train.callbacks import Callback, EarlyStopping, ModelCheckpoint, Progress, Run
from rayline.train.cross_validation import CrossValidation, cross_validate
from rayline.train.fit import fit
from rayline.train.result import Result
from rayline.train.scaling import Scaling
from rayline.train.trackers.base import Tracker
from rayline.train.trackers.mlflow import MLflow
from rayline.train.trackers.tensorboard import TensorBoard
from rayline.train.trackers.wandb import WandB
from rayline.train.trainer import Trainer
from rayline.train.trainers import (
    CatBoostTrainer,
    HorovodTrainer,
    HuggingFaceTrainer,
    LightGBMTrainer,
    RLlibTrainer,
    SklearnTrainer,
    TorchTrainer,
    XGBoostTrainer,
)

__all__ = [
    "Callback",
    "CatBoostTrainer",
    "CrossValidation",
    "EarlyStopping",
    "HorovodTrainer",
    "HuggingFaceTrainer",
    "LightGBMTrainer",
    "MLflow",
    "ModelCheckpoint",
    "Preprocessor",
    "Progress",
    "RLlibTrainer",
    "Result",
    "Run",
    "Scaling",
    "SklearnTrainer",
    "TensorBoard",
    "TorchTrainer",
    "Tracker",
    "Trainer",
    "WandB",
    "XGBoostTrainer",
    "cross_validate",
    "fit",
]
