"""References to rows in the object store. Workers import this module without Ray Data, which would double their start time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import ray

from rayline.compat.ray import pickle_tables
from rayline.core import paired_labels, registry
from rayline.core.schema import category_values, col

pickle_tables()


def from_arrow(table: pa.Table) -> pl.DataFrame:
    """Return an Arrow table as a Polars table, without a copy where the types allow it; dictionaries are strings."""
    frame: pl.DataFrame = registry.engine("local").collect(table)
    texts = [n for n, d in frame.schema.items() if isinstance(d, pl.Categorical) and category_values(d) is None]
    return frame.with_columns(col(name).cast(pl.String) for name in texts)


@dataclass(frozen=True)
class BlockSlice:
    """Rows `start` to `stop` of a block in the object store."""

    block: ray.ObjectRef[Any]
    start: int
    stop: int

    @property
    def n_rows(self) -> int:
        return self.stop - self.start

    def __call__(self) -> pl.DataFrame:
        """Return the rows as a table in the calling process; the block is an Arrow table."""
        return from_arrow(ray.get(self.block).slice(self.start, self.n_rows))


def shared(pieces: Sequence[BlockSlice], n: int) -> list[list[BlockSlice]]:
    """Split the rows into n parts, in order, whose sizes differ by at most one row."""
    total = sum(piece.stop - piece.start for piece in pieces)
    ends = [total * (part + 1) // n for part in range(n)]
    parts: list[list[BlockSlice]] = [[] for _ in range(n)]
    part, place = 0, 0
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            while place == ends[part]:
                part += 1
            stop = min(piece.stop, start + ends[part] - place)
            parts[part].append(BlockSlice(piece.block, start, stop))
            place += stop - start
            start = stop
    return [part or [BlockSlice(pieces[0].block, 0, 0)] for part in parts]


BINS = 64
"""Bins of groups for each part: groups are counted and moved in bins of their hashes."""


def kept_together(pieces: Sequence[BlockSlice], n: int, column: str) -> list[list[BlockSlice]]:
    """Split the rows into n parts as equal as may be, so that all rows with one value of a column are in the same part.

    The rows are divided in tasks where they are stored; only the sizes of bins of values come to the caller.
    """
    if n == 1 or not pieces:
        return shared(pieces, n)
    tasks = [(piece.block, piece.start, piece.stop, column) for piece in pieces]
    counts = ray.get([_bin_sizes.remote(*task, BINS * n) for task in tasks])
    places = _packed(np.sum(counts, axis=0), n)
    divided = [_divided.options(num_returns=n + 1).remote(*task, places, n) for task in tasks]
    sizes = ray.get([refs[0] for refs in divided])
    parts = [
        [BlockSlice(refs[1 + i], 0, size[i]) for refs, size in zip(divided, sizes, strict=True) if size[i]]
        for i in range(n)
    ]
    return [part or [BlockSlice(pieces[0].block, 0, 0)] for part in parts]


def _packed(sizes: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Return a part for each bin: the largest bins first, each into the smallest part."""
    parts, places = np.zeros(n, np.int64), np.zeros(len(sizes), np.int64)
    for place in np.argsort(-sizes, kind="stable"):
        places[place] = parts.argmin()
        parts[places[place]] += sizes[place]
    return places


def _bins(frame: pl.DataFrame, column: str, n_bins: int) -> npt.NDArray[np.int64]:
    return (paired_labels.hashes(frame[column]) % np.uint64(n_bins)).astype(np.int64)


@ray.remote(num_cpus=0)
def _bin_sizes(block: Any, start: int, stop: int, column: str, n_bins: int) -> npt.NDArray[np.int64]:
    frame = from_arrow(block.slice(start, stop - start).select([column]))
    return np.bincount(_bins(frame, column, n_bins), minlength=n_bins)


@ray.remote(num_cpus=0)
def _divided(block: Any, start: int, stop: int, column: str, places: npt.NDArray[np.int64], n: int) -> tuple[Any, ...]:
    table = block.slice(start, stop - start)
    part = places[_bins(from_arrow(table.select([column])), column, len(places))]
    rows = [np.flatnonzero(part == i) for i in range(n)]
    return [len(indices) for indices in rows], *(table.take(indices) for indices in rows)
