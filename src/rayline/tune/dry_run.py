"""A check on the driver, before any trial, that the framework reports the requested metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import polars.selectors as cs

from rayline.data.split.fold_cells import FoldCells
from rayline.evaluate import metrics
from rayline.train.scaling import Scaling
from rayline.tune import space
from rayline.tune.evaluate import FoldEvaluator, reported
from rayline.tune.row_groups import CELL
from rayline.tune.search_problem import SearchProblem

ROWS = 64
"""The number of rows: enough for one iteration of any framework."""


def check(problem: SearchProblem, rows: Callable[[int], pl.DataFrame], config: space.Config) -> None:
    """Train one iteration on a few rows and look for the metrics that neither Rayline nor the framework's list knows.

    Other errors with so few rows say nothing about the search, and are ignored. Raises ParameterError when the framework does not
    report a metric.

    Parameters
    ----------
    problem
        The search.
    rows
        A function that returns a number of raw rows.
    config
        A configuration of the space.
    """
    strange = [name for name in problem.metrics if not problem.computes(name) and metrics.mode(name) is None]
    if not strange:
        return
    few = rows(ROWS)
    few = few.select(~cs.starts_with(CELL)).with_columns(pl.Series(f"{CELL}0", np.arange(few.height) % 2))
    trainer = problem.trainer_of(config)
    trainer = trainer.replace({trainer.adapter.iterations: 1} if trainer.adapter.iterations else {})
    trainer = trainer.scaled(Scaling())
    small = replace(problem, trainer=trainer, splits=((FoldCells((0,), (1,)),),))
    try:
        history = FoldEvaluator(small, few).history(replace(small.candidate(config), trainer=trainer), 0)
    except Exception:  # with so few rows, any error may occur
        return
    for name in strange:
        reported(name, history)
