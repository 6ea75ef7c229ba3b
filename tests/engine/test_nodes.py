"""Nodes that come and go: which ones work goes to, and what is said and refused while an autoscaler adds some."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from rayline.compat.ray_autoscaler import AutoscalerState
from rayline.core.errors import ResourceError, at
from rayline.core.waiting import told_to
from rayline.engine import nodes as module
from rayline.engine.placement import PlacementPlan, refuse_no_room

STAYS = {"NodeID": "a", "Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"CPU": 2.0, "memory": 100.0}}
LEAVES = {"NodeID": "b", "Alive": True, "NodeManagerAddress": "10.0.0.2", "Resources": {"CPU": 8.0}}
DEAD = {
    "NodeID": "c", "Alive": False, "NodeManagerAddress": "10.0.0.3", "Resources": {}, "DeathReasonMessage": "spot"
}  # fmt: skip


class PretendedCluster:
    """A cluster, an autoscaler that adds `adds` after some looks, and the demands that it has heard."""

    def __init__(self, state: AutoscalerState | None, adds: dict[str, Any] | None = None, looks: int = 2) -> None:
        self.nodes, self.state, self.adds, self.looks = [STAYS, LEAVES, DEAD], state, adds, looks
        self.demands: list[list[dict[str, float]]] = []
        self.removed = 0
        self.id = SimpleNamespace(hex=lambda: "group")

    def demand(self, bundles: list[dict[str, float]], what: str) -> PretendedCluster:
        self.demands.append(bundles)
        return self

    def wait(self, seconds: float) -> bool:
        self.looks -= 1
        if self.looks > 0 or self.adds is None:
            return False
        self.nodes.append({"NodeID": "new", "Alive": True, "Resources": self.adds})
        return True

    def remove(self, group: Any) -> None:
        self.removed += 1


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(*arguments: Any, **options: Any) -> PretendedCluster:
        cluster = PretendedCluster(*arguments, **options)
        monkeypatch.setattr(module, "ray", SimpleNamespace(nodes=lambda: cluster.nodes, is_initialized=lambda: False))
        monkeypatch.setattr(module, "draining_nodes", lambda: {"b": time.time() + 30.0})
        monkeypatch.setattr(module, "autoscaler_state", lambda: cluster.state)
        monkeypatch.setattr(module, "reserve", cluster.demand)
        monkeypatch.setattr(module, "remove_placement_group", cluster.remove)
        return cluster

    monkeypatch.setattr(module, "MESSAGE_DELAY_S", -1.0)
    return made


def test_nothing_goes_to_a_node_that_leaves(cluster: Any) -> None:
    cluster(None)
    assert module.usable_nodes() == {"a": {"CPU": 2.0, "memory": 100.0}}
    assert [module.is_leaving(node) for node in "abc"] == [False, True, True]
    assert [module.lost_node(node) for node in "abc"] == [None, None, "10.0.0.3 (spot)"]
    assert PlacementPlan.of(2, {"CPU": 1}, use_gpu=False).nodes == ["a", "a"]
    with pytest.raises(ResourceError, match=r"3 × 1 = 3 CPU; got 1 node with 2 CPU\."):
        PlacementPlan.of(3, {"CPU": 1}, use_gpu=False)


@pytest.mark.parametrize(("spread", "nodes"), [(False, ["a", "a", "a", "d"]), (True, ["a", "a", "d", "d"])])
def test_workers_are_packed_or_spread(cluster: Any, *, spread: bool, nodes: list[str]) -> None:
    found = cluster(None)
    found.nodes = [{"NodeID": name, "Alive": True, "Resources": {"CPU": 3.0}} for name in ("a", "d")]
    assert PlacementPlan.of(4, {"CPU": 1}, use_gpu=False, spread=spread).nodes == nodes
    assert PlacementPlan.of_group((4, 6), None, use_gpu=False, spread=spread).nodes == nodes
    found.nodes[1]["Resources"] = {"CPU": 1.0}
    assert PlacementPlan.of(4, {"CPU": 1}, use_gpu=False, spread=spread).nodes == ["a", "a", "a", "d"]


@pytest.mark.parametrize(
    ("n", "resources", "nodes", "cpus", "n_threads"),
    [
        (2, {"GPU": 0.5}, ["gpu", "gpu"], 0.5, 1),  # a share of the CPUs of its own node, whatever others have
        (2, {"licence": 1.0}, ["own", "own"], 4.0, 4),
        (1, {"GPU": 1.0, "CPU": 1.0}, ["gpu"], 1.0, 1),
        (1, {"bare": 1.0}, ["bare"], 0.0, 1),
        (3, None, ["own", "own", "own"], 2.0, 2),
    ],
)
def test_workers_go_to_nodes_that_have_what_they_need(
    cluster: Any, n: int, resources: dict[str, float] | None, nodes: list[str], cpus: float, n_threads: int
) -> None:
    pretended = cluster(None)
    has = {"gpu": {"CPU": 1.0, "GPU": 1.0}, "own": {"CPU": 8.0, "licence": 2.0}, "bare": {"bare": 1.0}}
    pretended.nodes = [{"NodeID": name, "Alive": True, "Resources": resources} for name, resources in has.items()]
    plan = PlacementPlan.of(n, resources, use_gpu=False)
    assert (plan.nodes, plan.cpus, plan.n_threads) == (nodes, cpus, n_threads)


def test_a_leaving_node_is_noticed_once(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(None)
    monkeypatch.setattr(module, "LOOK_S", 0.0)
    assert not module.LeavingNodes(["a"]).look()
    leaving = module.LeavingNodes(["a", "b"])
    assert leaving.look()
    assert not leaving.look()
    assert leaving.first.startswith("10.0.0.2, which leaves the cluster in ")


def test_nodes_are_added_for_workers_that_have_no_room(cluster: Any) -> None:
    starting = AutoscalerState({"gpu": 1}, ("gpu: no quota",), frozenset({"other"}))
    found = cluster(starting, adds={"CPU": 4.0, "GPU": 2.0})
    said: list[str] = []
    with told_to(said.append):
        plan = PlacementPlan.of(2, None, use_gpu=True)
    assert plan.nodes == ["new", "new"]
    assert found.demands == [[{"GPU": 1.0, "CPU": 1.0}] * 2]
    assert found.removed == 1
    assert said == [
        "waiting for nodes with room for 2 × (1 GPU, 1 CPU): the autoscaler is starting 1 node of type 'gpu'; 1 start failed, the last: "
        "gpu: no quota"
    ]


def test_workers_share_what_is_there_where_no_more_can_be_added(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cluster(AutoscalerState({}, (), frozenset({"group"})))
    assert PlacementPlan.of(4, None, use_gpu=False).nodes == ["a"] * 4
    assert found.demands == [[{"CPU": 1.0}] * 4]
    found.nodes = [{**STAYS, "Resources": {}}]
    PlacementPlan.of(4, None, use_gpu=False)
    assert found.demands[1:] == [[{"CPU": 1.0}] * 4, [{"CPU": 1.0}]]
    assert found.removed == 3


@pytest.mark.parametrize("says_what_it_refuses", [True, False])
def test_a_demand_that_no_node_can_serve_is_refused(
    cluster: Any, says_what_it_refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_S", 0.0)
    found = cluster(AutoscalerState({}, (), frozenset({"group"}) if says_what_it_refuses else None))
    with pytest.raises(ResourceError) as error, at("train.fit"):
        PlacementPlan.of(2, {"CPU": 64}, use_gpu=False)
    assert str(error.value).splitlines()[:2] == [
        "train.fit: 2 workers do not fit into this Ray.",
        "  Expected 2 × 64 = 128 CPU; got 1 node with 2 CPU, and an autoscaler that adds none with room for it.",
    ]
    assert found.looks <= (2 - module.REFUSED_LOOKS if says_what_it_refuses else 1)
    assert found.removed == 1


def test_nodes_that_do_not_come(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADD_S", -1.0)
    found = cluster(AutoscalerState({"cpu": 1}, (), frozenset()))
    with pytest.raises(ResourceError, match="took more than"):
        module.add_nodes([{"CPU": 64.0}])
    assert found.removed == 1
    monkeypatch.setattr(module, "ADD_S", 3600.0)
    with pytest.raises(ResourceError, match=r"took more than 1e-06 s"):
        PlacementPlan.of(2, {"CPU": 64}, use_gpu=False, timeout_s=1e-6)


def test_an_autoscaler_is_asked_for_what_is_missing_only(cluster: Any) -> None:
    found = cluster(AutoscalerState({}, (), frozenset()), adds={"CPU": 1.0})
    refuse_no_room({"CPU": 1.0}, 1, spare_cpus=1.0)
    assert found.demands == []
    refuse_no_room({"CPU": 1.0}, 2, spare_cpus=1.0)
    assert found.demands == [[{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]]
    assert not cluster(None).demands
    assert not module.add_nodes([{"CPU": 1.0}])
    assert module.coming() == ""
