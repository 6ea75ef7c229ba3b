"""The drivers of a fit, by the id that an adapter names (`Framework.fit_driver`)."""

from __future__ import annotations

from rayline.core.errors import ParameterError
from rayline.train.base_trainer import BaseTrainer
from rayline.train.environment_training import EnvironmentFit
from rayline.train.fit_driver import FitDriver
from rayline.train.table_training import TableFit

FIT_DRIVERS: dict[str, type[FitDriver]] = {"table": TableFit, "environment": EnvironmentFit}


def driver_of(trainer: BaseTrainer) -> type[FitDriver]:
    """Return the driver that an adapter names. Raises ParameterError when there is none of this name."""
    name = trainer.adapter.fit_driver
    if name not in FIT_DRIVERS:
        raise ParameterError.value("fit_driver", f"one of {list(FIT_DRIVERS)}", name, where=f"{trainer.framework}")
    return FIT_DRIVERS[name]
