"""What a running Ray costs outside of the training loop: of 2 workers against two actors with Rabit by hand, and of a small Dataset against
the same table."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import xgboost

from bench.report import Comparison, Options, Section, alternate
from bench.training import PARAMS, Clock, labelled, on_ray
from rayline import data, train

ROUNDS = 50
KEEP = "RAYLINE_KEEP_WORKERS_S"
FEW = 569
"""Rows of a small Dataset."""

MOST_S = 0.3
"""Seconds that the fit of a small Dataset on a running Ray may take longer than that of the table in this process."""

GONE_S = 3.0
"""Seconds after which the workers of a fit that are kept for no time are gone, and Ray has started other processes in their place."""


def run(options: Options) -> Section:
    """All comparisons of this program."""
    n = options.small(500_000)
    rounds = ROUNDS if n == 500_000 else 5
    section = Section(
        "Workers",
        f"XGBoost (hist, depth 6, {rounds} rounds) on 2 workers of a Ray of 2 CPUs, from 8 Parquet files of {n:,} rows of 8 floats and a binary "
        "label, read again by each first fit. Seconds beside the training loop, which is from the first iteration to the last, and one iteration. By "
        "hand: two plain actors that import XGBoost, the rows through `Dataset.to_arrow_refs`, `RabitTracker`, `QuantileDMatrix`, and the model as "
        "bytes; nothing is checked. The next fit is of the same Dataset with the workers that were kept; another fit of "
        f"other parameters and other rows. A small fit: {FEW} rows, 20 rounds, without workers, the second and later ones.",
        packages=["xgboost-cpu", "ray"],
    )
    with on_ray(labelled(n)) as (_, folder):
        trainer = train.XGBoostTrainer(PARAMS, num_boost_round=rounds, num_workers=2)
        first, by_hand, again, another = list[float](), list[float](), list[float](), list[float]()
        for _ in range(options.repeats):
            with kept_for(0.1):
                by_hand.append(by_hand_s(data.read_parquet(folder), rounds))
                time.sleep(GONE_S)
                rows = data.read_parquet(folder)
                first.append(outside_s(trainer, rows))
                time.sleep(GONE_S)
        with kept_for(60.0):
            outside_s(trainer, rows)
            for depth in range(options.repeats):
                again.append(outside_s(trainer, rows))
                another.append(outside_s(trainer.replace({"max_depth": 3 + depth}), data.read_parquet(folder)))
        small, in_process = small_s(options.repeats)
    section.add(
        Comparison("first fit, outside of the loop", first, "two actors with Rabit by hand", by_hand, goal=1.3),
        Comparison("next fit, outside of the loop", again, "one second", [1.0] * len(again), goal=1.0),
        Comparison("next fit of other rows, outside of the loop", another, "two actors with Rabit by hand", by_hand),
        Comparison("a small fit of a Dataset", small, "the same table in process", in_process),
        Comparison(
            "a small fit of a Dataset: more than in process",
            [max(0.0, mine - theirs) for mine, theirs in zip(small, in_process, strict=True)],
            f"{MOST_S} s",
            [MOST_S] * len(small),
            goal=1.0,
        ),
    )
    return section


def small_s(repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds of the same small fit of a Dataset and of a table."""
    trainer = train.XGBoostTrainer(PARAMS, num_boost_round=20)
    table = labelled(FEW)
    dataset = data.from_polars(table)

    def fit(rows: Any) -> None:
        train.fit(trainer, train_dataset=rows, target_columns=["y"], verbose=False)

    fit(dataset)  # imports, and starts processes of Ray
    return alternate(lambda: fit(dataset), lambda: fit(table), repeats=repeats)


@contextmanager
def kept_for(seconds: float) -> Iterator[None]:
    """Keep the workers of fits for this time."""
    os.environ[KEEP] = str(seconds)
    try:
        yield
    finally:
        del os.environ[KEEP]


def outside_s(trainer: train.Trainer, rows: Any) -> float:
    """Return the seconds of a fit beside its loop."""
    clock, begun = Clock(), time.perf_counter()
    train.fit(trainer, train_dataset=rows, target_columns=["y"], callbacks=[clock], verbose=False)
    return time.perf_counter() - begun - clock.loop_s


class Actor:
    """A worker, as one writes it by hand."""

    def start(self) -> None:
        import xgboost

        self.xgboost = xgboost

    def train(self, rank: int, blocks: list[Any], arguments: dict[str, Any], rounds: int) -> tuple[bytes, float]:
        import pyarrow as pa
        import ray

        table = pa.concat_tables(ray.get(blocks))
        half = len(table) // 2
        table = table.slice(half) if rank else table.slice(0, half)
        heard: list[float] = []

        class Heard(self.xgboost.callback.TrainingCallback):  # type: ignore[name-defined, misc]
            def after_iteration(self, *given: Any) -> bool:
                heard.append(time.perf_counter())
                return False

        with self.xgboost.collective.CommunicatorContext(**arguments, dmlc_task_id=f"{rank:06d}"):
            matrix = self.xgboost.QuantileDMatrix(table.drop_columns(["y"]), label=table["y"].to_numpy())
            model = self.xgboost.train(
                {**PARAMS, "nthread": 1},
                matrix,
                rounds,
                evals=[(matrix, "train")],
                verbose_eval=False,
                callbacks=[Heard()],
            )
        return bytes(model.save_raw("ubj")), (heard[-1] - heard[0]) * rounds / max(1, rounds - 1)


def by_hand_s(rows: Any, rounds: int) -> float:
    """Return the seconds of the same training by hand beside its loop."""
    import ray

    begun = time.perf_counter()
    kind: Any = ray.remote(num_cpus=0)(Actor)
    actors = [kind.remote() for _ in range(2)]
    starting = [actor.start.remote() for actor in actors]
    blocks = rows.to_arrow_refs()
    ray.get(starting)
    tracker = xgboost.tracker.RabitTracker(2, ray.util.get_node_ip_address(), sortby="task")
    tracker.start()
    arguments = tracker.worker_args()
    made = ray.get([actor.train.remote(rank, blocks, arguments, rounds) for rank, actor in enumerate(actors)])
    tracker.wait_for(timeout=10)
    tracker.free()
    xgboost.Booster(model_file=bytearray(made[0][0]))
    for actor in actors:
        ray.kill(actor)
    return time.perf_counter() - begun - float(made[0][1])
