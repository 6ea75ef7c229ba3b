"""The cache that trial actors share: fitted stages and prepared folds in Ray's object store, by a key of their inputs.

A small actor tracks where objects are and which actor is creating one: two trials that need the same fold at the same
time wait for a single computation. Every actor of a machine reads tables from the object store without a copy.
"""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import ray
from ray.exceptions import RayError

from rayline.tune.stored_groups import results, stored_table

MIN_BYTES = 32 << 20
"""Smaller tables are prepared by every actor more quickly than one more process starts (decision 0011)."""

PART = 2
"""The cache takes at most 1/N of the object store."""

WAIT_TIMEOUT_S = 30.0
"""The time that a trial waits for another one to create an object; that one's process may have died."""

SMALL = 1 << 16
"""The assumed size of an object that is not a table, in bytes."""


class CachedObject(NamedTuple):
    """A reference, in a list so that Ray passes the reference rather than the object, and the size of the object."""

    box: list[Any]
    size: int


class CacheActor:
    """The actor that tracks which objects exist and which are being created.

    Parameters
    ----------
    max_bytes
        The budget; the least recently used objects are evicted first.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._used = max_bytes, 0
        self._kept: OrderedDict[Hashable, CachedObject] = OrderedDict()
        self._making: dict[Hashable, asyncio.Event] = {}

    async def ask(self, key: Hashable, wait_timeout_s: float = WAIT_TIMEOUT_S) -> list[Any] | None:
        """Return the entry of this key, after waiting for the actor that creates it; None when the caller must create it."""
        if key in self._making:
            try:
                await asyncio.wait_for(self._making[key].wait(), wait_timeout_s)
            except TimeoutError:
                self._making.pop(key, None)
        entry = self._kept.get(key)
        if entry is not None:
            self._kept.move_to_end(key)
            return entry.box
        self._making.setdefault(key, asyncio.Event())
        return None

    async def run(self, box: list[Any]) -> Any:
        """Call a function in this actor: objects that it puts into the store live as long as the actor."""
        return await asyncio.to_thread(await box[0])

    async def keep(self, key: Hashable, box: list[Any] | None, size: int = 0) -> None:
        """Store a created object, or None when that failed."""
        old = self._kept.pop(key, None)
        self._used -= 0 if old is None else old.size
        if box is not None:
            self._kept[key] = CachedObject(box, size)
            self._used += size
        while self._used > self._max_bytes and self._kept:
            self._used -= self._kept.popitem(last=False)[1].size
        if key in self._making:
            self._making.pop(key).set()


class SharedCache:
    """The client of the cache in a trial's actor.

    Parameters
    ----------
    cache_actor
        The actor.
    """

    def __init__(self, cache_actor: Any) -> None:
        self._cache_actor = cache_actor

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """Return the object of this key, created if it is missing. Objects that were lost with a process are created again."""
        return self._get(key, lambda: [make()])[0]

    def parts(self, key: Hashable, make: Callable[[], Iterator[pl.DataFrame]]) -> list[pl.DataFrame]:
        """Get a table that is computed part by part: each part is put into the object store before the next one is computed, and
        is read from there."""
        return self._get(key, make, reread=True)

    def run(self, function: Callable[[], Any]) -> Any:
        """Call a function in the cache actor's process, which outlives the trials."""
        (result,) = results([self._cache_actor.run.remote([ray.put(function)])])
        return result

    def _get(self, key: Hashable, make: Callable[[], Iterable[Any]], *, reread: bool = False) -> list[Any]:
        try:
            box = ray.get(self._cache_actor.ask.remote(key))
        except RayError:
            return [*make()]
        if box is not None:
            try:
                return [_unpacked(each) for each in ray.get(box)]
            except RayError:
                pass  # it was lost with the process that created it
        cached, box, size = [], [], 0
        try:
            for part in make():
                packed = _packed(part)
                size += len(packed) if isinstance(packed, bytes) else getattr(packed, "nbytes", SMALL)
                box.append(ray.put(packed))
                cached.append(None if reread else part)
        except BaseException:
            self._cache_actor.keep.remote(key, None)
            raise
        self._cache_actor.keep.remote(key, box, size)
        return [_unpacked(each) for each in ray.get(box)] if reread else cached


def start_cache() -> Any:
    """Start the actor, which takes no CPU from the trials and ends with its handle."""
    store = ray.cluster_resources().get("object_store_memory", float(1 << 30))
    return ray.remote(num_cpus=0, max_concurrency=1000)(CacheActor).remote(int(store) // PART)


def _packed(value: Any) -> Any:
    """Convert a table to Arrow, which is read without a copy; to Polars' own format if Arrow would change a type."""
    if not isinstance(value, pl.DataFrame):
        return value
    arrow = stored_table(value)
    if pl.DataFrame(pl.from_arrow(arrow.slice(0, 0))).schema == value.schema:
        return arrow
    buffer = io.BytesIO()
    value.write_ipc(buffer)
    return buffer.getvalue()


def _unpacked(packed: Any) -> Any:
    if isinstance(packed, pa.Table):
        return pl.DataFrame(pl.from_arrow(packed))
    return pl.read_ipc(packed) if isinstance(packed, bytes) else packed
