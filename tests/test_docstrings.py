"""Every public name says what it takes, gives and raises, with an example: the sections of its docstring."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

MODULES = (
    "rayline",
    "rayline.data",
    "rayline.evaluate",
    "rayline.stages",
    "rayline.postprocess",
    "rayline.train",
    "rayline.tune",
    "rayline.serve",
)
OTHERS = {
    "rayline.onnx": ["to_onnx"],
    "rayline.mlflow": ["log_model", "load_model"],
    "rayline.testing": ["check_stage", "check_framework"],
}

ACCEPTED = {"Examples": ("Examples",), "Parameters": ("Parameters", "Attributes")}
"""What a user does not construct (a result) describes its attributes."""


def public() -> Iterator[tuple[str, Any]]:
    seen = set[int]()
    for module in [*MODULES, *OTHERS]:
        try:
            loaded = importlib.import_module(module)
        except ImportError:  # an optional library
            continue
        for name in OTHERS.get(module) or loaded.__all__:
            found = getattr(loaded, name)
            if not inspect.isroutine(found) and not inspect.isclass(found):
                continue
            if not found.__module__.startswith("rayline") or id(found) in seen or issubclass_of(found, Exception):
                continue
            seen.add(id(found))
            yield f"{module}.{name}", found


def issubclass_of(found: Any, base: type) -> bool:
    return inspect.isclass(found) and issubclass(found, base)


def has_parameters(found: Any) -> bool:
    parameters = list(inspect.signature(found).parameters.values())
    return any(p.name not in ("self", "learned") for p in parameters)


NAMES = dict(public())


@pytest.mark.parametrize("name", NAMES)
def test_sections(name: str) -> None:
    text = inspect.getdoc(NAMES[name]) or ""
    wanted = ["Examples", *(["Parameters"] if has_parameters(NAMES[name]) else [])]
    lacking = [section for section in wanted if not any(f"{title}\n---" in text for title in ACCEPTED[section])]
    assert not lacking
