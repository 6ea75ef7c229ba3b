"""The repr of settings: only parameters that differ from their defaults are shown."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any


def representation(settings: Any) -> str:
    """Return the constructor call that makes these settings, without the parameters that are at their defaults.

    A class takes it as its `__repr__`. A parameter is looked up as the attribute of the same name; fields of a data class
    with `repr=False` are left out.

    >>> @dataclasses.dataclass(repr=False)
    ... class Scale:
    ...     factor: float = 1.0
    ...     center: bool = False
    ...     __repr__ = representation
    >>> Scale(), Scale(2.0)
    (Scale(), Scale(factor=2.0))
    """
    fields = {f.name: f for f in dataclasses.fields(settings)} if dataclasses.is_dataclass(settings) else {}
    shown = []
    for name, parameter in list(inspect.signature(type(settings).__init__).parameters.items())[1:]:
        field = fields.get(name)
        if (field is not None and not field.repr) or not hasattr(settings, name):
            continue
        default = parameter.default
        if field is not None and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        value = getattr(settings, name)
        if default is parameter.empty or not _same(value, default):
            shown.append(f"{name}={value!r}")
    return f"{type(settings).__name__}({', '.join(shown)})"


def _same(value: Any, default: Any) -> bool:
    if value is default:
        return True
    try:
        return type(value) is type(default) and bool(value == default)
    except Exception:  # arrays and expressions compare to more than a boolean
        return False
