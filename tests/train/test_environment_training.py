"""Frameworks that make their experience themselves, on one of the tests' own: no data, and everything else as ever.

Covers `train.drivers`, `train.fit_driver` and `tune.environment_search` too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import rayline as rl
from rayline import train
from rayline.tune.drivers import prepare
from rayline.tune.environment_search import EnvironmentEvaluator, environment_problem
from rayline.tune.evaluate import FoldEvaluation
from rayline.tune.options import SearchOptions, SearchRequest
from rayline.tune.tune_data import search_data
from tests import toy  # noqa: F401  # registers the framework


def guesser(**options: Any) -> train.Trainer:
    return train.Trainer("guesser", **options)


def test_a_fit_takes_nothing(tmp_path: Path) -> None:
    result = train.fit(guesser(seed=1), callbacks=[train.ModelCheckpoint(tmp_path, every=1, keep=None)], verbose=False)
    assert result.history.columns == ["iteration", "episode_return_mean", "loss"]
    assert (
        result.metrics["episode_return_mean"] == result.history["episode_return_mean"][-1] == result.fitted_model["w"]
    )
    assert len(list(tmp_path.iterdir())) == 3
    assert result.inference_pipeline.predict([{"x": 3.0}, {"x": -3.0}]) == [{"prediction": 1}, {"prediction": 0}]
    stopped = train.fit(
        guesser(iterations=50), callbacks=[train.EarlyStopping("loss", patience=1, mode="max")], verbose=False
    )
    assert stopped.history.height == 2


@pytest.mark.parametrize(
    "given",
    [{"train_dataset": pl.DataFrame({"x": [1.0]})}, {"X": [[1.0]]}, {"sample_weight": "w"}, {"metrics": ["auc"]}],
)
def test_data_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(rl.ParameterError, match=f"guesser generates its own data, and {next(iter(given))} is given"):
        train.fit(guesser(), **given)


def test_tuning_needs_no_data_either() -> None:
    prepared = prepare(
        SearchRequest(guesser(), search_data({"cv": 3}), {"step": 0.5}, SearchOptions(num_samples=1, seed=7))
    )
    assert (prepared.problem.metric, prepared.mode) == ("episode_return_mean", "max")
    assert len(prepared.problem.folds) == 3
    scored: list[FoldEvaluation] = [
        EnvironmentEvaluator(prepared.problem)(prepared.problem.candidate({"step": 0.5}), fold) for fold in range(3)
    ]
    assert len({found.score.score for found in scored}) == 3  # each fold is a training with a seed of its own
    assert scored[0].score.iterations == 3
    again = train.fit(guesser(step=0.5, seed=8), verbose=False)
    assert scored[1].score.score == again.metrics["episode_return_mean"]
    with pytest.raises(rl.ParameterError, match="computed on rows"):
        prepare(
            SearchRequest(
                guesser(), search_data({}), {"step": 0.5}, SearchOptions(metric="accuracy", num_samples=1, seed=7)
            )
        )
    with pytest.raises(rl.ParameterError, match="train_dataset is given"):
        prepare(
            SearchRequest(
                guesser(),
                search_data({"train_dataset": pl.DataFrame()}),
                {"step": 0.5},
                SearchOptions(num_samples=1, seed=7),
            )
        )
    with pytest.raises(rl.ParameterError, match="cv"):
        environment_problem(SearchRequest(guesser(), search_data({"cv": 0}), {}, SearchOptions(seed=7)))
