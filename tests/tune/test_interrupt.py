"""A search that is interrupted says so, leaves nothing running, and changes nothing of the process for good.

Covers `tune.interruption` too.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rayline import train, tune
from rayline.core.errors import ParameterError, ResourceError
from rayline.tune.pbt.part_training import PopulationPool

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

SPACE = {"ridge": tune.grid_search([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupting(train.Callback):
    """Presses Ctrl-C after a number of trials."""

    def __init__(self, after: int, how: Any = lambda: signal.raise_signal(signal.SIGINT)) -> None:
        self.left, self.how, self.ended = after, how, 0

    def on_trial(self, run: Any, trial: Any) -> None:
        self.left -= 1
        if not self.left:
            self.how()

    def on_end(self, run: Any) -> None:
        self.ended += 1


def by_exception() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def data(table: pl.DataFrame) -> dict[str, Any]:
    return {"train_dataset": table.drop("city"), "cv": 2, "target_columns": ["late"]}


def all_free(ray: Any, within_s: float = 20.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if ray.available_resources().get("CPU") == 2.0:
            groups = ray.util.placement_group_table().values()
            return all(group["state"] == "REMOVED" for group in groups)
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", [None, by_exception], ids=["a signal", "an exception of a callback"])
def test_an_interrupted_search_raises_and_is_resumed(
    data: Any, tmp_path: Path, monkeypatch: Any, ray_session: Any, how: Any
) -> None:
    monkeypatch.setenv("RAYLINE_CACHE", str(tmp_path))
    handlers = [signal.getsignal(name) for name in SIGNALS]
    callback = Interrupting(2) if how is None else Interrupting(2, how)
    options: dict[str, Any] = {"num_samples": 1, "name": "stopped", "max_concurrent": 1}
    with pytest.raises(KeyboardInterrupt, match=r"interrupted when \d of \d trials were finished.*resume=True"):
        tune.run(train.Trainer("faulty"), data, SPACE, callbacks=[callback], **options)
    assert callback.ended == 1
    assert [signal.getsignal(name) for name in SIGNALS] == handlers
    assert all_free(ray_session)
    resumed = tune.run(train.Trainer("faulty"), data, SPACE, resume=True, **options)
    assert resumed.fits["reused"] >= 4
    assert sum(resumed.fits.values()) == 16
    assert not resumed.interrupted


def test_sigterm_ends_the_process_after_the_trials(data: Any, ray_session: Any) -> None:
    callback = Interrupting(1, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as caught:
        tune.run(
            train.Trainer("faulty"),
            data,
            SPACE,
            num_samples=1,
            callbacks=[callback],
            on_interrupt="return",
            max_concurrent=1,
        )
    assert caught.value.code == 128 + signal.SIGTERM
    assert all_free(ray_session)


def test_what_is_finished_is_returned_when_asked_for(data: Any) -> None:
    with pytest.raises(ParameterError, match="on_interrupt"):
        tune.run(train.Trainer("faulty"), data, SPACE, on_interrupt="ignore")  # type: ignore[arg-type]
    found = tune.run(
        train.Trainer("faulty"), data, SPACE, num_samples=1, callbacks=[Interrupting(2)], on_interrupt="return",
        max_concurrent=1,
    )  # fmt: skip
    assert found.interrupted
    assert "interrupted" in found.summary
    assert 2 <= len(found.trials) < 8
    assert found.best_model.native is not None


@pytest.mark.parametrize("on_interrupt", ["raise", "return"])
def test_a_comparison_ends_with_its_candidate(data: Any, on_interrupt: str) -> None:
    candidates = {name: (train.Trainer("faulty"), SPACE) for name in ("first", "second")}
    options: dict[str, Any] = {"callbacks": [Interrupting(2)], "on_interrupt": on_interrupt, "max_concurrent": 1}
    if on_interrupt == "raise":
        with pytest.raises(KeyboardInterrupt):
            tune.compare(candidates, data, **options)
    else:
        assert list(tune.compare(candidates, data, **options).analyses) == ["first"]
    assert options["callbacks"][0].ended == 1  # type: ignore[index]  # the second has not begun


def test_a_population_goes_back_to_the_last_generation(data: Any, monkeypatch: Any, ray_session: Any) -> None:
    space = {"rate": tune.uniform(0.05, 0.2), "steps": 12}
    config: dict[str, Any] = {"num_samples": 3, "scheduler": tune.Population(interval=4)}
    whole = PopulationPool.__call__
    calls: list[int] = []

    def interrupted(self: Any, work: Any) -> Any:
        calls.append(1)
        for number, made in enumerate(whole(self, work)):
            if len(calls) == 2 and number == 2:
                raise KeyboardInterrupt
            yield made

    monkeypatch.setattr(PopulationPool, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt, match="interrupted"):
        tune.run(train.Trainer("descent"), data, space, **config)
    assert all_free(ray_session)
    calls.clear()
    found = tune.run(train.Trainer("descent"), data, space, on_interrupt="return", **config)
    assert found.interrupted
    assert [[part.until for part in trial.parts] for trial in found.trials] == [[4]] * 3
    assert found.oof.height == data["train_dataset"].height


def state() -> Any:
    loggers = [logging.getLogger(name).level for name in ("ray.tune", "ray.train", "ray.air", "optuna")]
    return dict(os.environ), loggers, list(map(signal.getsignal, SIGNALS))


def test_searches_in_threads_leave_the_process_as_it_was(data: Any) -> None:
    before = state()

    def search(n: int) -> Any:
        time.sleep(n * 1.5)
        found = tune.run(
            train.Trainer("faulty"), data, {"ridge": tune.uniform(0.1, 1.0)}, num_samples=2 + 2 * n, max_concurrent=1
        )
        return [trial.scores for trial in found.trials]

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(search, range(2)))
    assert state() == before
    assert both[1][:2] == both[0]
    assert search(0) == both[0]
    assert state() == before


def test_nothing_stays_in_the_object_store(data: Any, ray_session: Any) -> None:
    def held() -> set[bytes]:
        gc.collect()
        found: dict[bytes, Any] = ray_session._private.worker.global_worker.core_worker.get_all_reference_counts()
        return set(found)

    before = held()
    several: list[dict[str, Any]] = [{}, {"search": "optuna"}, {"scheduler": "asha"}]
    for options in several:
        found = tune.run(train.Trainer("faulty"), data, {"ridge": tune.uniform(0.1, 1.0)}, num_samples=2, **options)
        del found
    deadline = time.monotonic() + 20
    while held() - before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert held() - before == set()


def test_a_search_says_what_it_waits_for(data: Any, ray_session: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr("rayline.tune.trial_log.MESSAGE_DELAY_S", 0.5)
    monkeypatch.delenv("RAYLINE_QUIET")

    @ray_session.remote(num_cpus=2)
    class Other:
        def is_there(self) -> bool:
            return True

    other = Other.remote()  # type: ignore[attr-defined]
    ray_session.get(other.is_there.remote())
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(tune.run, train.Trainer("faulty"), data, {"ridge": 0.1}, num_samples=1)
        time.sleep(6)
        ray_session.kill(other)
        searching.result(60)
    said = capsys.readouterr().err
    assert "tune  waiting for 1 CPU for a trial: 0 of 2 CPU free; held by actor" in said
    assert "Other (2 CPU)" in said


def test_a_dataset_is_not_read_where_no_cpu_is_left(ray_session: Any, monkeypatch: Any, table: pl.DataFrame) -> None:
    rows = ray_session.data.range(100).map_batches(lambda batch: {"x": batch["id"] * 1.0, "y": batch["id"] % 2})

    def fit(rows: Any) -> str:
        try:
            train.XGBoostTrainer({}, num_boost_round=1).fit(None, rows, None, ["y"], verbose=False)
        except ResourceError as error:
            return str(error)
        return "fitted"

    said = ray_session.get(ray_session.remote(num_cpus=2)(fit).remote(rows), timeout=120)
    assert "inside a task that holds 2 of 2 CPU" in said
    assert ray_session.get(ray_session.remote(num_cpus=1)(fit).remote(rows), timeout=120) == "fitted"
