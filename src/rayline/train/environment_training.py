"""Fits and searches of frameworks that generate their own data: refuse arguments about rows, plan the workers."""

from __future__ import annotations

from typing import Any

import polars as pl

from rayline.core import registry
from rayline.core.errors import ParameterError
from rayline.train.base_trainer import BaseTrainer
from rayline.train.fit_inputs import WHERE, FitInputs


def inputs_without_data(trainer: BaseTrainer, where: str = WHERE, **arguments: Any) -> FitInputs:
    """Return the inputs of a fit without data.

    Raises ParameterError when data are given, or an argument that applies to rows only.
    """
    for name, value in {**arguments, "class_weight": trainer.class_weight}.items():
        if value is not None:
            raise ParameterError(
                f"{where}: {trainer.framework} generates its own data, and {name} is given.",
                f"Expected no data and nothing about rows; got {name} of type {type(value).__name__}.",
                f"leave {name} out: train.fit(trainer) is enough.",
            )
    return FitInputs(None, None, (), None, pl.Schema())


def worker_resources(trainer: BaseTrainer) -> dict[str, float]:
    """Return the resources of each of the framework's own workers, so that all of them fit into the cluster.

    Raises ResourceError, before anything starts, when they do not fit.
    """
    resources = dict(trainer.resources_per_worker or {})
    if trainer.num_workers:
        registry.engine("ray").connect()
        resources = {"CPU": registry.engine("ray").share(trainer.num_workers, resources), **resources}
    return resources
