"""The cache of a trial actor: tables by a key of their inputs, within a budget of bytes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import polars as pl

from rayline.core import strict_json
from rayline.core.errors import RaylineError
from rayline.core.json_values import value_to_json
from rayline.core.stage import Stage

T = TypeVar("T")


class TableCache:
    """A cache of tables (or objects with `nbytes`) by key; the least recently used are evicted when the budget is exceeded.

    Parameters
    ----------
    max_bytes
        The budget. A table that is larger than the budget is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used = max_bytes, 0
        self._tables: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._memos: dict[Hashable, dict[Any, Any]] = {}
        self.hits = self.misses = 0

    def get(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int] | None = None) -> T:
        """Return the table of this key, computed if it is missing. `size` returns the bytes that it takes, if not those of the
        table."""
        if key in self._tables:
            self.hits += 1
            self._tables.move_to_end(key)
            table: T = self._tables[key][0]
            return table
        self.misses += 1
        created = make()
        n_bytes = _size(created) if size is None else size(created)
        self._tables[key] = created, n_bytes
        self._used += n_bytes
        while self._used > self._max_bytes and self._tables:
            evicted, (_, n_bytes) = self._tables.popitem(last=False)
            self._used -= n_bytes
            self._memos.pop(evicted, None)
        return created

    def memo(self, key: Hashable) -> dict[Any, Any] | None:
        """Return the dict for values derived from a table, which lives as long as the table; None when the table is not kept."""
        return self._memos.setdefault(key, {}) if key in self._tables else None

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tables

    def __len__(self) -> int:
        return len(self._tables)


def _size(table: Any) -> int:
    return int(table.estimated_size() if isinstance(table, pl.DataFrame) else table.nbytes) + 1


def fingerprint(value: Any) -> str:
    """Return a digest of stages, parameters and plain values, which is the same in every process."""
    return hashlib.blake2b(strict_json.dumps(_plain(value)), digest_size=16).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, pl.Expr):
        return {"expression": value.meta.serialize(format="json")}
    if isinstance(value, Stage):
        return [f"{type(value).__module__}.{type(value).__qualname__}", _plain(value.parameters())]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(v) for v in value]
    try:
        return value_to_json(value)
    except RaylineError:
        return {"object": _opaque(value)}


def _opaque(value: Any) -> str:
    """Represent an object that is not plain (a function, an array) by the digest of its pickled form."""
    from ray import cloudpickle

    return hashlib.blake2b(cloudpickle.dumps(value), digest_size=16).hexdigest()
