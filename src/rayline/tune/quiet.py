"""Silence Ray Tune while a search runs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from rayline.compat.ray_tune import without_tracker_imports
from rayline.core.shared_change import shared_change

VARIABLES = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # it would end the search as if it were complete (see `interruption`)
}

LOGGERS = {
    "ray.tune": logging.CRITICAL,
    "ray.train": logging.CRITICAL,
    "ray.air": logging.CRITICAL,
    "optuna": logging.WARNING,
}


@shared_change
@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ray Tune from writing tables, logs and result files inside the block, and from importing every installed tracker
    (wandb and MLflow take more than a second) only to count its callbacks."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    levels = {name: logging.getLogger(name).level for name in LOGGERS}
    os.environ.update(VARIABLES)
    for name, level in LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    try:
        with without_tracker_imports():
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
