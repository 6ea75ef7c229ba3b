"""Streams of rows: blocks are read piece by piece, in order or shuffled, so that memory does not grow with the number of rows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import polars as pl

from rayline.core.arrow_tables import to_arrow
from rayline.core.schema import stacked

T = TypeVar("T")

HELD_BYTES = 64 << 20
"""Rows of a worker that take more than this are streamed; fewer are held in memory, in the form that the framework reads."""

WINDOW_BYTES = 16 << 20
"""Size of the shuffle buffer: rows are shuffled within a window of this size, which is drawn from all parts of the blocks."""

CHUNK_BYTES = 1 << 20
"""Size of the chunks of consecutive rows that a window is drawn from."""

OPEN_BLOCKS = 4
"""Number of blocks that chunks are drawn from at a time."""

MAX_BATCH_ROWS = 1 << 16
"""Maximum rows of a piece where a library reads rows piece by piece, and"""

MAX_BATCH_BYTES = 128 << 20
"""maximum size of one as a matrix of float64."""

SAMPLE_ROWS = 1000


def bytes_per_row(head: pl.DataFrame) -> float:
    """Return the mean size of a row in Arrow's format, from the first rows of a table; 0 without rows."""
    head = head.head(SAMPLE_ROWS)
    return to_arrow(head).nbytes / head.height if head.height else 0.0


def first_rows(table: pl.DataFrame) -> pl.DataFrame:
    """Return a few rows of a table, which show its types and sizes: at most `SAMPLE_ROWS`, and about `CHUNK_BYTES`."""
    return table.head(min(SAMPLE_ROWS, max(1, int(CHUNK_BYTES / max(bytes_per_row(table), 1.0)))))


def matrix_rows(width: int) -> int:
    """Return the rows of a piece that becomes a matrix of this width."""
    return min(MAX_BATCH_ROWS, max(1, MAX_BATCH_BYTES // (8 * max(width, 1))))


def windows(
    blocks: Sequence[Callable[[], pl.DataFrame]],
    heights: Sequence[int],
    row_bytes: float,
    *,
    seed: int | None = None,
    window_rows: int | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield all rows once, in tables of at most about `WINDOW_BYTES`: in order, or with a seed in a random order of chunks.

    The order depends only on the seed and the blocks. At most `OPEN_BLOCKS` blocks and one window are held.
    """
    chunk_rows = max(1, int(CHUNK_BYTES / max(row_bytes, 1.0)))
    wanted = window_rows or max(chunk_rows, int(WINDOW_BYTES / max(row_bytes, 1.0)))
    random = None if seed is None else np.random.default_rng(seed)
    places = np.arange(len(blocks)) if random is None else random.permutation(len(blocks))
    held: list[pl.DataFrame] = []
    n_held = 0
    n_open = 1 if random is None else OPEN_BLOCKS
    for first in range(0, len(places), n_open):
        opened = [int(place) for place in places[first : first + n_open] if heights[place]]
        frames = {place: blocks[place]() for place in opened}
        chunks = [(place, start) for place in opened for start in range(0, heights[place], chunk_rows)]
        order = range(len(chunks)) if random is None else random.permutation(len(chunks)).tolist()
        for number in order:
            place, start = chunks[number]
            chunk = frames[place].slice(start, chunk_rows)
            while chunk.height:
                held.append(chunk.head(wanted - n_held))
                n_held += held[-1].height
                chunk = chunk.slice(held[-1].height)
                if n_held == wanted:
                    yield stacked(held)
                    held, n_held = [], 0
    if held:
        yield stacked(held)


def epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Return the seed of one worker's epoch: the same one before and after a restart from a checkpoint."""
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])


def shuffled(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Return the rows of a table in a random order."""
    return table[np.random.default_rng(seed).permutation(table.height)]


def cut(tables: Iterable[pl.DataFrame], n_rows: int) -> Iterator[pl.DataFrame]:
    """Yield the same rows in tables of exactly `n_rows`; only the last may have fewer."""
    held: list[pl.DataFrame] = []
    n_held = 0
    for table in tables:
        start = 0
        while start < table.height:
            part = table.slice(start, n_rows - n_held)
            held.append(part)
            n_held, start = n_held + part.height, start + part.height
            if n_held == n_rows:
                yield stacked(held)
                held, n_held = [], 0
    if held:
        yield stacked(held)


def prefetched(values: Iterator[T]) -> Iterator[T]:
    """Yield the same values; the next one is made in a thread while the current one is used."""
    waiting: queue.Queue[tuple[str, T | BaseException | None]] = queue.Queue(maxsize=1)
    is_over = threading.Event()

    def put(kind: str, value: T | BaseException | None) -> bool:
        while not is_over.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def make() -> None:
        try:
            for value in values:
                if not put("value", value):
                    return
            put("end", None)
        except BaseException as error:  # raised again where the values are used
            put("error", error)

    thread = threading.Thread(target=make, name="rayline-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            if kind == "end":
                return
            yield value  # type: ignore[misc]
            del value
    finally:
        is_over.set()
        thread.join(timeout=5.0)
