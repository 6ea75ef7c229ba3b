"""The public API, name by name with its parameters, as tests/api_surface.json has it: a change is deliberate.

After a change that is meant run `python -m tests.test_api_surface`, read the difference, and say in CHANGELOG.md what users have to do.
"""

from __future__ import annotations

import inspect
import json
import types
from pathlib import Path
from typing import Any

import rayline

FILE = Path(__file__).with_name("api_surface.json")


def modules() -> list[types.ModuleType]:
    found = [rayline, *(getattr(rayline, name) for name in rayline.__all__)]
    return [m for m in found if isinstance(m, types.ModuleType) and hasattr(m, "__all__")]


def parameters(function: Any, skip: int = 0) -> str:
    """Names of parameters, those with a default marked by =, those that are keyword-only after a star."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return "(…)"
    shown, starred = [], False
    for p in found:
        if p.name == "self":
            continue
        if p.kind is p.KEYWORD_ONLY and not starred:
            starred = True
            shown.append("*")
        name = {p.VAR_POSITIONAL: f"*{p.name}", p.VAR_KEYWORD: f"**{p.name}"}.get(p.kind, p.name)  # type: ignore[call-overload]
        starred |= p.kind is p.VAR_POSITIONAL
        shown.append(name if p.default is p.empty else f"{name}=")
    return f"({', '.join(shown[skip:])})"


def members(owner: type) -> dict[str, Any]:
    """Public methods with their parameters, and properties, of a class and those of its bases that are ours."""
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        if base.__module__.startswith("rayline"):
            for name, value in vars(base).items():
                if name.startswith("_"):
                    continue
                if isinstance(value, (staticmethod, classmethod)):
                    found[name] = parameters(value.__func__, int(isinstance(value, classmethod)))
                elif inspect.isfunction(value):
                    found[name] = parameters(value)
                elif isinstance(value, property) or type(value).__name__ == "cached_property":
                    found[name] = "property"
    return dict(sorted(found.items()))


def surface() -> dict[str, dict[str, Any]]:
    made: dict[str, dict[str, Any]] = {}
    for module in modules():
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if isinstance(value, types.ModuleType):
                continue
            if inspect.isclass(value) and value.__module__.startswith("rayline"):
                made.setdefault(module.__name__, {})[name] = {"()": parameters(value), **members(value)}
            else:
                made.setdefault(module.__name__, {})[name] = (
                    parameters(value) if callable(value) else type(value).__name__
                )
    return made


def test_the_public_api_is_the_one_on_file() -> None:
    recorded, now = json.loads(FILE.read_text(encoding="utf-8")), surface()
    changed = [
        f"{module}.{name}: {recorded.get(module, {}).get(name)} → {now.get(module, {}).get(name)}"
        for module in sorted({*recorded, *now})
        for name in sorted({*recorded.get(module, {}), *now.get(module, {})})
        if recorded.get(module, {}).get(name) != now.get(module, {}).get(name)
    ]
    assert changed == [], "the public API changed; if it is meant: python -m tests.test_api_surface"


if __name__ == "__main__":
    FILE.write_text(json.dumps(surface(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
