"""Scores of the rows that folds hold out: tasks carry them between Ray's object store and the driver's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayline.core.files import writing
from rayline.tune import result_store, row_groups

Array = npt.NDArray[Any]

SMALL_BYTES = 64 << 20
"""Scores of a fold up to this size pass through the driver: that is faster than the start of a task's process."""


@dataclass(frozen=True)
class StoredScores:
    """The scores of held-out rows in the object store, where the process of a trial, or a task of it, has put them."""

    n_rows: int
    size_bytes: int
    references: list[Any]

    @classmethod
    def of(cls, scores: Any) -> Self:
        """Put scores into the object store, piece by piece; those that are there stay."""
        if isinstance(scores, cls):
            return scores
        size = row_groups.GROUP_ROWS
        pieces = [ray.put(scores[at : at + size]) for at in range(0, len(scores), size)]
        return cls(len(scores), scores.nbytes, pieces)

    def write(self, path: Path, url: str | None) -> None:
        """Write them as `numpy.save` would, to a file of the driver and a URL: in a task on its node if they are large. Where tasks
        cannot write there (the files of another user, or of a container) the driver does, piece by piece."""
        if self.size_bytes > SMALL_BYTES:
            try:
                ray.get(_written.options(scheduling_strategy=_this_node()).remote(self, path, url))
            except RayError:
                pass
            else:
                if path.exists():
                    return
        self.write_here(path, url)

    def write_here(self, path: Path, url: str | None) -> None:
        """Write them in this process, which holds one piece at a time."""
        with result_store.appearing_file(path, url) as file:
            for number, reference in enumerate(self.references):
                piece = np.ascontiguousarray(ray.get(reference))
                with writing(path):
                    if not number:
                        result_store.write_header(file, piece, self.n_rows)
                    file.write(piece.data)


def slices(scores: Sequence[Array], bounds: Sequence[tuple[int, int]]) -> Iterator[Any]:
    """Yield references to slices of arrays that are mapped from files of the driver, each a list with a slice of every array.

    A task on the driver's node reads large ones; what it cannot read passes through the driver.
    """
    if sum(array.nbytes for array in scores) > SMALL_BYTES:
        files = [(str(getattr(array, "filename", "")), array.shape) for array in scores]
        blocks = _slices.options(scheduling_strategy=_this_node()).remote(files, bounds)
        if ray.get(next(blocks)):
            yield from blocks
            return
    for start, stop in bounds:
        yield ray.put([np.array(array[start:stop]) for array in scores])


def _this_node() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


@ray.remote(num_cpus=0)
def _written(scores: StoredScores, path: Path, url: str | None) -> None:
    scores.write_here(path, url)


@ray.remote(num_cpus=0)
def _slices(files: list[tuple[str, tuple[int, ...]]], bounds: Sequence[tuple[int, int]]) -> Iterator[Any]:
    """Yield whether these files are there, then the slices."""
    try:
        arrays = [np.load(name, mmap_mode="r", allow_pickle=False) for name, _ in files]
    except (OSError, ValueError):  # not there, or not of this format
        arrays = []
    are_there = [array.shape for array in arrays] == [shape for _, shape in files]
    yield are_there
    if are_there:
        for start, stop in bounds:
            yield [np.array(array[start:stop]) for array in arrays]
