"""The progress line in a terminal: progress, remaining time, and other output above it."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from typing import Any

import polars as pl
import pytest

from rayline import train
from rayline.train import progress


class Terminal(io.StringIO):
    """Text that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def plain(terminal: Terminal) -> list[str]:
    """The lines that were written, without what moves the cursor."""
    text = re.sub(r"\x1b\[[?0-9]*[A-Za-z]", "", terminal.getvalue())
    return [line.strip() for line in re.split(r"[\r\n]", text) if line.strip()]


def attached(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    return made


def test_a_terminal_is_told_how_far_and_how_long(table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = attached(monkeypatch)

    class Slow(train.Callback):
        def on_iteration(self, run: Any, iteration: int, metrics: Any) -> None:
            time.sleep(0.02)

    trainer = train.XGBoostTrainer({"max_depth": 1}, num_boost_round=30)
    trainer.fit(None, table.select("x", "late"), table.select("x", "late"), "late", callbacks=[Slow()], verbose=True)
    shown = plain(terminal)
    assert any(
        re.search(r"fit  xgboost iteration \d+/30, about [0-9.]+ m?s left  test logloss 0\.", line) for line in shown
    )
    assert shown[-1].startswith("fit  xgboost 30 iterations ")


def test_others_write_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = attached(monkeypatch)
    logger, handler = logging.getLogger("tests.progress"), logging.StreamHandler(sys.stderr)
    logger.addHandler(handler)
    try:
        with progress.line("fit", True) as line:
            line.now("[not markup] " + "long " * 50)
            print("PRINTED", file=sys.stderr)  # noqa: T201
            logger.warning("LOGGED")
            time.sleep(0.15)
        assert handler.stream is terminal
        assert sys.stderr is terminal
    finally:
        logger.removeHandler(handler)
    shown = plain(terminal)
    assert {"PRINTED", "LOGGED"} <= {*shown}
    assert max(len(line) for line in shown if "[not markup]" in line) <= 100  # cut, not wrapped
