"""Scores of held-out rows of a search over a Dataset: large ones never pass through the driver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline import data, train, tune
from rayline.tune import row_groups
from rayline.tune.result_store import ResultStore
from rayline.tune.trial_record import FoldScore
from tests.ray_bytes import bytes_fetched, bytes_put


@pytest.fixture
def through_the_driver(monkeypatch: pytest.MonkeyPatch, ray_session: Any) -> Callable[[], int]:
    """How many bytes the driver has fetched from Ray and put into it since the last call."""
    fetched, put = bytes_fetched(monkeypatch), bytes_put(monkeypatch)
    return lambda: fetched() + put()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({"num_samples": 2}, id="trials"),
        pytest.param({"scheduler": tune.Population(interval=2), "num_samples": 2}, id="population"),
    ],
)
def test_the_drivers_traffic_does_not_grow_with_the_rows(
    through_the_driver: Callable[[], int], monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any]
) -> None:
    """Neither in the search, nor in what reads the scores afterwards."""
    from rayline.tune import stored_scores

    monkeypatch.setattr(stored_scores, "SMALL_BYTES", 0)
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 40_000)  # Ray keeps objects of less than 100 kB in the driver
    random, sizes, found = np.random.default_rng(0), {}, {}
    for n in (80_000, 480_000):
        x = random.normal(size=n)
        table = pl.DataFrame({"x": x, "y": x + random.normal(size=n)})
        options: dict[str, Any] = {
            "target_columns": ["y"], "cv": 2, "seed": 1, "metric": "rmse",
            "config": {"eta": tune.uniform(0.1, 0.5)}, **extra,
        }  # fmt: skip
        trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=4)
        rows = data.from_polars(table).repartition(n // 40_000).materialize()  # a first block of the same size
        through_the_driver()
        there = tune.run(trainer, train_dataset=rows, **options)
        in_search = through_the_driver()
        assert there.oof.count() == n
        assert len(there._folds.mixtures([there._scores(trial, mapped=True) for trial in there.trials]).scores()) == 2
        sizes[n] = in_search, through_the_driver()
        found[n] = there.scores(there.best_trial), table, trainer, options
    for small, large in zip(sizes[80_000], sizes[480_000], strict=True):
        assert large - small < 400_000  # less than a byte a row; the scores of one trial alone are 4
    scores, table, trainer, options = found[80_000]
    here = tune.run(trainer, train_dataset=table, run_on="process", **options)
    for one, other in zip(here.scores(here.best_trial), scores, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.ray
def test_files_that_tasks_cannot_reach_are_written_and_read_by_the_driver(
    ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from rayline.tune import stored_scores

    @ray.remote
    def refused(*_: Any) -> None:
        raise PermissionError("the files of another user")

    monkeypatch.setattr(stored_scores, "SMALL_BYTES", 0)
    monkeypatch.setattr(row_groups, "GROUP_ROWS", 2)
    whole = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    store = ResultStore(f"file://{tmp_path}/results")
    stored = stored_scores.StoredScores.of(whole)
    assert len(stored.references) == 4
    store.write(FoldScore(0, 0.5, 7, key="task"), stored)
    monkeypatch.setattr(stored_scores, "_written", refused)
    store.write(FoldScore(0, 0.5, 7, key="driver"), stored)
    bounds = [(0, 3), (3, 7)]
    for key in ("task", "driver"):
        assert np.array_equal(np.load(tmp_path / f"results/{key}.npy"), whole)
        mapped = store.scores(key, mapped=True)
        assert mapped is not None
        for gone in (False, True):
            if gone:
                store.drop_scores(key)  # a process that has mapped a file can still read it
            parts = ray.get([*stored_scores.slices([mapped, mapped], bounds)])
            for (start, stop), part in zip(bounds, parts, strict=True):
                assert len(part) == 2
                assert all(np.array_equal(own, whole[start:stop]) for own in part)
