"""The steps of a fit that depend on where its rows come from. `train.fit` calls them in order."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar, TypeAlias

import polars as pl

from rayline.inference.pipeline import Preprocessor
from rayline.preprocessing.fit_planner import FitOutcome
from rayline.train.base_trainer import BaseTrainer
from rayline.train.fit_inputs import DataArguments, FitInputs
from rayline.train.fit_request import FitRequest
from rayline.train.progress import ProgressLine
from rayline.train.target_inference import TargetProfiler
from rayline.train.training_run import TrainingRun
from rayline.train.worker import WorkerOutcome

FitStages: TypeAlias = Callable[[Preprocessor, TargetProfiler], FitOutcome]


class FitDriver(ABC):
    """One fit. `read`, `resolve` and `run` are called once each, in this order.

    Attributes
    ----------
    trainer
        The trainer, with the metrics of this fit.
    preprocessor
        The caller's; after `resolve` a fitted one, None without rows.
    refit
        Whether a fitted preprocessor is fitted again.
    inputs
        After `read`: the data, in one form.
    examples
        After `resolve`: a few raw rows.
    fit_stages
        Fits a preprocessor and answers a profiler's questions in place of a scan of the training rows; None for that scan.
    """

    takes_rows: ClassVar[bool] = True
    """Whether the framework learns from rows that it is given."""

    inputs: FitInputs
    examples: pl.DataFrame
    fit_stages: FitStages | None = None

    def __init__(self, trainer: BaseTrainer, preprocessor: Preprocessor | None, *, refit: bool) -> None:
        self.trainer, self.preprocessor, self.refit = trainer, preprocessor, refit

    @property
    @abstractmethod
    def uses_this_gpu(self) -> bool:
        """Whether `use_gpu=True` asks for a GPU of this machine."""

    @abstractmethod
    def read(self, arguments: DataArguments) -> None:
        """Check the arguments of `train.fit` about data, and bring them into one form: `inputs`."""

    def starting_workers(self) -> AbstractContextManager[None]:
        """Start the workers of `run` while `resolve` looks at the rows."""
        return contextlib.nullcontext()

    @abstractmethod
    def resolve(self, line: ProgressLine) -> FitRequest:
        """Fit what has to be fitted, and return the request."""

    @abstractmethod
    def run(self, request: FitRequest, training: TrainingRun) -> WorkerOutcome:
        """Train, reporting to `training`."""
