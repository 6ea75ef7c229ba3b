"""The stages, by family. `from rayline.stages import StandardScaler` loads only the file that has it."""

from __future__ import annotations

from typing import Any

from rayline.core import registry
from rayline.core.registry import register_function

_SECOND_NAMES = {"OneHotEncoding": "OneHotEncoder"}


__all__ = ["register_function", *registry.stages()]  # noqa: PLE0604  # `import *` then asks `__getattr__` for each


def __getattr__(name: str) -> Any:
    name = _SECOND_NAMES.get(name, name)
    if name.startswith("_") or name not in registry.stages():
        raise AttributeError(f"module 'rayline.stages' has no stage {name!r}; there are {registry.stages()}")
    return registry.stage(name)


def __dir__() -> list[str]:
    return [*registry.stages(), *_SECOND_NAMES]
