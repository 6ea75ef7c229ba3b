"""Fits that look at a table part by part, and merge what they find in any order."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any

import polars as pl

from rayline.core.scan import Scan
from rayline.core.scan_results import ScanResults, merge_results
from rayline.core.schema import remembered_schema
from rayline.engine.local import LocalEngine
from rayline.preprocessing import fit_planner
from rayline.testing.edge_cases import NAME, StageCase


class RandomPartsEngine(LocalEngine):
    """Scans a table in random parts and merges them in a random order."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def scan(self, data: Any, scan: Scan) -> dict[int, ScanResults]:
        rng = random.Random(self.seed)  # noqa: S311  # no secret
        parts = [scan.of(part.lazy(), part.height)[0] for part in random_parts(data, self.seed)]
        rng.shuffle(parts)
        while len(parts) > 1:
            i = rng.randrange(len(parts) - 1)
            parts[i : i + 2] = [merge_results(parts[i : i + 2])]
        return {0: parts[0]}


Arrange = Callable[
    [ScanResults, ScanResults, ScanResults, ScanResults, Callable[[ScanResults, ScanResults], ScanResults]], ScanResults
]


class ThreePartsEngine(LocalEngine):
    """Scans a table in three parts and merges them two at a time, in the given arrangement; the second part may have other types."""

    def __init__(self, arrange: Arrange, drift: Mapping[str, pl.DataType] | None = None) -> None:
        self.arrange, self.drift = arrange, drift or {}

    def scan(self, data: Any, scan: Scan) -> dict[int, ScanResults]:
        third = data.height // 3
        tables = [data.slice(0, third), data.slice(third, third).cast(dict(self.drift)), data.slice(2 * third)]
        first, second, third_part = (scan.of(part.lazy(), part.height)[0] for part in tables)
        empty: ScanResults = {r: r.statistic.empty(**dict(r.options)) for r in first}
        return {0: self.arrange(first, second, third_part, empty, lambda x, y: {r: x[r].merge(y[r]) for r in x})}


def fit_with(case: StageCase, engine: LocalEngine) -> Any:
    """Return what the stage of a case learns when this engine scans."""
    schema = remembered_schema(case.table.schema)
    fit = fit_planner.fit(engine, case.table, [(NAME, case.stage)], schema, targets=case.targets)
    return fit.leaves[0].learned


def random_parts(table: pl.DataFrame, seed: int) -> list[pl.DataFrame]:
    """The table in parts of random sizes, an empty one among them."""
    rng = random.Random(seed)  # noqa: S311  # no secret
    cuts = sorted(rng.randrange(table.height + 1) for _ in range(1 + 2 * seed))
    edges = [0, 0, *cuts, table.height]
    return [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
