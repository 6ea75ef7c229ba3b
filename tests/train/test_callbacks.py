"""Callbacks: when they are called, with what, and how they end a training.

Covers `train.training_run` too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rayline as rl
from rayline import train
from rayline.train.callbacks import EarlyStopping, ModelCheckpoint, Progress, Run
from tests import toy  # noqa: F401  # registers a framework


def run() -> Run:
    return Run(train.Trainer("least-squares"))


def play(callback: train.Callback, values: list[float], name: str = "test-logloss") -> int:
    """After how many iterations it stops."""
    a_run = run()
    callback.on_start(a_run)
    for i, value in enumerate(values):
        if callback.on_iteration(a_run, i, {"train-logloss": 0.1, name: value}):
            return i + 1
    return len(values)


def test_early_stopping_waits_for_something_better() -> None:
    stop = EarlyStopping("logloss", patience=2)
    assert play(stop, [0.5, 0.4, 0.41, 0.42, 0.1]) == 4
    assert (stop.best, stop.best_iteration) == (0.4, 1)
    assert play(stop, [0.5, 0.4, 0.41, 0.39, 0.38, 0.37]) == 6  # a second training starts afresh
    assert play(EarlyStopping("auc", patience=2), [0.5, 0.6, 0.7, 0.7, 0.6], "test-auc") == 5
    assert play(EarlyStopping("logloss", patience=2, min_delta=0.1), [0.5, 0.45, 0.41]) == 3
    assert play(EarlyStopping("mystery", patience=1, mode="max"), [0.5, 0.4], "test-mystery") == 2


def test_early_stopping_waits_for_a_value() -> None:
    nan = float("nan")
    assert (
        play(EarlyStopping("test-mystery", patience=3, mode="max"), [nan, nan, 1.0, 0.5, 0.5, 0.5, 0.5], "test-mystery")
        == 6
    )
    assert play(EarlyStopping("logloss", patience=2), [nan, nan, nan, nan]) == 3  # a training that has diverged ends


def test_early_stopping_says_what_it_does_not_know() -> None:
    with pytest.raises(rl.ParameterError, match="'logless'(.|\n)*test-logloss"):  # noqa: RUF043
        play(EarlyStopping("logless"), [0.5])
    with pytest.raises(rl.ParameterError, match="direction"):
        play(EarlyStopping("mystery"), [0.5], "test-mystery")
    with pytest.raises(rl.ParameterError, match="patience"):
        EarlyStopping("auc", patience=0)
    with pytest.raises(rl.ParameterError, match="mode"):
        EarlyStopping("auc", mode="up")  # type: ignore[arg-type]


def test_checkpoints_keep_the_newest(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path / "kept", every=1, keep=2)
    source = tmp_path / "source"
    source.mkdir()
    for i in range(4):
        (source / "model.json").write_text(json.dumps(i))
        keep.on_checkpoint(run(), i, source)
    assert sorted(p.name for p in (tmp_path / "kept").iterdir()) == ["iteration-000002", "iteration-000003"]
    assert (tmp_path / "kept" / "iteration-000003" / "model.json").read_text() == "3"


def test_progress_writes_every_nth(capfd: Any) -> None:
    play(Progress(every=2), [0.5, 0.4, 0.3])
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "     2  train-logloss 0.1  test-logloss 0.4\n"


def test_stop_remembers_who_asked_first() -> None:
    a_run = run()
    a_run.stop("one")
    a_run.stop("two")
    assert a_run.stopped_by == "one"
