"""What several trial actors share: fitted stages and prepared folds, in Ray's object store, by what they were made from.

A small actor knows where things are, and who makes one: two trials that need the same fold at the same time wait for
one making of it. Tables are read where they lie, without a copy, by every actor of a machine.
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

from rayline.tune.stored_groups import results

LEAST_BYTES = 32 << 20
"""Smaller tables are prepared by every actor more quickly than one more process starts (decision 0011)."""

PART = 4
"""What is shared takes at most one part of so many of the object store."""

WAIT_TIMEOUT_S = 30.0
"""So long a trial waits for another one to make what it needs; that one's process may have died."""

SMALL = 1 << 16
"""What a thing counts for that is not a table, in bytes."""


class CachedObject(NamedTuple):
    """A reference, in a list so that Ray hands over the reference rather than the thing, and the size of the thing."""

    box: list[Any]
    size: int


class CacheActor:
    """Runs as an actor: which things there are, and which are being made.

    Parameters
    ----------
    most_bytes
        The budget; the least recently used things go first.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most, self._used = most_bytes, 0
        self._kept: OrderedDict[Hashable, CachedObject] = OrderedDict()
        self._making: dict[Hashable, asyncio.Event] = {}
        self._places = 0

    async def place(self) -> int:
        """How many asked before."""
        self._places += 1
        return self._places - 1

    async def ask(self, key: Hashable, wait_timeout_s: float = WAIT_TIMEOUT_S) -> list[Any] | None:
        """The box of this key, after waiting for whoever makes it; None when the one who asks is to make it."""
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
        """What a function returns that is called here: objects that it puts into the store live as long as this actor."""
        return await asyncio.to_thread(await box[0])

    async def keep(self, key: Hashable, box: list[Any] | None, size: int = 0) -> None:
        """What was made, or None when that failed."""
        old = self._kept.pop(key, None)
        self._used -= 0 if old is None else old.size
        if box is not None:
            self._kept[key] = CachedObject(box, size)
            self._used += size
        while self._used > self._most and self._kept:
            self._used -= self._kept.popitem(last=False)[1].size
        if key in self._making:
            self._making.pop(key).set()


class SharedCache:
    """The side of a trial's actor.

    Parameters
    ----------
    keeper
        The actor.
    """

    def __init__(self, keeper: Any) -> None:
        self._keeper = keeper

    def place(self) -> int:
        """How many actors came before this one."""
        return int(ray.get(self._keeper.place.remote()))

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The thing of this key, made when it is not there. Whatever is lost with a process is made again."""
        return self._get(key, lambda: [make()])[0]

    def parts(self, key: Hashable, make: Callable[[], Iterator[pl.DataFrame]]) -> list[pl.DataFrame]:
        """As `get`, of a table that is made part by part: each goes into the object store before the next is made, and is read
        where it lies."""
        return self._get(key, make, reread=True)

    def run(self, function: Callable[[], Any]) -> Any:
        """What a function returns that is called in the keeper's process, which outlives the trials."""
        (result,) = results([self._keeper.run.remote([ray.put(function)])])
        return result

    def _get(self, key: Hashable, make: Callable[[], Iterable[Any]], *, reread: bool = False) -> list[Any]:
        try:
            box = ray.get(self._keeper.ask.remote(key))
        except RayError:
            return [*make()]
        if box is not None:
            try:
                return [_unpacked(each) for each in ray.get(box)]
            except RayError:
                pass  # it went with the process that had made it
        cached, box, size = [], [], 0
        try:
            for thing in make():
                packed = _packed(thing)
                size += len(packed) if isinstance(packed, bytes) else getattr(packed, "nbytes", SMALL)
                box.append(ray.put(packed))
                cached.append(None if reread else thing)
        except BaseException:
            self._keeper.keep.remote(key, None)
            raise
        self._keeper.keep.remote(key, box, size)
        return [_unpacked(each) for each in ray.get(box)] if reread else cached


def start_cache() -> Any:
    """The actor, which takes no CPU from the trials and ends with its handle."""
    store = ray.cluster_resources().get("object_store_memory", float(1 << 30))
    return ray.remote(num_cpus=0, max_concurrency=1000)(CacheActor).remote(int(store) // PART)


def _packed(thing: Any) -> Any:
    """A table as Arrow, which is read without a copy; where Arrow would change a type, in Polars' own format."""
    if not isinstance(thing, pl.DataFrame):
        return thing
    arrow = thing.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    if pl.DataFrame(pl.from_arrow(arrow.slice(0, 0))).schema == thing.schema:
        return arrow
    buffer = io.BytesIO()
    thing.write_ipc(buffer)
    return buffer.getvalue()


def _unpacked(packed: Any) -> Any:
    if isinstance(packed, pa.Table):
        return pl.DataFrame(pl.from_arrow(packed))
    return pl.read_ipc(packed) if isinstance(packed, bytes) else packed
