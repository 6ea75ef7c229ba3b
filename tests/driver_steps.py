"""What the drivers of `test_drivers` do, and what is left of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import ray

from rayline import data, serve, train, tune
from rayline.compat.ray import live_actors
from rayline.core import registry, scratch
from rayline.core.errors import RaylineError
from rayline.stages import StandardScaler
from rayline.testing import training_table

BEGUN = "TEST_DRIVERS_BEGUN"
"""The environment variable with a file that says that a training or a search goes on."""

STAY = {"AutoscalingRequester", "_AutoscalingCoordinatorActor", "_StatsActor", "JobSupervisor", "GroupCleaner"}
"""Actors of Ray Data, one of each for a cluster, of Ray's jobs, and the one of a job that watches the processes of its tasks and actors."""


class Begun(train.Callback):
    """Says that a training or a search has begun, and makes it long."""

    def on_iteration(self, run: Any, iteration: int, metrics: Mapping[str, float]) -> None:
        Path(os.environ[BEGUN]).touch()
        time.sleep(0.2)

    def on_trial(self, run: Any, trial: Any) -> None:
        Path(os.environ[BEGUN]).touch()


class Fails(train.Callback):
    """Raises in the middle of a training or a search."""

    def on_iteration(self, run: Any, iteration: int, metrics: Mapping[str, float]) -> None:
        raise OSError("the callback fails")

    def on_trial(self, run: Any, trial: Any) -> None:
        raise OSError("the callback fails")


class Dies(train.Callback):
    """Ends its process in the middle of a training or a search, without a word."""

    def on_iteration(self, run: Any, iteration: int, metrics: Mapping[str, float]) -> None:
        if iteration == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_trial(self, run: Any, trial: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def table() -> pl.DataFrame:
    return training_table(600).select("wind", "hour", "late")


def trainer(rounds: int = 3, **scaling: Any) -> Any:
    scaled = train.Scaling(**scaling) if scaling else None
    return train.XGBoostTrainer({"eta": 0.5, "max_depth": 2}, num_boost_round=rounds, seed=1, scaling=scaled)


def fit(
    backend: str = "actors", rounds: int = 3, *, callbacks: Sequence[train.Callback] = (), **scaling: Any
) -> pl.DataFrame:
    """Train on two workers and return the history."""
    result = trainer(rounds, num_workers=2, backend=backend, **scaling).fit(
        None, data.from_polars(table()), None, ["late"], callbacks=callbacks, verbose=False
    )
    history: pl.DataFrame = result.history
    return history


def search(trials: int = 2, *, callbacks: Sequence[train.Callback] = (), **scaling: Any) -> float:
    """Tune over a Dataset and return the best accuracy."""
    analysis = tune.run(
        trainer(**scaling),
        {"train_dataset": data.from_polars(table()), "cv": 2, "target_columns": ["late"]},
        {"reg_lambda": tune.grid_search([1.0 + number for number in range(trials)])},
        "accuracy",
        num_samples=1,
        seed=1,
        callbacks=callbacks,
        verbose=False,
    )
    return float(analysis.best_score)


def fail() -> None:
    """Do everything that a driver may do wrong: input that is refused, errors in the middle, more resources than there are."""
    rows = data.from_polars(table())
    too_much: Any = {"resources_per_worker": {"CPU": 64.0}}
    wrong: list[tuple[str, Callable[[], Any]]] = [
        ("nothing", lambda: trainer(num_workers=2).fit(None, rows, None, ["nothing"], verbose=False)),
        (
            "nothing",
            lambda: tune.run(
                trainer(), {"train_dataset": rows, "cv": 2, "target_columns": ["late"]}, {}, "nothing", verbose=False
            ),
        ),
        *(("the callback fails", partial(fit, backend, callbacks=[Fails()])) for backend in ("actors", "ray_train")),
        ("the callback fails", partial(search, callbacks=[Fails()])),
        ("64", partial(fit, **too_much)),
        ("64", partial(search, num_workers=2, **too_much)),
        ("Rayline did not create", lambda: served().deploy()),
        ("Rayline did not create", lambda: served().delete()),
    ]
    missed = []
    for said, act in wrong:
        error: Exception | None = None
        try:
            act()
        except (RaylineError, OSError) as raised:
            error = raised
        if error is None or said not in f"{error} {error.__cause__}":
            missed.append((said, error))
    assert not missed, missed


def served() -> serve.Deployment:
    """Return a deployment under the name of an application of others."""
    result = trainer().fit(None, table(), None, ["late"], verbose=False)
    return serve.to_deployment(result.inference_pipeline, name="theirs")


def path(folder: Path) -> None:
    """Go the whole path with a Dataset, and compare it with the same steps over a table in this process."""
    trainset, testset = data.train_test_split(data.from_polars(table()), percentage=0.25)
    stages = train.Preprocessor([("scale", StandardScaler())]).fit(trainset, target_columns=["late"])
    here = registry.engine("ray").collect(testset)
    transformed = registry.engine("ray").collect(stages.transform(testset))
    assert transformed.equals(stages.transform(here))
    result = trainer(num_workers=2).fit(stages, trainset, testset, ["late"], verbose=False)
    late = result.inference_pipeline
    predicted = late.predict(here)["prediction"]
    accuracy = (predicted == here["late"]).mean()
    assert result.metrics["test-accuracy"] == accuracy
    assert late.evaluate(testset, metrics=["accuracy"]).metrics["accuracy"].value == accuracy
    assert registry.engine("ray").collect(late.transform(testset))["prediction"].equals(predicted)
    assert late.write_predictions(testset, folder / "predictions") == here.height
    assert pl.read_parquet(folder / "predictions" / "*.parquet")["prediction"].equals(predicted)
    assert search() > 0.5


def driver(address: str, code: str, **environment: str) -> subprocess.Popen[str]:
    """Start a driver of its own on a cluster."""
    begin = (
        "import ray, signal; from tests.driver_steps import Begun, fail, fit, search\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored where a shell has started the tests in the background
        f"ray.init({address!r}, log_to_driver=False, logging_level='ERROR')\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", begin + code], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
    )


def free_port() -> int:
    """Return a port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(is_so: Callable[[], bool], otherwise: Callable[[], Any], within_s: float = 90.0) -> None:
    """Wait until something is so; otherwise fail, and say why."""
    end = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.1)


def until_begun(process: subprocess.Popen[str], file: Path) -> None:
    """Wait until the training of a driver goes on."""
    until(lambda: file.exists() or process.poll() is not None, lambda: "no training has begun", 180.0)
    assert process.poll() is None, process.communicate()[1]


def in_use() -> list[Any]:
    """Return the actors, placement groups and resources that are not given back."""
    available = ray.available_resources()
    used = {name: amount - available.get(name, 0.0) for name, amount in ray.cluster_resources().items()}
    groups = ray.util.placement_group_table().values()
    return [
        *sorted(actor.class_name for actor in live_actors() if actor.class_name not in STAY),
        *sorted(group["name"] for group in groups if group["state"] != "REMOVED"),
        *((name, round(used[name], 4)) for name in ("CPU", "GPU", "memory") if used.get(name)),
    ]


def until_in_use(expected: list[Any]) -> None:
    """Wait until only this is in use."""
    until(lambda: in_use() == expected, in_use)


def temporary_files() -> list[str]:
    """Return Rayline's temporary folders, when those of killed processes have been removed."""
    with scratch.folder("test"):  # the next one that is needed removes them
        pass
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(scratch.PREFIX)]
