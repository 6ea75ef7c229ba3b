"""What stages learn of held-out rows that are sampled part by part is what they learn of all rows at once.

Covers `core.statistics.scored_row_sample` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from rayline.core.scores import decisions
from rayline.core.target import Target, Task
from rayline.inference import calibration
from rayline.inference.calibration import HeldOutSample
from rayline.postprocess import Calibrate, Conformal, Threshold, chain

N = 600
RANDOM = np.random.default_rng(3)
LATE = Target(("late",), Task.BINARY, (pl.String(),), (("no", "yes"),))
DELAY = Target(("delay",), Task.REGRESSION, (pl.Float64(),))
GATE = Target(("gate",), Task.MULTICLASS, (pl.String(),), (("A", "B", "C"),))


def rows() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "late": RANDOM.choice(["no", "yes"], N),
            "delay": RANDOM.normal(size=N),
            "gate": RANDOM.choice(["A", "B", "C"], N),
            "city": RANDOM.choice(["Oslo", "Rome"], N),
            "weight": RANDOM.uniform(0.5, 2.0, N),
        }
    )


def scores(target: Target) -> Any:
    if target is GATE:
        chance = RANDOM.dirichlet(np.ones(3), N)
        return decisions(RANDOM.integers(0, 3, N), probabilities=chance)  # codes of its own
    return RANDOM.random(N)


@pytest.mark.parametrize(
    ("target", "stages", "groups"),
    [
        (LATE, [Calibrate("isotonic"), Threshold("f1", pos_label="yes")], []),
        (GATE, [Calibrate("sigmoid")], []),
        (DELAY, [Conformal(by="city")], ["city"]),
        (DELAY, [Conformal(method="cv+")], []),
    ],
)
@pytest.mark.parametrize("weight", [None, "weight"])
def test_parts_and_all_rows(target: Target, stages: list[Any], groups: list[str], weight: str | None) -> None:
    table, own = rows(), scores(target)
    folds = [(table[:250], own[:250]), (table[250:], own[250:])]
    sample = HeldOutSample(target, weight, groups, "xgboost")
    whole = sample.whole(folds)
    parts = [
        sample(frame[at : at + 90], [part[at : at + 90]], fold)
        for fold, (frame, part) in enumerate(folds)
        for at in range(0, frame.height, 90)
    ]
    merged = sample.merged(reversed(parts))
    assert merged.n_rows == whole.n_rows == N
    expected = chain.learn(chain.checked(stages, target, table.schema), whole)
    found = chain.learn(chain.checked(stages, target, table.schema), merged)
    for one, other in zip(expected, found, strict=True):
        flat_one, flat_other = list(_numbers(one.state)), list(_numbers(other.state))
        assert flat_one == pytest.approx(flat_other, rel=1e-9)


def test_of_many_rows_a_sample_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MAX_SAMPLE_ROWS", 50)
    sample = HeldOutSample(LATE, None, [], "xgboost")
    made = sample.merged([sample(rows(), [scores(LATE)], fold) for fold in range(3)])
    assert made.n_rows == len(made.truth) == 50


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        for name in sorted(value):
            yield from _numbers(value[name])
    elif isinstance(value, (list, tuple, np.ndarray)):
        for each in sorted(value) if all(isinstance(e, (int, float)) for e in value) else value:
            yield from _numbers(each)
    elif isinstance(value, (int, float)):
        yield float(value)
