"""Rows as tensors: a small shard is held, a large one streams through a shuffle buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from rayline.core import row_stream
from rayline.core.features import Array
from rayline.core.framework import Rows
from rayline.core.row_stream import prefetched
from rayline.device import CPU
from rayline.frameworks import torch_modules as modules
from rayline.frameworks.torch_device import Feed

LABEL_BYTES = 12
"""Bytes of a row's label and weight as tensors."""


@dataclass(frozen=True)
class TensorBatch:
    """Rows in the form that a step uses: inputs (a tensor, or one per column), targets and weights."""

    x: Any
    target: Any
    weight: Any

    @property
    def n_rows(self) -> int:
        return len(self.target)

    @property
    def total_weight(self) -> float:
        return float(self.n_rows) if self.weight is None else float(self.weight.sum())

    @classmethod
    def join(cls, parts: Sequence[TensorBatch]) -> TensorBatch:
        """Return the rows of several batches as one."""
        if len(parts) == 1:
            return parts[0]
        x = parts[0].x
        joined = {name: torch.cat([p.x[name] for p in parts]) for name in x} if isinstance(x, dict) else None
        return cls(
            torch.cat([p.x for p in parts]) if joined is None else joined,
            torch.cat([p.target for p in parts]),
            None if parts[0].weight is None else torch.cat([p.weight for p in parts]),
        )


class EpochRows(Protocol):
    """The rows of a worker, batch by batch."""

    @property
    def n_rows(self) -> int: ...
    def there(self, batch: TensorBatch, feed: Feed) -> TensorBatch:
        """Return a batch on the feed's device."""

    def epoch(self, steps: int) -> tuple[Array | None, Iterator[TensorBatch]]:
        """Return the weight of each batch, where it does not depend on the rows, and a number of batches of all rows, shuffled by PyTorch's
        seed."""

    def in_order(self, n_rows: int) -> Iterator[TensorBatch]:
        """Yield the rows in order, in batches of a fixed size."""

    def split(self, steps: int) -> Iterator[TensorBatch]:
        """Yield the rows in order, in a fixed number of batches."""


class TensorTable:
    """Rows that are held as tensors; on a GPU once and for all epochs, unless they are sparse."""

    def __init__(self, rows: Rows, inputs: str, feed: Feed | None = None) -> None:
        self.inputs = modules.ModuleInputs(rows.features, inputs)
        self.target = torch.from_numpy(np.array(rows.target))
        self.weight = None if rows.weight is None else torch.from_numpy(np.array(rows.weight, np.float32))
        self.n_rows = self.inputs.n_rows
        self._host_weight, self._device = self.weight, CPU
        if feed is not None and feed.device.is_gpu and self.inputs.values is not None:
            self.inputs.values, self.target, self.weight = feed((self.inputs.values, self.target, self.weight))
            self._device = feed.device

    def at(self, rows: Any) -> TensorBatch:
        """Return some rows, given by a tensor of their numbers, which is where the rows are."""
        return TensorBatch(self.inputs.at(rows), self.target[rows], None if self.weight is None else self.weight[rows])

    def there(self, batch: TensorBatch, feed: Feed) -> TensorBatch:
        return batch if self._device == feed.device else _sent(batch, feed)

    def epoch(self, steps: int) -> tuple[Array | None, Iterator[TensorBatch]]:
        rows, weight = torch.randperm(self.n_rows), self._host_weight
        weights = [float(len(b)) if weight is None else float(weight[b].sum()) for b in rows.tensor_split(steps)]
        return np.array(weights), map(self.at, rows.to(self._device.name).tensor_split(steps))

    def split(self, steps: int) -> Iterator[TensorBatch]:
        return map(self.at, torch.arange(self.n_rows, device=self._device.name).tensor_split(steps))

    def in_order(self, n_rows: int) -> Iterator[TensorBatch]:
        for start in range(0, self.n_rows, n_rows):
            yield self.at(torch.arange(start, min(start + n_rows, self.n_rows), device=self._device.name))


def _sent(batch: TensorBatch, feed: Feed) -> TensorBatch:
    return batch if not feed.device.is_gpu else TensorBatch(*feed((batch.x, batch.target, batch.weight)))


class StreamedTensors:
    """Rows that are read again in every epoch: in memory are a few windows of 16 MiB, one of which is filled in a thread."""

    def __init__(self, rows: Rows, inputs: str) -> None:
        self._rows, self._inputs = rows, inputs
        self._row_bytes = row_bytes(rows, inputs)
        self.n_rows = rows.n_rows

    def there(self, batch: TensorBatch, feed: Feed) -> TensorBatch:
        return _sent(batch, feed)

    def epoch(self, steps: int) -> tuple[Array | None, Iterator[TensorBatch]]:
        seed = int(torch.randint(2**31, ()).item())
        sizes = self._sizes(steps)
        random = np.random.default_rng((seed, 1))  # PyTorch's own is used by the module at the same time
        weights = None if self._rows.has_weights else np.array(sizes, np.float64)
        return weights, _cut(self._tables(seed), sizes, lambda n: torch.from_numpy(random.permutation(n)))

    def in_order(self, n_rows: int) -> Iterator[TensorBatch]:
        whole, rest = divmod(self.n_rows, n_rows)
        return _cut(self._tables(None), [n_rows] * whole + [rest] * bool(rest), torch.arange)

    def split(self, steps: int) -> Iterator[TensorBatch]:
        return _cut(self._tables(None), self._sizes(steps), torch.arange)

    def _sizes(self, steps: int) -> list[int]:
        return [self.n_rows // steps + (place < self.n_rows % steps) for place in range(steps)]

    def _tables(self, seed: int | None) -> Iterator[TensorTable]:
        windows = self._rows.windows(seed, row_bytes=self._row_bytes)
        return prefetched(TensorTable(window, self._inputs) for window in windows)


def _cut(tables: Iterator[TensorTable], sizes: Sequence[int], order: Callable[[int], Any]) -> Iterator[TensorBatch]:
    """Yield batches of these sizes from the rows of the tables, each in an order of its own."""
    left = iter(sizes)
    parts: list[TensorBatch] = []
    lacking = next(left, 0)
    for table in tables:
        numbers, start = order(table.n_rows), 0
        while start < table.n_rows and lacking:
            parts.append(table.at(numbers[start : start + lacking]))
            start, lacking = start + parts[-1].n_rows, lacking - parts[-1].n_rows
            if not lacking:
                yield TensorBatch.join(parts)
                parts, lacking = [], next(left, 0)


def row_bytes(rows: Rows, inputs: str) -> float:
    """Return the size of a row as tensors; sparse rows become dense batch by batch."""
    head = modules.ModuleInputs(rows.head, inputs)
    return head.size_bytes / max(head.n_rows, 1) + LABEL_BYTES


def is_large(rows: Rows | None, inputs: str) -> bool:
    """Return whether the rows as tensors take more than `HELD_BYTES`."""
    return rows is not None and rows.n_rows * row_bytes(rows, inputs) > row_stream.HELD_BYTES


def tensors(rows: Rows, inputs: str, *, stream: bool, feed: Feed | None = None) -> EpochRows:
    """Return the rows as tensors, held (on the feed's device) or streamed (from the host)."""
    return StreamedTensors(rows, inputs) if stream else TensorTable(rows, inputs, feed)
