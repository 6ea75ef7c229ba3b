"""Whether a framework reports a metric of its own is seen here, on the driver, before hundreds of trials ask for it."""

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
from rayline.tune.evaluate import FoldEvaluator, SearchProblem, reported
from rayline.tune.row_groups import CELL

ROWS = 64
"""Enough for one iteration of any framework."""


def check(problem: SearchProblem, rows: Callable[[int], pl.DataFrame], config: space.Config) -> None:
    """Train one iteration on a few rows and look for the metrics, where neither we nor the field know one of them.

    What else goes wrong with so few rows says nothing about the search, and is left to the trials.

    Parameters
    ----------
    problem
        The search.
    rows
        Returns so many raw rows.
    config
        A configuration of the space.

    Raises
    ------
    ParameterError
        When the framework does not report a metric.
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
    except Exception:  # with so few rows whatever may go wrong
        return
    for name in strange:
        reported(name, history)
