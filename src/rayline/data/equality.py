"""Equality of fitted preprocessors: numbers may differ by the rounding of sums in another order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

RTOL = 1e-12
"""The allowed difference of learned numbers, relative to the largest number of the same list (see decision 0018)."""


ATOL = 1e-15
"""The allowed absolute difference, for a single number close to 0."""


def same(a: Any, b: Any, size: float = 0.0) -> bool:
    """Return whether two JSON values are equal, floats up to `RTOL`."""
    if isinstance(a, dict) and isinstance(b, dict):
        size = _size(a.values())
        return list(a) == list(b) and all(same(a[key], b[key], size) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        size = _size(a)
        return len(a) == len(b) and all(same(x, y, size) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return a == b or math.isclose(a, b, rel_tol=RTOL, abs_tol=max(ATOL, RTOL * size))
    return type(a) is type(b) and bool(a == b)


def _size(values: Iterable[Any]) -> float:
    return max((abs(value) for value in values if isinstance(value, float)), default=0.0)
