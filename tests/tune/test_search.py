"""Searchers and schedulers by name; learning in rounds.

Covers `tune.ray_search` and `tune.suggestions` too.
"""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, PopulationBasedTraining
from ray.tune.search import ConcurrencyLimiter, SearchAlgorithm, Searcher
from ray.tune.search.basic_variant import BasicVariantGenerator

from rayline.core.errors import ParameterError
from rayline.tune import choice, grid_search, randn, uniform
from rayline.tune.domains import to_ray
from rayline.tune.fold_racing import SCORE, FoldRacingScheduler
from rayline.tune.ray_search import BatchedSearcher, RaySuggester, limited, searcher
from rayline.tune.search import scheduler, suggester
from rayline.tune.suggestions import DrawnSuggester


class Counting(Searcher):
    """Suggests numbers, and writes down what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.heard = 0, list[Any]()

    def suggest(self, trial_id: str) -> dict[str, Any]:
        self.asked += 1
        return {"x": self.asked}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.heard.append((trial_id, None if result is None else result[SCORE], error))

    def save(self, checkpoint_path: str) -> None: ...

    def restore(self, checkpoint_path: str) -> None: ...


@pytest.mark.parametrize("order", [*permutations("abc")])
def test_rounds_hear_in_the_order_of_the_suggestions(order: tuple[str, ...]) -> None:
    inner = Counting()
    rounds = BatchedSearcher(inner, 3)
    assert [rounds.suggest(name) for name in "abcd"] == [{"x": 1}, {"x": 2}, {"x": 3}, None]
    for name in order:
        assert inner.heard == []
        rounds.on_trial_complete(name, {SCORE: float("inf") if name == "b" else 1.0})
    assert inner.heard == [("a", 1.0, False), ("b", None, True), ("c", 1.0, False)]
    assert rounds.suggest("d") == {"x": 4}


def test_a_trial_that_is_stopped_while_it_waits_is_heard_of() -> None:
    inner = Counting()
    rounds = BatchedSearcher(inner, 1)
    rounds.suggest("a")
    rounds.on_trial_result("a", {SCORE: 2.0})
    rounds.on_trial_complete("a")
    assert inner.heard == [("a", 2.0, False)]


class MakesTrials(SearchAlgorithm):
    """An algorithm that gives Ray Tune trials in place of configurations."""


def test_searchers() -> None:
    space = {"x": uniform(0.0, 1.0)}
    options: dict[str, Any] = {"num_samples": 3, "seed": 0, "modes": ["min"]}
    for plain in (None, "random", BasicVariantGenerator(max_concurrent=9)):
        assert isinstance(suggester(plain, space, **options), DrawnSuggester)
    for own in ("optuna", Counting(), ConcurrencyLimiter(Counting(), 7)):
        found = suggester(own, space, **options)
        assert isinstance(found, RaySuggester)
        assert isinstance(limited(found.searcher, 2), ConcurrencyLimiter)
    for wrong, config, message in (
        ("optune", space, "did you mean \\['optuna'\\]"),
        (3, space, "a searcher of ray.tune"),
        ("optuna", {"x": grid_search([1])}, "cannot search the grid of 'x'"),
        ("optuna", {"x": randn(0.0, 1.0)}, "OptunaSearch cannot search this space"),
        (MakesTrials(), space, r"MakesTrials makes trials of Ray Tune itself.(.|\n)*derive it from Searcher"),
    ):
        with pytest.raises(ParameterError, match=message):
            suggester(wrong, config, **options)
    with pytest.raises(ParameterError, match="Counting searches by one metric"):
        searcher(Counting(), space, seed=0, modes=["min", "max"])


def test_points_of_rays_own_random_search_come_first() -> None:
    space = {"x": uniform(0.0, 1.0), "y": choice([1, 2]), "preprocessor": {"impute": {"strategy": choice(["mean"])}}}
    points = [{"x": 0.25, "y": 2}, {"x": 0.75, "y": 1, "preprocessor": {"impute": {"strategy": "median"}}}]
    given = BasicVariantGenerator(points_to_evaluate=points, random_state=3)
    for _ in range(2):  # the user's own object can serve another search
        found = suggester(given, space, num_samples=4, seed=0, modes=["min"])
        found.begin(2, "min")
        configs = [found.suggest(str(i)) for i in range(5)]
        assert configs[:2] == [{**points[0], "preprocessor": {"impute": {"strategy": "mean"}}}, points[1]]  # type: ignore[dict-item]
        assert configs[2] is not None
        assert configs[4] is None
        assert found.is_finished


def test_schedulers() -> None:
    assert scheduler(None, n_folds=1) is None
    assert isinstance(scheduler("asha", n_folds=5), FoldRacingScheduler)
    own = AsyncHyperBandScheduler(max_t=3)
    made = scheduler(own, n_folds=5)
    assert type(made) is type(own)
    made.set_search_properties("score", "min")
    assert own.set_search_properties("score", "min")  # the user's own object can serve another search
    for wrong, n_folds, message in (
        ("ascha", 5, "did you mean \\['asha'\\]"),
        ("asha", 1, "more than one fold"),
        (PopulationBasedTraining(hyperparam_mutations={"x": [1]}), 5, "Expected 'pbt' or a tune.Population"),
        (3, 5, "a scheduler of ray.tune"),
        (AsyncHyperBandScheduler(metric="auc", mode="max"), 5, "has a metric or a mode of its own"),
    ):
        with pytest.raises(ParameterError, match=message):
            scheduler(wrong, n_folds=n_folds)


def test_searchers_of_rays_own() -> None:
    """HyperOpt through Ray's class: nested spaces, and the same suggestions from the same seed."""
    pytest.importorskip("hyperopt")
    from ray.tune.search.hyperopt import HyperOptSearch

    space = {"x": uniform(0.0, 1.0), "preprocessor": {"impute": {"strategy": choice(["mean", "median"])}}}

    def suggested() -> list[Any]:
        found = limited(searcher(HyperOptSearch(random_state_seed=5), space, seed=0, modes=["min"]), 2)
        assert found.set_search_properties(SCORE, "min", to_ray(space))
        configs = []
        for i in range(8):
            configs.append(found.suggest(str(i)))
            found.on_trial_complete(str(i), {SCORE: configs[-1]["x"], "config": configs[-1]})
        return configs

    first = suggested()
    assert suggested() == first
    assert all(0 <= c["x"] <= 1 and c["preprocessor"]["impute"]["strategy"] in ("mean", "median") for c in first)
    with pytest.raises(ParameterError, match="has a metric or a mode of its own"):
        searcher(HyperOptSearch(metric="loss", mode="min"), space, seed=0, modes=["min"])
    with pytest.raises(ParameterError, match="has a search space of its own"):
        searcher(HyperOptSearch({"x": uniform(0.0, 1.0)}), space, seed=0, modes=["min"])
