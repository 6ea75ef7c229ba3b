"""The searches that ours is compared with. A module of its own: their processes import it, and nothing of ours with it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xgboost
from ray import tune as ray_tune
from ray.tune.search.basic_variant import BasicVariantGenerator
from sklearn.compose import ColumnTransformer
from sklearn.metrics import log_loss
from sklearn.model_selection import ParameterSampler, RandomizedSearchCV
from sklearn.pipeline import Pipeline

ROUNDS = 20

Config = Mapping[str, Any]
Fold = tuple[Any, Any, Any, Any]
"""Rows and labels to train on, and those that are held out."""

Stages = Callable[[], ColumnTransformer]

SPACE: Mapping[str, Any] = {
    "max_depth": list(range(2, 9)),
    "eta": [float(v) for v in np.geomspace(0.05, 0.5, 50)],
    "subsample": [float(v) for v in np.linspace(0.5, 1.0, 50)],
}


def drawn(n: int) -> list[dict[str, Any]]:
    """The configurations: those that RandomizedSearchCV draws."""
    return [dict(config) for config in ParameterSampler(SPACE, n, random_state=0)]


def score(config: Config, fold: Fold, stages: Stages | None) -> float:
    """One fold by hand."""
    x, y, x_test, y_test = fold
    if stages is not None:
        made = stages()
        x, x_test = made.fit_transform(x, y), made.transform(x_test)
    params = {"objective": "binary:logistic", "nthread": 1, **config}
    booster = xgboost.train(params, xgboost.DMatrix(x, y), ROUNDS)
    return float(log_loss(y_test, booster.predict(xgboost.DMatrix(x_test))))


def function_trainable(folds: Sequence[Fold], stages: Stages | None, trials: int) -> float:
    """As Ray's guides show it: a function, with the folds in the object store."""

    def objective(config: dict[str, Any], folds: Sequence[Fold]) -> None:
        ray_tune.report({"score": float(np.mean([score(config, fold, stages) for fold in folds]))})

    return _fit(ray_tune.with_parameters(objective, folds=folds), trials, reuse=False)


class Reused(ray_tune.Trainable):
    """As quick as Ray Tune gets: a class whose actors are used again."""

    def setup(self, config: dict[str, Any], folds: Sequence[Fold] | None = None) -> None:
        assert folds is not None
        self.folds = folds

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        return {"score": float(np.mean([score(self.config, fold, None) for fold in self.folds])), "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Ray asks for it at the end of every trial, and starts a new actor when it raises."""
        return {}

    def load_checkpoint(self, checkpoint: Any) -> None: ...


def reused_actors(folds: Sequence[Fold], trials: int) -> float:
    return _fit(ray_tune.with_parameters(Reused, folds=folds), trials, reuse=True)


def _fit(trainable: Any, trials: int, *, reuse: bool) -> float:
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        found = ray_tune.Tuner(
            ray_tune.with_resources(trainable, {"CPU": 1}),
            param_space={name: ray_tune.choice(values) for name, values in SPACE.items()},
            tune_config=ray_tune.TuneConfig(
                num_samples=trials,
                reuse_actors=reuse,
                metric="score",
                mode="min",
                search_alg=BasicVariantGenerator(points_to_evaluate=drawn(trials)),
            ),
            run_config=ray_tune.RunConfig(verbose=0, storage_path=folder),
        ).fit()
        return float(found.get_best_result().metrics["score"])


def loop(folds: Sequence[Fold], stages: Stages | None, trials: int) -> float:
    """No Ray at all."""
    return min(float(np.mean([score(c, fold, stages) for fold in folds])) for c in drawn(trials))


def randomized(data: Any, labels: Any, held_out: Sequence[Any], stages: Stages, trials: int) -> float:
    """scikit-learn, two processes. `held_out` says of each fold which rows it holds out."""
    cv = [(np.flatnonzero(~held), np.flatnonzero(held)) for held in held_out]
    search = RandomizedSearchCV(
        Pipeline([("stages", stages()), ("model", xgboost.XGBClassifier(n_estimators=ROUNDS, n_jobs=1))]),
        {f"model__{name}": values for name, values in SPACE.items()},
        n_iter=trials,
        cv=cv,
        scoring="neg_log_loss",
        n_jobs=2,
        random_state=0,
        refit=False,
    )
    search.fit(data, labels)
    return -float(np.max(search.cv_results_["mean_test_score"]))
