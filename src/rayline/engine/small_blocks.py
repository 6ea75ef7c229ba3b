"""Small blocks of a Dataset, of which a task is given several: a task costs Ray far more than the rows of such a block.

The blocks themselves stay as they are, so a function that needs whole blocks (see `is_local`) still gets them one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

TASK_ROWS, TASK_BYTES = 1 << 16, 32 << 20
"""Maximum number of rows and bytes of the blocks that are put together for a task. The cluster has no say in it: statistics of the same
blocks have the same bits on any."""

MAPPED_ROWS, MIN_TASKS = 1 << 15, 64
"""Maximum number of rows, and minimum number of tasks if there are so many blocks, where functions follow that may take long."""


def is_local(function: Any) -> bool:
    """Return whether a function may be given the rows of several blocks at once; one that says otherwise gets each block by itself."""
    return bool(getattr(function, "is_local", True))


def known_rows(blocks: Iterable[Any]) -> int:
    """Return the number of rows of the blocks of a bundle, as Ray knows it."""
    return sum(block.metadata.num_rows or 0 for block in blocks)


def for_few_tasks(bundles: Sequence[Any], max_rows: int = TASK_ROWS) -> Iterator[list[Any]]:
    """Yield the bundles of each task. Bundles that were put together once stay as they are, so that each reading has the same tasks."""
    if any(len(bundle.blocks) > 1 for bundle in bundles):
        return iter([bundle] for bundle in bundles)
    return task_groups(bundles, max_rows)


def for_many_cpus(bundles: Sequence[Any]) -> Iterator[list[Any]]:
    """Yield bundles as `for_few_tasks`, fewer at a time."""
    n_rows = sum(known_rows(bundle.blocks) for bundle in bundles)
    return for_few_tasks(bundles, min(MAPPED_ROWS, -(-n_rows // MIN_TASKS)))


def task_groups(bundles: Iterable[Any], max_rows: int = TASK_ROWS) -> Iterator[list[Any]]:
    """Yield consecutive bundles of small blocks of one schema together, and any other by itself."""
    some: list[Any] = []
    schema: Any = None
    n_rows = size_bytes = 0
    for bundle in bundles:
        rows, size = _extent(bundle, max_rows)
        its_schema = getattr(bundle, "schema", None) or object()  # an unknown one is like no other
        alike = not rows or schema is None or its_schema is schema or its_schema == schema
        if some and not (alike and n_rows + rows <= max_rows and size_bytes + size <= TASK_BYTES):
            yield some
            some, schema, n_rows, size_bytes = [], None, 0, 0
        some.append(bundle)
        n_rows, size_bytes = n_rows + rows, size_bytes + size
        schema = its_schema if rows else schema
    if some:
        yield some


def _extent(bundle: Any, max_rows: int) -> tuple[int, int]:
    """Return the rows and bytes of a bundle; more than `max_rows` rows if it is not one whole block of a known number of rows."""
    metadata = [entry.metadata for entry in bundle.blocks]
    if len(metadata) != 1 or metadata[0].num_rows is None or any(getattr(bundle, "slices", None) or ()):
        return max_rows + 1, 0
    return metadata[0].num_rows, getattr(metadata[0], "size_bytes", None) or 0


def concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of tables, at least one, as one table."""
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="permissive").combine_chunks()
