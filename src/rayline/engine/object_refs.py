"""References to rows in the object store. Workers import this module without Ray Data, which would double their start time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import ray

from rayline.core import registry
from rayline.core.schema import category_values, col


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


def first_line(text: str, most: int = 300) -> str:
    """Return the first line of a text, truncated."""
    line = text.strip().split("\n", 1)[0]
    return line if len(line) <= most else line[: most - 1] + "…"
