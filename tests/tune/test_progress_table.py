"""What a terminal shows while trials run."""

from __future__ import annotations

import io
import pickle
from typing import Any

import pytest
from rich.console import Console

from rayline.train import progress
from rayline.tune import progress_table
from rayline.tune.trial_record import FoldScore, Trial


def trial(number: int, *scores: float, error: str = "", **config: Any) -> Trial:
    folds = [FoldScore(i, score, 10) for i, score in enumerate(scores)]
    return Trial(number, config, 4, folds, error)


TRIALS = [
    trial(0, 0.5, 0.6, 0.7, 0.6, eta=0.123456, seed=1),
    trial(1, 0.4, 0.4, 0.4, 0.4, eta=0.25, seed=1),
    trial(2, 0.9, eta=0.5, seed=1),
    trial(3, error="no", eta=0.6, seed=1),
    trial(4, 0.45, 0.55, eta=0.7, seed=1, preprocessor={"impute": {"strategy": "mean"}}),
]


def moment(mode: str = "min", **more: Any) -> progress_table.SearchProgress:
    return progress_table.SearchProgress(TRIALS, frozenset([4]), 9, mode, ["log_loss"], 45.0, **more)


def text(made: Any) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    console.print(made)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined,no-any-return]


def test_the_line() -> None:
    assert moment().line == (
        "4/9 trials, best log_loss 0.4 (trial 1), 1 stopped early, 1 failed, 45 s, about 45 s left"
    )
    assert moment().left_s == pytest.approx(45.0 / 4.5 * 4.5)
    assert moment(budget_s=50.0).left_s == 5.0
    begun = progress_table.SearchProgress([], frozenset(), None, "min", ["log_loss"], 2.0)
    assert begun.line == "0 trials, 2.0 s"
    assert begun.left_s is None


def test_the_table() -> None:
    shown = [line.split() for line in text(progress_table.live_table(moment()))]
    assert shown[0] == ["trial", "folds", "log_loss", "±", "eta", "impute/strategy"]  # seed is the same in all
    assert [row[0] for row in shown[1:]] == ["1", "0", "4"]  # the best first, then those that run
    assert shown[1][:5] == ["1", "4/4", "0.4", "0", "0.25"]
    assert shown[3][:3] == ["4", "2/4", "0.5"]
    assert text(progress_table.live_table(moment("max")))[1].split()[0] == "0"
    assert text(progress_table.live_table(progress_table.SearchProgress([], frozenset(), 3, "min", ["m"], 0.0)))


@pytest.mark.ray
def test_a_terminal(table: Any, ray_session: Any, monkeypatch: Any, capfd: Any) -> None:
    """In a terminal the table lives, and one line stays. Ray pickles what calls it back, which a terminal cannot be."""
    from rayline import train, tune

    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    shown = []
    monkeypatch.setattr(progress_table, "live_table", lambda moment: shown.append(moment) or "")
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    data = {"train_dataset": table.drop("city"), "cv": 3, "target_columns": ["late"]}
    analysis = tune.run(
        train.Trainer("least-squares"), data, {"ridge": tune.uniform(0.1, 1.0)}, num_samples=3, verbose=True
    )
    assert {len(m.trials) for m in shown} == {1, 2, 3}
    assert capfd.readouterr().err.rstrip().endswith(analysis.summary)


def test_elsewhere_one_line(capfd: Any) -> None:
    with progress.line("tune", True) as line:
        assert not line.is_due
        line.now("starting")
        line.part("3 trials")
    assert capfd.readouterr().err == "tune  3 trials\n"
    assert pickle.loads(pickle.dumps(moment())) == moment()
