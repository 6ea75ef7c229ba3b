"""List few Parquet files in one task, and divide what is read of them evenly among tasks.

Ray Data starts 32 actors that read footers, which takes about a second, and fills parts of 128 MiB: of 350 MB it makes three, which two
CPUs read in the time of four.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from typing import Any

from ray.data._internal.datasource_v2.common import online_bin_packer
from ray.data._internal.datasource_v2.formats.parquet import footer_file_indexer
from ray.data._internal.datasource_v2.formats.parquet.footer_reader import FooterReader

FEW_FILES = 64
"""The number of files up to which one process reads their footers."""

N_THREADS = 16

PARTS, MIN_PART_BYTES = 16, 16 << 20
"""The minimum number of parts that a read is divided into, and the minimum size of a part in bytes, uncompressed. The cluster has
no say in it: the same files have the same parts, and statistics of them the same bits, on any."""


class FewFootersIndexer(footer_file_indexer.FooterFileIndexer):  # type: ignore[misc]
    """Ray Data's indexer, without its actors where the files are few."""

    def list_files(
        self, paths: Any, *, predicate: Any = None, limit: int | None = None, **options: Any
    ) -> Iterator[Any]:
        """Yield what Ray Data's indexer yields: a manifest for each file."""
        listing = {name: value for name, value in options.items() if name != "projected_columns"}
        infos = itertools.islice(self._iter_file_infos_for_list(paths, **listing), FEW_FILES + 1)
        files = [(info.path, info.size) for info in infos if info.size is not None]
        if len(files) > FEW_FILES:
            yield from super().list_files(paths, predicate=predicate, limit=limit, **options)
            return
        columns, excluded = options.get("projected_columns"), options.get("excluded_read_unit_ids")
        reader = FooterReader(
            options.get("filesystem"),
            N_THREADS,
            predicate,
            columns,
            self._coalesce_bytes,
            excluded_read_unit_ids=excluded,
        )
        with contextlib.closing(_chunks(reader, files, limit, in_order=bool(options.get("preserve_order")))) as chunks:
            yield from map(footer_file_indexer._file_chunks_to_manifest, chunks)


def _chunks(reader: Any, files: list[tuple[str, int]], limit: int | None, *, in_order: bool) -> Generator[Any]:
    """Yield what the footers say, until there are as many rows as are needed."""
    n_rows = 0
    with reader.pool:
        for chunk in itertools.chain.from_iterable(reader.read_footers(files, preserve_order=in_order)):
            yield chunk
            n_rows += sum(group.num_rows for group in chunk.row_groups if group.fully_matched)
            if limit is not None and n_rows >= limit:
                return


def with_footers_in_place(indexer: Any) -> Any:
    """Return an indexer that reads the footers of few files itself, in place of Ray Data's own; any other unchanged."""
    if type(indexer) is not footer_file_indexer.FooterFileIndexer:
        return indexer
    instance = FewFootersIndexer.__new__(FewFootersIndexer)
    instance.__dict__.update(indexer.__dict__)
    return instance


class EvenBinPacker(online_bin_packer.OnlineBinPacker):  # type: ignore[misc]
    """Ray Data's division of row groups among tasks, with its few large parts cut into more. The rows stay in their order."""

    def __init__(self, given: Any) -> None:
        pool = given._shared
        super().__init__(given._cap, max_shared_open_bins=pool._max_open_bins, split_coalesced=given._split_coalesced)
        self._ready: deque[Any] = deque()
        self._is_over = False

    def has_partition(self) -> bool:
        """Wait for all parts, unless there are many."""
        return bool(self._ready) or len(self._output) > (0 if self._is_over else PARTS)

    def next_partition(self) -> Any:
        """Return the next part as a manifest."""
        if not self._ready:
            self._is_over = True  # many: the others come as they are
            return super().next_partition()
        return self._bin_to_manifest(self._ready.popleft())

    def finalize(self) -> None:
        """Divide what there is."""
        super().finalize()
        if not self._is_over:
            size = max(MIN_PART_BYTES, sum(part.total_uncompressed_size for part in self._output) // PARTS)
            self._ready.extend(itertools.chain.from_iterable(_cut(part, size) for part in self._output))
            self._output.clear()


def _cut(part: Any, size_bytes: int) -> Iterable[Any]:
    """Return a part as parts of about this size, in the order in which its row groups are read."""
    by_file: dict[str, list[Any]] = {}
    for item in part.items:
        n = len(item.rg_sizes)
        by_file.setdefault(item.path, []).extend(
            [online_bin_packer._slice_bin_item(item, i, i + 1) for i in range(n)] if n else [item]
        )
    items = [item for row_groups in by_file.values() for item in sorted(row_groups, key=lambda item: item.rg_idx)]
    n_parts, total = round(part.total_uncompressed_size / size_bytes), part.total_uncompressed_size
    if n_parts < 2:
        return [part]
    ends = itertools.accumulate(item.uncompressed_size for item in items)
    places = [int((end - item.uncompressed_size / 2) * n_parts / total) for item, end in zip(items, ends, strict=True)]
    groups = itertools.groupby(zip(places, items, strict=True), key=lambda pair: pair[0])
    parts = [tuple(item for _, item in group) for _, group in groups]
    return [online_bin_packer.Bin(each, sum(item.uncompressed_size for item in each)) for each in parts]


def with_even_parts(partitioner: Any) -> Any:
    """Return a partitioner of Ray Data that divides what is read evenly; one of another kind unchanged."""
    return EvenBinPacker(partitioner) if type(partitioner) is online_bin_packer.OnlineBinPacker else partitioner
