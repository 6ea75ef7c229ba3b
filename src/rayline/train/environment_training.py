"""Frameworks that make their experience themselves: what a fit and a tuning run of one may not be given."""

from __future__ import annotations

from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.errors import ParameterError
from rayline.train.base_trainer import BaseTrainer
from rayline.train.fit_inputs import WHERE, FitInputs


def nothing_given(trainer: BaseTrainer, where: str = WHERE, **given: Any) -> FitInputs:
    """The inputs of a fit without data.

    Raises ParameterError when there is some, or something that is only said of rows.
    """
    for name, value in {**given, "class_weight": trainer.class_weight}.items():
        if value is not None:
            raise ParameterError(
                f"{where}: {trainer.framework} makes its experience itself, and {name} is given.",
                f"Expected no data and nothing about rows; got {name} of type {type(value).__name__}.",
                f"leave {name} out: train.fit(trainer) is enough.",
            )
    return FitInputs(None, None, (), None, pl.Schema())


def worker_resources(trainer: BaseTrainer) -> dict[str, float]:
    """What each of the framework's own workers holds, so that all of them have room in the cluster.

    Raises ResourceError, before anything starts, when they have not.
    """
    asked = dict(trainer.resources_per_worker or {})
    if trainer.num_workers:
        registry.engine("ray").connect()
        asked = {"CPU": registry.engine("ray").share(trainer.num_workers, asked), **asked}
    return asked
