"""A fingerprint of the training rows: independent of their order, their blocks and the type of table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import polars as pl

from rayline.core.framework import Rows
from rayline.data.split.row_hash import RowHash

TARGET = "rayline:target"


@dataclass(frozen=True)
class Fingerprint:
    """The number of rows and the sum of their hashes (see `row_hash`): mergeable, and not a cryptographic hash.

    Examples
    --------
    >>> import polars as pl
    >>> table = pl.DataFrame({"x": [1.0, 2.0, 3.0]})
    >>> parts = Fingerprint.of_tables([table.head(1), table.slice(1)])
    >>> parts == Fingerprint.of_tables([table.reverse()])
    True
    """

    n_rows: int = 0
    total: int = 0

    @classmethod
    def of_tables(cls, tables: Iterable[pl.DataFrame]) -> Self:
        """The fingerprint of the rows of all these tables."""
        return cls().merge(*(cls._of(table) for table in tables))

    @classmethod
    def of_training(cls, rows: Rows) -> Self:
        """The fingerprint of prepared rows with their labels, block by block."""
        return cls.of_tables(_labelled(part) for part in rows.pieces())

    @classmethod
    def _of(cls, table: pl.DataFrame) -> Self:
        return cls(table.height, int(RowHash(tuple(table.columns)).of(table).sum()) & (2**64 - 1))

    def merge(self, *others: Self) -> Self:
        """The fingerprint of all the rows together."""
        every = (self, *others)
        return type(self)(sum(o.n_rows for o in every), sum(o.total for o in every) & (2**64 - 1))

    def to_json(self) -> dict[str, Any]:
        return {"n_rows": self.n_rows, "fingerprint": f"{self.total:016x}"}


def _labelled(rows: Rows) -> pl.DataFrame:
    return rows.features.table.with_columns(pl.Series(TARGET, rows.target))
