"""The two backends of workers against Ray's own XGBoostTrainer, which reports every round: starting, and one further round."""

from __future__ import annotations

import time
from typing import Any

from bench.report import Comparison, Options, Section
from bench.training import PARAMS, labelled, on_ray, rays_own
from bench.workers import GONE_S, kept_for
from rayline import data, train

FEW, ROUNDS = 10, 110


def run(options: Options) -> Section:
    """All comparisons of this program."""
    n = options.small(100_000)
    section = Section(
        "Backends of workers",
        f"XGBoost (hist, depth 6) on 2 workers of a Ray of 2 CPUs, {n:,} rows of 8 floats and a binary label in 8 Parquet files, {FEW} and {ROUNDS} "
        "rounds, every round reported. Ray's own: `ray.train.xgboost.XGBoostTrainer` with `RayTrainReportCallback`, as its documentation shows, once. "
        "A further round is the difference between the two numbers of rounds, divided by that of the rounds.",
        packages=["xgboost-cpu", "ray"],
    )
    with on_ray(labelled(n)) as (_, folder):
        few, many = (timed(folder, "ray_train", rounds, options.repeats) for rounds in (FEW, ROUNDS))
        few_actors, many_actors = (timed(folder, "actors", rounds, options.repeats) for rounds in (FEW, ROUNDS))
        own = [own_s(folder, rounds) for rounds in (FEW, ROUNDS)]
    name, more = "Ray's XGBoostTrainer, RayTrainReportCallback", ROUNDS - FEW
    section.add(
        Comparison(f"backend='ray_train', {ROUNDS} rounds", many, name, own[1:], goal=0.25),
        Comparison(f"backend='ray_train', {FEW} rounds", few, name, own[:1]),
        Comparison(f"backend='actors', {ROUNDS} rounds", many_actors, name, own[1:], goal=0.25),
        Comparison(f"backend='ray_train', {FEW} rounds", few, "backend='actors', the first fit", few_actors),
        Comparison(
            "a further round, backend='ray_train'",
            [max(0.0, b - a) / more for a, b in zip(few, many, strict=True)],
            name,
            [(own[1] - own[0]) / more],
        ),
        Comparison(
            "a further round, backend='actors'",
            [max(0.0, b - a) / more for a, b in zip(few_actors, many_actors, strict=True)],
            name,
            [(own[1] - own[0]) / more],
        ),
    )
    return section


def timed(folder: str, backend: Any, rounds: int, repeats: int) -> list[float]:
    """Return the seconds of whole fits, each from files and with new workers."""
    trainer = train.XGBoostTrainer(
        PARAMS, num_boost_round=rounds, scaling=train.Scaling(num_workers=2, backend=backend)
    )
    found = []
    with kept_for(0.1):
        for _ in range(repeats):
            begun, rows = time.perf_counter(), data.read_parquet(folder)
            train.fit(trainer, train_dataset=rows, target_columns=["y"], verbose=False)
            found.append(time.perf_counter() - begun)
            time.sleep(GONE_S)
    return found


def own_s(folder: str, rounds: int) -> float:
    """Return the seconds of Ray's own trainer."""
    begun = time.perf_counter()
    rays_own(data.read_parquet(folder), rounds, f"{folder}-runs{rounds}")
    return time.perf_counter() - begun
