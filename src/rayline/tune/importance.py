"""Importance of tuned parameters: permutation importance of a random forest that predicts scores from configurations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rayline.core.errors import DataError
from rayline.tune import space
from rayline.tune.trial_record import Trial

MIN_TRIALS = 8
"""The minimum number of trials for an estimate."""

Matrix = npt.NDArray[np.float64]


def importance(trials: Sequence[Trial]) -> dict[str, float]:
    """Return the share of each tuned parameter in the explained differences between trials, largest first; the sum is 1.

    A random forest predicts the score of a trial from its parameters, and each parameter is then shuffled to see how
    much the prediction suffers (Breiman, "Random forests", 2001). Parameters that were constant are left out.

    Raises
    ------
    DataError
        When fewer than 8 trials have a score.
    """
    from sklearn.ensemble import RandomForestRegressor  # 0.9 s
    from sklearn.inspection import permutation_importance

    scored = [trial for trial in trials if math.isfinite(trial.score) and not trial.error]
    if len(scored) < MIN_TRIALS:
        raise DataError(
            "Analysis.importance: too few trials.",
            f"Expected at least {MIN_TRIALS} with a score; got {len(scored)}.",
            "tune longer.",
        )
    configs = [space.flatten(trial.config) for trial in scored]
    columns = {
        name: numbers for name in _names(configs) if (numbers := _numbers([c.get(name) for c in configs])) is not None
    }
    if not columns:
        return {}
    x, y = np.stack(list(columns.values()), axis=1), np.array([trial.score for trial in scored])
    forest = RandomForestRegressor(n_estimators=100, min_samples_leaf=2, random_state=0).fit(x, y)
    increases = permutation_importance(forest, x, y, n_repeats=20, random_state=0).importances_mean.clip(min=0.0)
    total = float(increases.sum())
    shares = {name: float(value) / total if total > 0 else 0.0 for name, value in zip(columns, increases, strict=True)}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _names(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for config in configs for name in config))


def _numbers(values: Sequence[Any]) -> Matrix | None:
    """Encode a parameter as numbers: trees need only an order. None when it is constant."""
    plain = [space.cell(value) for value in values]
    if len(set(plain)) < 2:
        return None
    if all(isinstance(value, (int, float)) for value in plain):
        return np.array(plain, dtype=np.float64)
    places = {value: place for place, value in enumerate(sorted(set(plain), key=str))}
    return np.array([places[value] for value in plain], dtype=np.float64)
