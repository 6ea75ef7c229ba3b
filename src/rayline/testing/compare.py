"""Whether two values are the same: to rounding, or to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def difference(a: Any, b: Any, rtol: float, path: str = "learned") -> str | None:
    """Where two learned values differ by more than rounding; None when they do not."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if list(a) != list(b):
            return f"{path}: {list(a)} and {list(b)}"
        return next((d for k in a if (d := difference(a[k], b[k], rtol, f"{path}.{k}"))), None)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"{path}: {len(a)} and {len(b)} entries"
        return next(
            (d for i, (x, y) in enumerate(zip(a, b, strict=True)) if (d := difference(x, y, rtol, f"{path}[{i}]"))),
            None,
        )
    if isinstance(a, float) and isinstance(b, float):
        same = a == b or math.isclose(a, b, rel_tol=rtol, abs_tol=rtol * 1e-3) or (a != a and b != b)
    else:
        same = type(a) is type(b) and a == b
    return None if same else f"{path}: {a!r} and {b!r}"


def same_bits(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return a == b and math.copysign(1.0, a) == math.copysign(1.0, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same_bits(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)
