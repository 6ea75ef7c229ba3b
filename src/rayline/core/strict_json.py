"""Reading of untrusted JSON: bounded in size, without duplicate keys, finite; anything else is an ArtifactError."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from rayline.core.errors import ArtifactError

MAX_BYTES = 256 << 20
MAX_DEPTH = 100
MAX_VALUES = 1 << 24
"""An empty list is three bytes of text and 56 bytes of memory, so a limit on the text alone is not enough."""

_TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)|[\[\]{}]', re.DOTALL)
"""Matches strings and brackets. Possessive, and an unclosed string extends to the end, so every byte is read once."""


def loads(data: bytes, what: str) -> Any:
    """Parse a JSON text and return its value.

    Raises ArtifactError when it is longer than `MAX_BYTES`, holds more than `MAX_VALUES` values, is nested deeper than
    `MAX_DEPTH`, is not UTF-8, not JSON, repeats a key, or holds a number that is not finite.
    """
    if len(data) > MAX_BYTES:
        raise ArtifactError(f"{what} is too large.", f"Expected at most {MAX_BYTES:,} bytes; got {len(data):,}.")

    def fail(reason: str) -> NoReturn:
        raise ArtifactError(
            f"{what} is not the JSON that Rayline writes: {reason}.",
            "Expected a whole file, as it was written.",
            "save it again from its source.",
        )

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        unique = dict(items)
        if len(unique) < len(items):
            fail("a key occurs twice")
        return unique

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            fail(f"the number {text[:20]} is not finite")
        return value

    if sum(map(data.count, (b",", b"[", b"{", b":"))) > MAX_VALUES or data.count(b'"') > 2 * MAX_VALUES:
        fail(f"it holds more than {MAX_VALUES:,} values")
    if _depth(data) > MAX_DEPTH:
        fail(f"it is nested deeper than {MAX_DEPTH}")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_float=number, parse_constant=fail)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        fail(str(error)[:200])


def dumps(value: Any, *, indent: int | None = None) -> bytes:
    """Return the JSON text of a value, with keys in their order; NaN raises ValueError."""
    return (json.dumps(value, indent=indent, allow_nan=False, ensure_ascii=False) + "\n").encode()


def _depth(data: bytes) -> int:
    """Return the nesting depth: the largest number of open brackets, not counting those in strings."""
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return 0
    depth = deepest = 0
    for token in _TOKENS.finditer(data):
        first = data[token.start()]
        if first in b"[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                return deepest
        elif first != 0x22:
            depth -= 1
    return deepest
