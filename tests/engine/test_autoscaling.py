"""A cluster of a head without CPUs, and nodes that an autoscaler adds when something waits for them, and removes when it is idle."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.test_cluster import run

BEGIN = '''
import sys
import time
from pathlib import Path

import ray

import rayline as rl
from rayline import data, train, tune
from rayline.testing import training_table
from tests.autoscaling import autoscaling

folder, version = Path(sys.argv[1]), sys.argv[2]
TYPES = {
    "cpu": {"resources": {"CPU": 1, "object_store_memory": 10**8}, "max_workers": 3},
    "large": {"resources": {"CPU": 1, "large": 1, "object_store_memory": 10**8}, "max_workers": 1},
}


def n_nodes():
    return sum(node["Alive"] for node in ray.nodes()) - 1


def until_idle():
    """Wait until only the head is left: nothing of ours keeps a node."""
    until = time.monotonic() + 120
    while n_nodes():
        assert time.monotonic() < until, ray.nodes()
        time.sleep(0.5)


def fit(**options):
    trainer = train.XGBoostTrainer({"eta": 0.5, "max_depth": 2}, num_boost_round=5, seed=1, **options)
    return trainer.fit(None, rows, None, ["late"], verbose=True)


def refused(call, *parts):
    try:
        call()
    except rl.ResourceError as error:
        assert all(part in str(error) for part in parts) and len(str(error).splitlines()) == 3, error
    else:
        raise AssertionError("not refused")
    states = [group["state"] for group in ray.util.placement_group_table().values()]
    assert set(states) <= {"REMOVED"}, states


training_table(600).select("wind", "hour", "late").write_parquet(folder / "t.parquet")
'''

FITS = (
    BEGIN
    + """
with autoscaling(TYPES, second=version == "2"):
    rows = data.read_parquet(folder / "t.parquet")
    assert fit(num_workers=2).history.height == 5
    assert n_nodes() >= 2
    until_idle()  # the workers that were kept for the next fit have ended
    refused(lambda: fit(num_workers=2, resources_per_worker={"CPU": 4}), "2 × 4 = 8 CPU", "an autoscaler that adds none")
    assert n_nodes() == 0
    if version == "2":
        assert fit(num_workers=1, resources_per_worker={"CPU": 1, "large": 1}).history.height == 5
        assert any(node["Resources"].get("large") for node in ray.nodes() if node["Alive"])
"""
)

SEARCHES = (
    BEGIN
    + """
def search(n, **options):
    return tune.run(
        train.XGBoostTrainer({"eta": 0.5}, num_boost_round=5, **options),
        {"train_dataset": rows, "cv": 2, "target_columns": ["late"]},
        {"max_depth": tune.grid_search([2, 4])},
        num_samples=1,
        max_concurrent=n,
        verbose=False,
    )

with autoscaling(TYPES, second=version == "2"):
    rows = data.read_parquet(folder / "t.parquet")
    assert len(search(2).trials) == 2
    assert n_nodes() >= 2
    assert not any(trial.error for trial in search(1, num_workers=2).trials)
    refused(lambda: search(2, resources_per_worker={"CPU": 2}), "1 × (2 CPU)", "its autoscaler adds no node for it")
    until_idle()
"""
)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("version", ["2", "1"])
def test_a_fit_waits_for_its_nodes_and_gives_them_back(
    tmp_path: Path, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "2")
    run(FITS, str(tmp_path), version)


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_waits_for_its_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "2")
    run(SEARCHES, str(tmp_path), "2")
