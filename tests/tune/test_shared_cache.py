"""What trials share: made once, read by all, bounded, and made again when it was lost."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import polars as pl
import pytest
import ray

from rayline import Preprocessor, train, tune
from rayline.tune import shared_cache
from rayline.tune.shared_cache import CacheActor, _packed, _unpacked


def test_one_makes_and_the_others_wait() -> None:
    async def story() -> list[Any]:
        cache_actor = CacheActor(100)
        assert await cache_actor.ask("a") is None  # the first makes it
        waiting = [asyncio.ensure_future(cache_actor.ask("a")) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(w.done() for w in waiting)
        await cache_actor.keep("a", [1], 10)
        return [await w for w in waiting]

    assert asyncio.run(story()) == [[1]] * 3


def test_after_a_failure_or_a_death_another_one_makes() -> None:
    async def story() -> None:
        cache_actor = CacheActor(100)
        assert await cache_actor.ask("a") is None
        second = asyncio.ensure_future(cache_actor.ask("a"))
        await asyncio.sleep(0)
        await cache_actor.keep("a", None)
        assert await second is None
        assert await cache_actor.ask("a", wait_timeout_s=0.01) is None  # the second is silent for too long

    asyncio.run(story())


def test_the_least_recently_used_go_first() -> None:
    async def story() -> None:
        cache_actor = CacheActor(25)
        for key in "ab":
            await cache_actor.keep(key, [key], 10)
        assert await cache_actor.ask("a") == ["a"]
        await cache_actor.keep("c", ["c"], 10)
        assert await cache_actor.ask("b") is None
        assert await cache_actor.ask("a") == ["a"]
        await cache_actor.keep("d", ["d"], 26)  # larger than all there is
        assert await cache_actor.ask("d") is None

    asyncio.run(story())


def test_tables_come_back_as_they_were() -> None:
    table = pl.DataFrame(
        {
            "x": [1.0, None, 3.0],
            "e": pl.Series(["a", "b", None], dtype=pl.Enum(["b", "a"])),
            "s": ["x", None, "łódź"],
            "v": pl.Series([[1.0, 2.0]] * 3, dtype=pl.Array(pl.Float64, 2)),
            "i": pl.Series([1, 2, 3], dtype=pl.Int8),
            "b": [True, None, False],
        }
    )
    for part in (table, table.select("x", "i", "b"), table.clear()):
        back = _unpacked(_packed(part))
        assert back.equals(part)
        assert back.schema == part.schema
    assert _unpacked(_packed({"a": 1})) == {"a": 1}


SPACE: dict[str, Any] = {
    "max_depth": tune.randint(1, 5),
    "preprocessor": {"impute": {"strategy": tune.choice(["mean", "median"])}},
}


@pytest.mark.ray
def test_trials_that_share_have_the_same_scores(
    table: pl.DataFrame, preprocessor: Preprocessor, ray_session: Any, monkeypatch: Any
) -> None:
    data = {"train_dataset": table, "train_pipeline": preprocessor, "cv": 3, "target_columns": ["late"]}
    trainer = train.XGBoostTrainer({"subsample": 0.8}, num_boost_round=5)
    alone = tune.run(trainer, data, SPACE, num_samples=6)
    monkeypatch.setattr(shared_cache, "MIN_BYTES", 0)
    shared = tune.run(trainer, data, SPACE, num_samples=6)
    assert [(t.config, t.scores) for t in shared.trials] == [(t.config, t.scores) for t in alone.trials]
    assert shared.oof.equals(alone.oof)


@ray.remote(num_cpus=0)
class Maker:
    def __init__(self, cache_actor: Any) -> None:
        self.shelf = shared_cache.SharedCache(cache_actor)

    def made(self, key: str, seconds: float = 0.0) -> int:
        made = []

        def make() -> pl.DataFrame:
            made.append(1)
            time.sleep(seconds)
            return pl.DataFrame({"x": range(1000)})

        assert self.shelf.get(key, make).height == 1000
        return len(made)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.ray
def test_actors_share_and_what_died_is_made_again(ray_session: Any) -> None:
    cache_actor = shared_cache.start_cache()
    one, two = Maker.remote(cache_actor), Maker.remote(cache_actor)  # type: ignore[attr-defined]
    assert sum(ray.get([actor.made.remote("a", 0.5) for actor in (one, two)])) == 1
    assert ray.get(one.made.remote("b")) == 1
    one.die.remote()
    time.sleep(1.0)
    assert ray.get(two.made.remote("b")) == 1  # the object went with its owner
    assert ray.get(two.made.remote("b")) == 0
    ray.kill(cache_actor)
    assert ray.get(two.made.remote("c")) == 1  # alone
