"""Doctests of modules whose optional library is not installed are left out; every other module must be importable."""

from __future__ import annotations

import importlib
from pathlib import Path

SOURCE = Path(__file__).parent / "src"


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
