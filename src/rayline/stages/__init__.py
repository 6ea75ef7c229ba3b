"""The preprocessing stages. `from rayline.stages import StandardScaler` imports only the module that defines it."""

from __future__ import annotations

from typing import Any

from rayline.core import registry
from rayline.core.lazy_names import public_names

_SECOND_NAMES = {"OneHotEncoding": "OneHotEncoder"}
__all__, _load = public_names(__name__)
__all__ += list(_SECOND_NAMES)


def __getattr__(name: str) -> Any:
    name = _SECOND_NAMES.get(name, name)
    if name in __all__:
        return _load(name)
    if name.startswith("_") or name not in registry.stages():
        raise AttributeError(f"module 'rayline.stages' has no stage {name!r}; there are {registry.stages()}")
    return registry.stage(name)


def __dir__() -> list[str]:
    return sorted({*__all__, *registry.stages()})
