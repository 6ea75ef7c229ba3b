"""The drivers of a fit, by the id that an adapter names (`Framework.fit_driver`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from rayline.core.errors import ParameterError
from rayline.train.base_trainer import BaseTrainer
from rayline.train.environment_training import EnvironmentFit
from rayline.train.fit_driver import FitDriver
from rayline.train.table_training import TableFit

D = TypeVar("D")

FIT_DRIVERS: dict[str, type[FitDriver]] = {"table": TableFit, "environment": EnvironmentFit}


def driver_of(trainer: BaseTrainer) -> type[FitDriver]:
    """Return the driver that an adapter names. Raises ParameterError when there is none of this name."""
    return named_driver(FIT_DRIVERS, trainer)


def named_driver(drivers: Mapping[str, D], trainer: BaseTrainer) -> D:
    """Return one of some drivers, by the name that a trainer's adapter has. Raises ParameterError when there is none of this name."""
    name = trainer.adapter.fit_driver
    if name not in drivers:
        raise ParameterError.value("fit_driver", f"one of {list(drivers)}", name, where=f"{trainer.framework}")
    return drivers[name]
