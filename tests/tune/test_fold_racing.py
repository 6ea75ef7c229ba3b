"""Racing: the stopped trials depend only on the scores, in any order of arrival."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayline.tune.fold_racing import FOLDS, SCORE, FoldRacingScheduler, asha, hyperband, median, survives

RULES = {"asha": asha, "hyperband": hyperband, "median": median}


@dataclass(eq=False)
class RacedTrial:
    trial_id: str
    scores: list[float]
    status: str = "PENDING"
    ran: int = 0


@dataclass
class Controller:
    """Ray Tune in small: runs some trials at a time, and gets their results in a random order."""

    scheduler: FoldRacingScheduler
    tables: list[list[float]]
    at_a_time: int
    order: random.Random
    deadly: float = 0.0
    trials: list[RacedTrial] = field(default_factory=list)

    def get_live_trials(self) -> list[RacedTrial]:
        return [t for t in self.trials if t.status in ("PENDING", "PAUSED", "RUNNING")]

    def stop_trial(self, trial: Any) -> None:
        assert trial.status == "PAUSED"
        trial.status = "TERMINATED"
        self.scheduler.on_trial_remove(self, trial)

    def run(self) -> list[int]:
        while True:
            while len(self.get_live_trials()) < self.at_a_time and len(self.trials) < len(self.tables):
                self.trials.append(RacedTrial(f"t{len(self.trials)}", self.tables[len(self.trials)]))
                self.scheduler.on_trial_add(self, self.trials[-1])  # type: ignore[arg-type]
            while (chosen := self.scheduler.choose_trial_to_run(self)) is not None:
                chosen.status = "RUNNING"
            running = [t for t in self.trials if t.status == "RUNNING"]
            if not running:
                if not self.get_live_trials() and len(self.trials) == len(self.tables):
                    return [t.ran for t in self.trials]
                assert len(self.get_live_trials()) < self.at_a_time, "a deadlock"
                continue
            self._step(self.order.choice(running))

    def _step(self, trial: Any) -> None:
        if self.order.random() < self.deadly:
            self.scheduler.on_trial_error(self, trial)
            trial.status, trial.ran = "PENDING", 0
            self.scheduler.on_trial_add(self, trial)
            return
        trial.ran += 1
        mean = sum(trial.scores[: trial.ran]) / trial.ran
        if trial.ran == len(trial.scores):
            trial.status = "TERMINATED"
            self.scheduler.on_trial_complete(self, trial, {})
            return
        decision = self.scheduler.on_trial_result(self, trial, {FOLDS: trial.ran, SCORE: mean})
        if decision == "STOP":
            trial.status = "TERMINATED"
            self.scheduler.on_trial_complete(self, trial, {})
        elif decision == "PAUSE":
            trial.status = "PAUSED"


def race(name: str, mode: str, **options: Any) -> list[int]:
    scheduler = FoldRacingScheduler(RULES[name](5))
    assert scheduler.set_search_properties(SCORE, mode)
    return Controller(scheduler, **options).run()


@given(st.data())
@pytest.mark.parametrize("name", RULES)
def test_what_is_stopped_does_not_depend_on_what_comes_first(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 10_000))
    mode = data.draw(st.sampled_from(["min", "max"]))
    drawn = random.Random(seed)
    tables = [[drawn.gauss(base, 0.3) for _ in range(5)] for base in (drawn.random() for _ in range(20))]
    alone = race(name, mode, tables=tables, at_a_time=1, order=random.Random(0))
    for at_a_time in (2, 3, 9, 20):
        found = race(name, mode, tables=tables, at_a_time=at_a_time, order=random.Random(seed), deadly=0.05)
        assert found == alone


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_worse_are_stopped_and_the_best_is_not(name: str, mode: str) -> None:
    sign = 1 if mode == "min" else -1
    tables = [[sign * (0.0 if i == 13 else 1.0 + (i * 7 % 20) / 20)] * 5 for i in range(20)]
    ran = race(name, mode, tables=tables, at_a_time=2, order=random.Random(1))
    assert ran[13] == 5
    assert sum(ran) < (90 if name == "hyperband" else 70)
    assert ran[:4] == [5] * 4  # nothing to compare with yet


def test_rules() -> None:
    assert [asha(n).rungs for n in (2, 3, 5, 10)] == [(1,), (1, 2), (1, 2, 4), (1, 2, 4, 8)]
    assert median(5).rungs == (1, 2, 3, 4)
    assert hyperband(5).brackets == 3
    assert survives(9.0, [1.0], asha(5))  # one rival says nothing
    assert [survives(loss, [1.0, 2.0, 3.0], asha(5)) for loss in (1.0, 2.0, 2.1)] == [True, True, False]
