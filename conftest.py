"""Doctests of modules whose optional library is not installed are left out; every other module must be importable. And a run of CI
repeats no test that has passed."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "src"

PASSED = os.environ.get("RAYLINE_PASSED")
"""The file of the tests that have passed in this run of CI, one a line: several targets choose the same ones."""


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    if collection_path.suffix != ".py" or SOURCE not in collection_path.parents:
        return None
    name = ".".join(collection_path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    try:
        importlib.import_module(name)
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        return True if library != "rayline" else None
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if PASSED and os.path.exists(PASSED):
        passed = {*Path(PASSED).read_text(encoding="utf-8").splitlines()}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
        items[:] = [item for item in items if item.nodeid not in passed]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # whose reports come to the process that started it
    if PASSED and report.when == "call" and report.passed and not is_worker:
        with open(PASSED, "a", encoding="utf-8") as file:
            file.write(f"{report.nodeid}\n")
