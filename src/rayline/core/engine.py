"""The contract of an engine, which scans and maps tables. Two engines implement it: `local` (Polars) and `ray`."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

import polars as pl

from rayline.core.arguments import integer
from rayline.core.errors import ParameterError
from rayline.core.parquet_parts import PartFiles
from rayline.core.scan import Scan, TableFunction
from rayline.core.scan_results import ScanResults


@dataclass(frozen=True)
class Placement:
    """The distribution of a map over a cluster; None leaves a setting to the engine.

    Attributes
    ----------
    batch_size
        The number of rows processed at a time; whole blocks when None.
    num_cpus, num_gpus
        The resources of each worker.
    concurrency
        The maximum number of workers; with `num_gpus` the exact number of actors, by default as many as the cluster's GPUs hold.
    """

    batch_size: int | None = None
    num_cpus: float | None = None
    num_gpus: float | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        integer("batch_size", self.batch_size, optional=True)
        integer("concurrency", self.concurrency, optional=True)
        amounts: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        for name, amount in amounts.items():
            if amount is not None and not (isinstance(amount, Real) and 0 <= float(amount) < math.inf):
                raise ParameterError.value(name, "a number of at least 0, or None", amount)


def room(has: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many workers with these needs fit on a node."""
    rooms = [int((has.get(name, 0.0) + 1e-6) / amount) for name, amount in needs.items() if amount]
    return min(rooms, default=1 << 20)


@dataclass(frozen=True)
class StoredBlocks:
    """Prepared rows where an engine keeps them, in order.

    Attributes
    ----------
    references, heights
        Of each block what the engine finds it by, and its rows.
    nbytes
        Of all blocks.
    """

    references: Sequence[Any]
    heights: Sequence[int]
    nbytes: int

    @property
    def height(self) -> int:
        """The number of rows."""
        return sum(self.heights)


class Scanner(ABC):
    """Scans one family of table types, which is all that a fit needs."""

    @abstractmethod
    def scan(self, data: Any, scan: Scan) -> dict[int, ScanResults]:
        """Return the merged statistics for each cell, from one pass over the data."""

    def keeps_order(self, data: Any) -> bool:
        """Return whether every read gives the rows in the same order, because they lie in memory or in files of this process."""
        return False


class Engine(Scanner):
    """Scans and maps one family of table types.

    Attributes
    ----------
    has_positions
        Whether the rows have an order that every read keeps.
    """

    has_positions: ClassVar[bool] = True

    def connect(self) -> None:
        """Connect to the cluster that the engine runs on, or start one; nothing to do for an engine in this process.

        Raises ResourceError when the cluster cannot be reached or started.
        """

    def keeping(self, *data: Any) -> AbstractContextManager[None]:
        """Keep rows that are costly to compute and are read more than once, for the duration of a `with` block, where they fit."""
        return contextlib.nullcontext()

    def kept(self, data: Any) -> Any:
        """Return the kept rows as data of their own, or the same data where its rows are not all kept."""
        return data

    def head(self, data: Any, n_rows: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the first rows, or some of their columns."""
        few = data.limit(n_rows) if hasattr(data, "limit") else data
        return self.collect(few, columns).head(n_rows)

    def count(self, data: Any) -> int:
        """Return the number of rows."""
        columns = list(self.schema(data))[:1]
        return self.collect(data, columns).height if columns else 0

    @abstractmethod
    def schema(self, data: Any) -> pl.Schema:
        """Return the names and types of the columns. Raises SchemaError when the data is no table or repeats a column."""

    @abstractmethod
    def map(self, data: Any, function: TableFunction, placement: Placement | None = None) -> Any:
        """Apply a row-local function and return the data in the type that it came in.

        A function whose attribute `is_local` is False is given each block by itself.
        """

    @abstractmethod
    def write(
        self, data: Any, function: TableFunction, files: PartFiles, done: set[int], placement: Placement | None
    ) -> int:
        """Write the rows after a row-local function to the files that are not `done`, in the order of the rows.

        Returns the number of rows in all files.
        """

    @abstractmethod
    def collect(self, data: Any, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows as a Polars table in this process."""
