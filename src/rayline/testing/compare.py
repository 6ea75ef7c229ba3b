"""Whether two values are the same: to rounding, or to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal


def difference(a: Any, b: Any, rtol: float, path: str = "learned") -> str | None:
    """Return where two learned values differ by more than rounding; None if they do not."""
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


def assert_same_frames(actual: pl.DataFrame, expected: pl.DataFrame, **how: Any) -> None:
    """Compare as `polars.testing.assert_frame_equal`, with an error that names the columns, rows and values that differ."""
    try:
        assert_frame_equal(actual, expected, **how)
    except AssertionError as error:
        raise AssertionError(_differing(actual, expected, how) or str(error)) from None


def _differing(actual: pl.DataFrame, expected: pl.DataFrame, how: Mapping[str, Any]) -> str:
    if actual.columns != expected.columns:
        return f"the columns are {actual.columns}, expected {expected.columns}"
    if actual.schema != expected.schema:
        types = [
            f"{n!r} is {d}, expected {expected.schema[n]}" for n, d in actual.schema.items() if d != expected.schema[n]
        ]
        return f"the types differ: {'; '.join(types)}"
    if actual.height != expected.height:
        return f"there are {actual.height} rows, expected {expected.height}"
    rtol, atol = (0.0, 0.0) if how.get("check_exact") else (how.get("rel_tol", 1e-5), how.get("abs_tol", 1e-8))

    def same(a: Any, b: Any) -> bool:
        numbers = isinstance(a, float) and isinstance(b, float)
        return (numbers and (math.isclose(a, b, rel_tol=rtol, abs_tol=atol) or (a != a and b != b))) or a == b

    lines = []
    for name in expected.columns:
        pairs = enumerate(zip(actual[name].to_list(), expected[name].to_list(), strict=True))
        rows = [(i, a, b) for i, (a, b) in pairs if not same(a, b)]
        if rows:
            i, a, b = rows[0]
            more = f", and {len(rows) - 1} more rows" if rows[1:] else ""
            lines.append(f"column {name!r} differs in row {i}: {a!r}, expected {b!r}{more}")
    return "; ".join(lines)
