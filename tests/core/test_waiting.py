"""A call that waits reports the reason once, after a delay."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rayline.core import waiting
from rayline.train import progress


@pytest.fixture(autouse=True)
def impatient(monkeypatch: Any) -> None:
    monkeypatch.setattr(waiting, "MESSAGE_DELAY_S", 0.05)


def test_only_who_waits_is_told() -> None:
    told: list[str] = []
    with waiting.told_to(told.append):
        with waiting.patience(lambda: "waiting for a CPU"):
            time.sleep(0.3)
        with waiting.patience(lambda: "nothing to say"):
            pass
        with waiting.patience(lambda: "it came") as is_over:
            is_over()
            time.sleep(0.2)
        with waiting.patience(lambda: ""):
            time.sleep(0.2)
    assert told == ["waiting for a CPU"]


@pytest.mark.parametrize("verbose", [None, True, False])
def test_the_line_of_progress_says_it_once(verbose: bool | None, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.delenv("RAYLINE_QUIET", raising=False)
    with progress.line("fit", verbose) as line:
        for _ in range(2):
            with waiting.patience(lambda: "waiting for a CPU"):
                time.sleep(0.2)
        line.part("done")
    assert capsys.readouterr().err == ("" if verbose is False else "fit  waiting for a CPU\nfit  done\n")


def test_without_a_line_the_terminal_is_told_unless_it_shall_be_quiet(capsys: Any, monkeypatch: Any) -> None:
    for quiet in ("1", ""):
        monkeypatch.setenv("RAYLINE_QUIET", quiet)
        with waiting.patience(lambda: "waiting for a CPU"):
            time.sleep(0.2)
    assert capsys.readouterr().err == "rayline  waiting for a CPU\n"
