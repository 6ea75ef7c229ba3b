"""Stages read from files that somebody else wrote: refused with an ArtifactError when they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rayline as rl
from rayline.inference import archive
from rayline.postprocess import Calibrate, Conformal, Threshold
from tests.inference import hostile
from tests.postprocess import tables


def stage(name: str, learned: Any, **parameters: Any) -> list[Any]:
    return [{"stage": name, "parameters": parameters, "learned": learned}]


DAMAGED = [
    {}, [1], [{}], stage("Nothing", {}), stage("OneHotEncoder", {}), stage("Calibrate", None), stage("Calibrate", {"maps": []}),
    stage("Calibrate", {"maps": [{"x": [1, 0], "y": [0, 1]}]}), stage("Calibrate", {"maps": [{"a": "x", "b": 1, "c": 1}]}),
    stage("Calibrate", {"maps": [{"a": 1, "b": 1, "c": 0}]}, method="magic"), stage("Threshold", {"thresholds": [], "positive": []}),
    stage("Threshold", {"thresholds": ["x"], "positive": [1]}), stage("Conformal", {"radius": []}), stage("Conformal", {"radius": ["x"]}),
    stage("Clip", {}, low=0.0), stage("Conformal", {"radius": [0.1]}, by="town"),
]  # fmt: skip


@pytest.mark.parametrize("damaged", DAMAGED, ids=lambda d: json.dumps(d)[:60])
def test_damaged_stages_are_refused(damaged: Any, tmp_path: Path) -> None:
    pipeline = tables.fitted("late").calibrated([Calibrate(), Threshold("f1"), Conformal()], tables.table(seed=1))
    pipeline.save(tmp_path / "p.rayline")
    with archive.opened(tmp_path / "p.rayline", 10**9) as members:
        found = {name: members.read(name) for name in members.sizes}
    assert json.loads(found["manifest.json"])["format_version"] == 2
    changed = hostile.reseal(found, **{"postprocessing.json": json.dumps(damaged).encode()})
    archive.write(tmp_path / "q.rayline", changed)
    with pytest.raises(rl.ArtifactError):
        rl.load(tmp_path / "q.rayline")


def test_a_pipeline_without_stages_is_still_written_in_format_1(tmp_path: Path) -> None:
    tables.fitted("late").save(tmp_path / "p.rayline")
    assert rl.inference.artifact.read_manifest(tmp_path / "p.rayline")["format_version"] == 1  # type: ignore[attr-defined]
