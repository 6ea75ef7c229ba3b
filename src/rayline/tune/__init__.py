"""Tuning: a search over the parameters of a trainer and of the stages before it, with honest held-out scores.

The search spaces are those of Ray Tune: `tune.uniform`, `tune.loguniform`, `tune.randint`, `tune.choice`,
`tune.grid_search` and the others. Nothing here imports Ray before a search runs on it.
"""

from __future__ import annotations

from rayline.tune.analysis import Analysis
from rayline.tune.compare import Comparison, compare
from rayline.tune.domains import (
    choice,
    grid_search,
    lograndint,
    loguniform,
    qlograndint,
    qloguniform,
    qrandint,
    qrandn,
    quniform,
    randint,
    randn,
    sample_from,
    uniform,
)
from rayline.tune.pbt.population import Population
from rayline.tune.run import run

__all__ = [
    "Analysis",
    "Comparison",
    "Population",
    "choice",
    "compare",
    "grid_search",
    "lograndint",
    "loguniform",
    "qlograndint",
    "qloguniform",
    "qrandint",
    "qrandn",
    "quniform",
    "randint",
    "randn",
    "run",
    "sample_from",
    "uniform",
]
