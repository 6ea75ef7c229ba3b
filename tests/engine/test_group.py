"""A training on plain actors, with groups of workers that are none: what is kept, ended, heard and tried again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from ray.exceptions import RayActorError

from rayline.core.errors import DataError, TrainingError
from rayline.engine import group as module
from rayline.engine.group import DataShards, DistributedRun, TrainingCall
from rayline.engine.kept_groups import GroupKey, KeptGroups
from rayline.engine.placement import PlacementPlan
from rayline.engine.worker_group import NodeLeavesError, WorkerLostError
from rayline.engine.workers import WorkerMessage

PLAN = PlacementPlan(["node"] * 2, {}, 0.5, strict=False, n_threads=1)


class PretendedGroup:
    """A group whose runs are those of `does`, one after another; `log` has the outcomes of all groups."""

    log: list[str]
    does: list[Callable[[Any], list[Any]]]
    kept: KeptGroups

    def __init__(self, plan: PlacementPlan) -> None:
        self.plan, self.actors, self.worker_addresses = plan, [None] * len(plan.nodes), ["a:1", "b:2"]

    def start(self) -> PretendedGroup:
        self.log.append("start")
        return self

    def send(self, packed: bytes) -> None:
        assert packed

    def join(self, timeout_s: float | None = None) -> None:
        self.log.append("join")

    def run(self, starts: Any, resume: Any, on_message: Any) -> list[Any]:
        assert [start.train for start in starts] == [["first"], ["second"]]
        self.log.append(f"run from {resume}")
        return self.does.pop(0)(on_message)

    def rest(self, seconds: float) -> bool:
        self.log.append("rest")
        return True

    def wake(self) -> bool:
        self.log.append("wake")
        return True

    def end(self) -> None:
        self.log.append("end")


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> type[PretendedGroup]:
    monkeypatch.setattr(PretendedGroup, "log", [], raising=False)
    monkeypatch.setattr(PretendedGroup, "does", [], raising=False)
    monkeypatch.setattr(module, "WorkerGroup", PretendedGroup)
    monkeypatch.setattr(PretendedGroup, "kept", KeptGroups(), raising=False)
    monkeypatch.setattr(module, "KEPT", PretendedGroup.kept)
    monkeypatch.setattr(TrainingCall, "plan", lambda call: PLAN)
    monkeypatch.setattr(GroupKey, "of", lambda framework, plan: GroupKey(framework, plan, "session"))
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "here")
    monkeypatch.setattr("ray.put", lambda value: value)
    monkeypatch.setattr("rayline.engine.worker_group.lost_node", lambda node: None)
    return PretendedGroup


def train(groups: type[PretendedGroup], *does: Callable[[Any], list[Any]], **options: Any) -> list[Any]:
    groups.does[:] = does

    @contextlib.contextmanager
    def coordinate(n: int, host: str) -> Iterator[Mapping[str, Any]]:
        groups.log.append(f"coordinate {n}")
        try:
            yield {}
        finally:
            groups.log.append("uncoordinate")

    call = TrainingCall(function=int, num_workers=2, coordinate=coordinate, **options)
    return DistributedRun(call).run(lambda: DataShards([["first"], ["second"]], None))  # type: ignore[list-item]


def succeeds(on_message: Any) -> list[Any]:
    return ["model", None]


def is_lost(on_message: Any) -> list[Any]:
    raise WorkerLostError(1, RayActorError())


def fails(on_message: Any) -> list[Any]:
    raise DataError("The target has no labels.")


USED = ["join", "coordinate 2", "run from None", "uncoordinate"]


def test_workers_that_are_not_kept_end(groups: type[PretendedGroup]) -> None:
    assert train(groups, succeeds) == ["model", None]
    assert groups.log == ["start", *USED, "end"]


def test_kept_workers_are_woken(groups: type[PretendedGroup]) -> None:
    assert train(groups, succeeds, reuse="a") == train(groups, succeeds, reuse="a") == ["model", None]
    assert groups.log == ["start", *USED, "rest", "wake", *USED, "rest"]
    groups.log.clear()
    train(groups, succeeds, reuse="b")
    assert groups.log == ["end", "start", *USED, "rest"]


def test_workers_of_a_failed_training_end_before_their_coordinator(groups: type[PretendedGroup]) -> None:
    train(groups, succeeds, reuse="a")
    groups.log.clear()
    with pytest.raises(DataError, match="no labels"):
        train(groups, fails, reuse="a")
    assert groups.log == ["wake", *USED[:-1], "end", "uncoordinate", "end"]
    groups.log.clear()
    train(groups, succeeds, reuse="a")
    assert groups.log[0] == "start"


def test_a_lost_group_is_replaced_and_resumes_from_the_last_checkpoint(groups: type[PretendedGroup]) -> None:
    heard: list[int] = []

    def loses_after_two(on_message: Any) -> list[Any]:
        for i in (0, 1):
            assert not on_message(WorkerMessage(i, {"loss": 1.0}))
        on_message(WorkerMessage(0, checkpoint=b"state"))
        return is_lost(on_message)

    def goes_on(on_message: Any) -> list[Any]:
        for i in (1, 2):
            on_message(WorkerMessage(i, {"loss": 0.5}))
        return succeeds(on_message)

    options = {"on_report": lambda i, m: bool(heard.append(i)), "max_failures": 1, "reuse": "a"}  # type: ignore[func-returns-value]
    assert train(groups, loses_after_two, goes_on, **options) == ["model", None]
    assert heard == [0, 1, 2]  # each iteration once
    assert groups.log.count("start") == 2
    assert "run from b'state'" in groups.log
    with pytest.raises(TrainingError, match=r"rank 1 of 2 was lost(.|\n)*2 groups of workers failed"):
        train(groups, is_lost, is_lost, **options)


def test_a_group_that_moves_has_not_failed(groups: type[PretendedGroup]) -> None:
    heard: list[int] = []

    def moves(on_message: Any) -> list[Any]:
        on_message(WorkerMessage(0, {"loss": 1.0}))
        on_message(WorkerMessage(0, checkpoint=b"state"))
        raise NodeLeavesError

    def goes_on(on_message: Any) -> list[Any]:
        on_message(WorkerMessage(1, {"loss": 0.5}))
        return succeeds(on_message)

    options = {"on_report": lambda i, m: bool(heard.append(i)), "max_failures": 0}  # type: ignore[func-returns-value]
    assert train(groups, moves, goes_on, **options) == ["model", None]
    assert heard == [0, 1]
    assert groups.log.count("start") == 2
    assert "run from b'state'" in groups.log


def test_workers_that_start_early_are_used(groups: type[PretendedGroup], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayline.engine.kept_groups.WorkerGroup", PretendedGroup)
    monkeypatch.setattr(PretendedGroup, "load", lambda group, packed: group.log.append("load"), raising=False)
    key = GroupKey.of("a", PLAN)
    with groups.kept.starting(key, b"load"):
        train(groups, succeeds, reuse="a")
    assert groups.log[:3] == ["start", "load", "wake"]
    assert groups.log.count("start") == 1
    groups.log.clear()
    with pytest.raises(ZeroDivisionError), groups.kept.starting(key, b"load"):
        raise ZeroDivisionError
    assert groups.log == ["wake", "end"]
    monkeypatch.setenv("RAYLINE_KEEP_WORKERS_S", "0")
    groups.log.clear()
    with groups.kept.starting(key, b"load"):
        train(groups, succeeds, reuse="a")
    assert groups.log == ["start", *USED, "end"]
