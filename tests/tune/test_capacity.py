"""How trials fit into a cluster.

Covers `tune.ray_executor` too.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from rayline import train
from rayline.core.errors import ResourceError
from rayline.tune.capacity import demand, plan


def trainer(**options: Any) -> train.Trainer:
    return train.XGBoostTrainer({}, **options)


def test_in_the_trial_itself() -> None:
    found = plan(trainer(), None, [{"CPU": 4}])
    assert (found.resources, found.concurrency, found.n_threads) == ({"CPU": 1.0}, 4, 1)
    assert plan(trainer(), 3, [{"CPU": 4}]).concurrency == 3
    two = plan(trainer(resources_per_worker={"CPU": 2}), None, [{"CPU": 5}])
    assert (two.concurrency, two.n_threads) == (2, 2)


def test_a_worker_is_on_one_node() -> None:
    two = trainer(resources_per_worker={"CPU": 2})
    assert plan(two, None, [{"CPU": 3}, {"CPU": 3}]).concurrency == 2  # not three, as their sum says
    assert (
        plan(trainer(num_workers=2, resources_per_worker={"CPU": 2}), None, [{"CPU": 5}, {"CPU": 3}]).concurrency == 1
    )


def test_of_a_range_of_workers_the_smallest_group_must_fit() -> None:
    elastic = trainer(num_workers=(2, 4), resources_per_worker={"CPU": 1})
    assert [plan(elastic, None, [{"CPU": n}]).concurrency for n in (2, 3, 4, 8)] == [1, 1, 1, 2]
    with pytest.raises(ResourceError, match="2 × 1 = 2 CPU, and the cluster has 1"):
        plan(elastic, None, [{"CPU": 1}])


def test_workers_take_their_resources_themselves() -> None:
    found = plan(trainer(num_workers=2, use_gpu=True), None, [{"CPU": 8, "GPU": 4}])
    assert found.concurrency == 2
    assert found.resources == [{"memory": 1}]
    assert plan(trainer(num_workers=2), 7, [{"CPU": 2}]).concurrency == 1


@pytest.mark.parametrize(
    ("options", "nodes", "message"),
    [
        ({"num_workers": 3}, [{"CPU": 2}], "3 × 1 = 3 CPU, and the cluster has 2"),
        (
            {"num_workers": 2, "resources_per_worker": {"CPU": 2}},
            [{"CPU": 2}, {"CPU": 1}],
            "2 × 2 = 4 CPU, and the cluster has 3",
        ),
        ({"num_workers": 1, "use_gpu": True}, [{"CPU": 2}], "1 × 1 = 1 GPU, and the cluster has 0"),
        (
            {"resources_per_worker": {"CPU": 2}},
            [{"CPU": 1}] * 2,
            r"1 × \(2 CPU\), each of them on one node.(.|\n)*1 CPU; 1 CPU",
        ),
        ({"num_workers": 2, "resources_per_worker": {"CPU": 2}}, [{"CPU": 3}, {"CPU": 1}], r"2 × \(2 CPU\), each"),
        ({"resources_per_worker": {"CPU": 1, "x": 1}}, [{"CPU": 1}, {"x": 1}], r"1 × \(1 CPU, 1 x\), each"),
    ],
)
def test_the_impossible_is_refused_with_the_arithmetic(
    options: dict[str, object], nodes: list[dict[str, float]], message: str
) -> None:
    with pytest.raises(ResourceError, match=message):
        plan(trainer(**options), None, nodes)


def test_trials_wait_for_nodes_that_an_autoscaler_adds() -> None:
    assert plan(trainer(), 8, [{"CPU": 2}], can_grow=True).concurrency == 8
    assert plan(trainer(), None, [{"CPU": 2}], can_grow=True).concurrency == 2
    assert (
        plan(trainer(num_workers=2), 8, [{"CPU": 4}], can_grow=True).concurrency == 2
    )  # groups must not wait for one another
    assert demand(trainer(num_workers=2, use_gpu=True)) == (2, {"CPU": 1.0, "GPU": 1.0})
    assert demand(trainer(resources_per_worker={"CPU": 3})) == (1, {"CPU": 3.0})
    with pytest.raises(ResourceError, match="the cluster has 0, and its autoscaler adds no node for it"):
        plan(trainer(use_gpu=True), None, [{"CPU": 2}], can_grow=True)


def test_a_search_may_give_each_trial_a_part_of_a_gpu() -> None:
    part = trainer().with_resources(None, {"gpu": 0.25})
    assert part.use_gpu
    found = plan(part, None, [{"CPU": 8, "GPU": 1}])
    assert found.resources == {"CPU": 1.0, "GPU": 0.25}
    assert found.concurrency == 4
    assert plan(trainer().with_resources(True), None, [{"CPU": 8, "GPU": 2}]).concurrency == 2
    assert not trainer(use_gpu=True).with_resources(False).use_gpu
    same = trainer()
    assert same.with_resources() is same


def test_a_search_gives_up_waiting_for_cpus_after_the_time_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    from rayline.tune import ray_executor

    monkeypatch.setattr(ray_executor, "_waiting", lambda capacity: "waiting for 1 CPU")

    class WaitingLog:
        is_waiting, waited_s = False, 1.0
        timeout_s: float | None = None

        def __init__(self) -> None:
            self.said: list[str] = []
            self.line = SimpleNamespace(wait=self.said.append)

    executor = ray_executor.RayExecutor.__new__(ray_executor.RayExecutor)
    executor.capacity = plan(trainer(), None, [{"CPU": 4}])
    log: Any = WaitingLog()
    executor._wait(log)
    assert log.said == []
    log.is_waiting = True
    executor._wait(log)
    assert log.said == ["waiting for 1 CPU"]
    log.timeout_s = 0.5
    with pytest.raises(ResourceError, match=r"no trial could start within timeout_s=0\.5: waiting for 1 CPU"):
        executor._wait(log)
    log.is_waiting, log.waited_s = False, 0.0  # a trial has started
    executor._wait(log)
    assert log.said == ["waiting for 1 CPU"]
