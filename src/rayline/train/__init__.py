"""Training: a trainer, a preprocessor and data become a result, the same way for every framework.

`train.<Name>Trainer` is there for every framework of the registry; a framework of your own is trained by
`train.Trainer("its-name", …)`.
"""

from __future__ import annotations

from typing import Any

from rayline.core import registry
from rayline.data.preprocessor import Preprocessor
from rayline.train.callbacks import Callback, EarlyStopping, ModelCheckpoint, Progress, Run
from rayline.train.fit import fit
from rayline.train.mlflow import MLflow
from rayline.train.result import Result
from rayline.train.tensorboard import TensorBoard
from rayline.train.tracking import Tracker
from rayline.train.trainer import Trainer, named
from rayline.train.wandb import WandB

__all__ = [
    "Callback",
    "EarlyStopping",
    "MLflow",
    "ModelCheckpoint",
    "Preprocessor",
    "Progress",
    "Result",
    "Run",
    "TensorBoard",
    "Tracker",
    "Trainer",
    "WandB",
    "fit",
]


def __getattr__(name: str) -> Any:
    trainers = registry.trainers()
    if name not in trainers:
        raise AttributeError(f"module 'rayline.train' has no attribute {name!r}; there are {__dir__()}")
    globals()[name] = made = named(name, trainers[name])  # one class for ever: its instances are pickled by its name
    return made


def __dir__() -> list[str]:
    return sorted([*__all__, *registry.trainers()])
