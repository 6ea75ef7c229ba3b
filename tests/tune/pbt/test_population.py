"""Population based training: who follows whom, what changes, and that the schedule found is what a fit repeats.

Covers `tune.pbt.runner` too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

import rayline as rl
from rayline import Preprocessor, train, tune
from rayline.core.errors import ParameterError
from rayline.data import KFold
from rayline.stages import OneHotEncoder
from rayline.testing import check_framework, task_table
from rayline.tune import space
from rayline.tune.pbt.part_training import PopulationPool
from rayline.tune.pbt.population import Population
from rayline.tune.pbt.runner import PopulationRun
from rayline.tune.trial_record import Status

SPACE: dict[str, Any] = {
    "rate": tune.loguniform(0.01, 1.0),
    "count": tune.randint(1, 9),
    "step": tune.quniform(0.0, 1.0, 0.25),
    "even": tune.qrandint(2, 8, 2),
    "size": tune.choice(["s", "m", "l"]),
    "grid": tune.grid_search([1, 2]),
    "same": 3,
    "preprocessor": {"impute": {"strategy": tune.choice(["mean", "median"])}},
}


def test_generations_end_where_the_training_does() -> None:
    assert Population().ends(15) == [2, 4, 6, 8, 10, 12, 14, 15]
    assert Population(4).ends(12) == [4, 8, 12]
    assert Population(100).ends(12) == [12]
    assert Population().ends(1) == [1]


def test_a_population_is_drawn_with_grids_expanded() -> None:
    drawn = Population().begin(SPACE, 2, 0)
    assert [config["grid"] for config in drawn] == [1, 2, 1, 2]
    assert drawn == Population().begin(SPACE, 2, 0)
    assert drawn != Population().begin(SPACE, 2, 1)


@given(st.dictionaries(st.integers(0, 30), st.floats(-5, 5), min_size=1), st.floats(0, 0.5), st.integers(0, 99))
def test_those_behind_follow_those_in_front(losses: dict[int, float], quantile: float, seed: int) -> None:
    found = Population(quantile=quantile).successors(losses, np.random.default_rng(seed))
    assert found == Population(quantile=quantile).successors(losses, np.random.default_rng(seed))
    assert len(found) <= len(losses) // 2
    stay = losses.keys() - found.keys()
    assert all(losses[behind] >= losses[other] for behind in found for other in stay)
    assert not {*found} & {*found.values()}
    leaders = sorted(losses, key=lambda number: (losses[number], number))[: len(found)]
    assert {*found.values()} <= {*leaders}


@given(st.integers(0, 999), st.sampled_from([0.0, 0.3, 1.0]))
def test_changes_stay_in_the_space(seed: int, resample: float) -> None:
    population, random = Population(resample=resample), np.random.default_rng(seed)
    config = population.begin(SPACE, 1, seed)[0]
    for _ in range(6):
        before, config = config, population.changed(config, SPACE, random)
        assert 0.01 <= config["rate"] <= 1.0
        assert config["count"] in range(1, 9)
        assert config["step"] in (0.0, 0.25, 0.5, 0.75, 1.0)
        assert config["even"] in (2, 4, 6, 8)
        assert config["size"] in ("s", "m", "l")
        assert config["grid"] in (1, 2)
        assert (config["same"], config["preprocessor"]) == (3, before["preprocessor"])
        if not resample:
            low, high = sorted((before["rate"] * 0.8, before["rate"] * 1.2))
            assert min(low, 0.01) <= config["rate"] <= max(high, 0.01)
            assert abs("sml".index(config["size"]) - "sml".index(before["size"])) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"interval": 0}, "interval has a wrong value"),
        ({"interval": 2.5}, "interval has a wrong value"),
        ({"quantile": 0.6}, "a share from 0 to 0.5"),
        ({"resample": -1}, "a share from 0 to 1"),
        ({"factors": (0.0, 2.0)}, "a pair of numbers above 0"),
        ({"factors": 2.0}, "a pair of numbers above 0"),
    ],
)
def test_wrong_populations_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        Population(**options)


@pytest.mark.parametrize(
    ("trainer", "config", "options", "message"),
    [
        (train.Trainer("least-squares"), {"ridge": tune.uniform(0.1, 1)}, {}, "least-squares cannot resume"),
        (train.CatBoostTrainer({"iterations": 5}), {"depth": tune.randint(2, 4)}, {}, "catboost cannot resume"),
        (train.Trainer("descent"), {"rate": 0.1}, {}, "config searches none"),
        (train.Trainer("descent"), {"steps": tune.randint(3, 9)}, {}, "the same number of iterations"),
        (train.Trainer("descent"), {"rate": tune.sample_from(lambda c: 0.1)}, {}, "is a function"),
        (train.Trainer("descent"), {"rate": tune.uniform(0.1, 1)}, {"search": "optuna"}, "combined with a searcher"),
    ],
)
def test_what_cannot_be_is_refused_before_ray_starts(
    table: pl.DataFrame, trainer: Any, config: Any, options: Any, message: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAYLINE_CACHE", str(tmp_path))
    data = {"train_dataset": table.drop("city", "late"), "cv": 3, "target_columns": ["z"]}
    wanted = config if space.tuned(config) else {**config, "preprocessor": {"impute": {"strategy": SPACE["size"]}}}
    if wanted is not config:
        wanted = {**config, "preprocessor": {"impute": {"strategy": tune.choice(["mean", "median"])}}}
        data["train_pipeline"] = Preprocessor([("impute", rl.stages.SimpleImputer(columns=["x"]))])
    with pytest.raises(ParameterError, match=message):
        tune.run(trainer, data, wanted, num_samples=4, scheduler="pbt", **options)


def test_the_contract_of_a_framework_that_goes_on() -> None:
    check_framework("descent", tasks=["regression"], weights=False, learns=False)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
class TestOnRay:
    def run(self, table: pl.DataFrame, preprocessor: Preprocessor, **options: Any) -> Any:
        data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
        given = {"metric": "log_loss", "scheduler": "pbt", "num_samples": 5, "seed": 2, **options}
        trainer = given.pop("trainer", train.XGBoostTrainer({"subsample": 0.8}, num_boost_round=12))
        space = given.pop("config", {"eta": tune.loguniform(0.01, 0.8), "max_depth": tune.randint(1, 6)})
        return tune.run(trainer, data, space, **given)

    def test_the_schedule_is_what_a_fit_repeats(self, table: pl.DataFrame, preprocessor: Preprocessor) -> None:
        """By hand: the schedule, fitted on the training rows of each fold, has the scores of the search, bit for bit."""
        found = self.run(table, preprocessor, max_concurrent=1, scheduler=tune.Population(quantile=0.5))
        together = self.run(table, preprocessor, max_concurrent=2, scheduler=tune.Population(quantile=0.5))
        assert [(t.config, t.scores, t.parts) for t in found.trials] == [
            (t.config, t.scores, t.parts) for t in together.trials
        ]
        follower = next(trial for trial in found.trials if len({part.trial for part in trial.parts}) > 1)
        plain = train.XGBoostTrainer({"subsample": 0.8}, num_boost_round=12, seed=2)
        scheduled = plain.scheduled([(part.until, part.config) for part in follower.parts])
        for trainer, trial in ((found.best_trainer, found.best_trial), (scheduled, follower)):
            by_hand = [
                train.fit(trainer, preprocessor.clone(), part, held, ["late"], verbose=False)
                for part, held in KFold(3).split(table)
            ]
            assert [result.metrics["test-log_loss"] for result in by_hand] == trial.scores
        assert found.best_score == min(trial.score for trial in found.trials)
        schedule = found.schedule()
        assert schedule["until"].to_list() == [2, 4, 6, 8, 10, 12]
        assert schedule["config/eta"].to_list()[-1] == found.best_config["eta"]
        assert found.best_model.native.num_boosted_rounds() == 12
        assert found.learning_curves().height == 3 * 12
        assert found.oof.height == table.height
        assert "the last of 6" in repr(found)
        mixed = found.ensemble(top=3)
        assert mixed.predict(table).height == table.height

    @pytest.mark.slow
    def test_a_killed_worker_changes_nothing(
        self, table: pl.DataFrame, preprocessor: Preprocessor, tmp_path: Path
    ) -> None:
        def found(die: str) -> Any:
            config = {"rate": tune.loguniform(0.01, 0.5), "die": die}
            return self.run(table, preprocessor, trainer=train.Trainer("descent"), config=config, metric="brier")

        whole, killed = found(""), found(str(tmp_path / "died"))
        assert (tmp_path / "died").exists()
        assert [trial.scores for trial in killed.trials] == [trial.scores for trial in whole.trials]
        assert all(trial.status is Status.FINISHED for trial in killed.trials)

    @pytest.mark.slow
    def test_what_was_killed_goes_on(
        self, table: pl.DataFrame, preprocessor: Preprocessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A search that ended after some generations, as a driver that was killed does, and the same to its end."""
        monkeypatch.setenv("RAYLINE_CACHE", str(tmp_path))
        select, generations = PopulationRun._select, list[int]()

        def ends(self: PopulationRun, *args: Any) -> None:
            generations.append(1)
            if len(generations) == 3:
                raise KeyboardInterrupt
            select(self, *args)

        whole = self.run(table, preprocessor)
        with monkeypatch.context() as patch:
            patch.setattr(PopulationRun, "_select", ends)
            with pytest.raises(KeyboardInterrupt):
                self.run(table, preprocessor, name="killed")
        trained = list[Any]()
        made = PopulationPool.__call__
        with monkeypatch.context() as patch:
            patch.setattr(PopulationPool, "__call__", lambda self, work: trained.extend(work) or made(self, work))
            found = self.run(table, preprocessor, name="killed", resume=True)
        assert len(trained) == 3 * 5 * 3  # 3 of 6 generations were there, of 5 members and 3 folds
        assert [(t.scores, t.parts) for t in found.trials] == [(t.scores, t.parts) for t in whole.trials]
        assert found.oof.equals(whole.oof)
        again = self.run(table, preprocessor, name="killed", resume=True)
        assert again.fits == {"trained": 0, "stopped": 0, "reused": 15}
        other = self.run(table, preprocessor, name="killed", resume=True, seed=3)
        assert other.fits["trained"] == 15

    @pytest.mark.slow
    def test_a_finished_population_that_goes_on_with_more_members_trains_what_it_has_not_kept(
        self, table: pl.DataFrame, preprocessor: Preprocessor, tmp_path: Path
    ) -> None:
        """Other members follow other ones: the checkpoints that they resume from were deleted when the first run had finished."""
        options: Any = {"name": "more", "storage_path": tmp_path}
        whole = self.run(table, preprocessor, num_samples=6)
        self.run(table, preprocessor, num_samples=4, **options)
        more = self.run(table, preprocessor, num_samples=6, resume=True, **options)
        assert [(t.scores, t.parts) for t in more.trials] == [(t.scores, t.parts) for t in whole.trials]
        assert more.oof.equals(whole.oof)

    def test_a_member_that_raises_does_not_sink_the_others(
        self, table: pl.DataFrame, preprocessor: Preprocessor
    ) -> None:
        config = {"rate": tune.grid_search([0.1, 0.2, 0.9]), "fail_above": 0.5}
        found = self.run(
            table, preprocessor, trainer=train.Trainer("descent"), config=config, metric="brier", num_samples=1,
            scheduler=tune.Population(interval=2, quantile=0.0),
        )  # fmt: skip
        assert [trial.status for trial in found.trials] == [Status.FINISHED, Status.FINISHED, Status.FAILED]
        assert "the loss became infinite" in found.trials[2].error

    def test_a_test_set_and_little_time(self, table: pl.DataFrame, preprocessor: Preprocessor) -> None:
        part, held = rl.data.train_test_split(table, 0.3)
        data = {"train_dataset": part, "test_dataset": held, "train_pipeline": preprocessor, "target_columns": ["late"]}
        config = {"rate": tune.loguniform(0.01, 0.5)}
        found = tune.run(
            train.Trainer("descent"), data, config, "brier", num_samples=2, scheduler="pbt", time_budget_s=1e-3
        )
        assert found.schedule()["until"].to_list() == [2]  # the generation under way is finished
        assert found.best_result.metrics["test-brier"] == found.best_score


def test_a_population_of_rankings() -> None:
    """Groups stay whole through every part of the training: the score is the NDCG of the held-out groups."""
    pytest.importorskip("xgboost")
    table = task_table(240).select("x", "city", "noise", "stars", "query")
    found = tune.run(
        train.XGBoostTrainer({"objective": "rank:ndcg", "nthread": 1}, num_boost_round=6, seed=1),
        preprocessor=Preprocessor([("onehot", OneHotEncoder(["city"]))]), train_dataset=table, target_columns=["stars"], group="query",
        cv=2, config={"eta": tune.uniform(0.05, 0.5)}, metric="ndcg", num_samples=4, seed=0, scheduler=Population(2),
        verbose=False,
    )  # fmt: skip
    assert found.schedule()["until"].to_list()[:2] == [2, 4]
    oof = found.oof
    assert oof.group_by("query").agg(pl.col("fold").n_unique())["fold"].max() == 1
    folds = []
    for own in oof.partition_by("fold"):
        groups = own.partition_by("query")
        folds.append(np.mean([ndcg_score([g["stars"].to_numpy()], [g["prediction"].to_numpy()]) for g in groups]))
    assert found.best_score == pytest.approx(np.mean(folds), rel=1e-6)
    assert found.best_score > 0.8
    again = found.best_trainer.fit(
        Preprocessor([("onehot", OneHotEncoder(["city"]))]),
        table,
        target_columns=["stars"],
        group="query",
        verbose=False,
    )
    assert again.inference_pipeline.predict(table).equals(found.best_inference_pipeline.predict(table))
