"""The frequent values of a column with too many distinct ones to count: a sketch in bounded memory.

The values are hashed to 64 bits and thrown into buckets, three times with other bits of the hash. Each bucket counts its
rows, and for each bit of the hash how many rows have it set. A value that has more than half of the rows of its bucket
decides every bit, so its hash can be read off (Cormode and Muthukrishnan, "What's hot and what's not: tracking most
frequent items dynamically", PODS 2003).

All of it is sums, so the sketch is a function of the rows alone: merging is associative and commutative, and neither
batches nor order matter. Summaries that keep a list of candidates (Misra-Gries, SpaceSaving) are smaller but depend on
the order; see docs/decisions/0007-sketch-for-many-categories.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.text_analysis import hashed

N_ROWS = 3
_BITS = 13
N_BUCKETS = 1 << _BITS
_CHUNK = 1 << 16
"""Values that are added at a time: their bits as numbers take 32 MB."""

MIN_SHARE = 1e-3
"""Values with this share of the rows or more are found."""


@dataclass(frozen=True, eq=False)
class FrequentValues:
    """The sketch; values are distinguished by the key of their text (see `rayline.core.text_analysis`)."""

    total: int
    cells: npt.NDArray[np.int64]  # for each row and bucket: the rows with bit 0, …, bit 63 of the key set, and all rows

    @classmethod
    def of(cls, values: pl.Series, n: pl.Series) -> Self:
        """Return the sketch of distinct values that occur so often."""
        from scipy import sparse  # only sketches and text need it

        keys, weights = hashed(values.cast(pl.String).to_list()), n.to_numpy().astype(np.float64)
        cells = np.zeros((N_ROWS, N_BUCKETS, 65), dtype=np.int64)
        for start in range(0, len(keys), _CHUNK):
            part, weight = keys[start : start + _CHUNK], weights[start : start + _CHUNK]
            bits = np.unpackbits(part.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
            columns = np.concatenate([bits, np.ones((len(part), 1), np.uint8)], axis=1).astype(np.float64)
            for row in range(N_ROWS):
                buckets = _buckets(part, row)
                ends = np.concatenate([[0], np.bincount(buckets, minlength=N_BUCKETS).cumsum()])
                order = np.argsort(buckets.astype(np.uint16), kind="stable")
                rows_of_bucket = sparse.csr_matrix((weight[order], order, ends), shape=(N_BUCKETS, len(part)))
                cells[row] += (rows_of_bucket @ columns).astype(np.int64)  # exact below 2^53
        return cls(int(n.sum()), cells)

    def merge(self, other: Self) -> Self:
        return type(self)(self.total + other.total, self.cells + other.cells)

    def frequent_counts(self) -> dict[int, int]:
        """Return the keys of the values with `MIN_SHARE` of the rows or more, most frequent first, and how often each occurs.

        A count is never too small, and too large by about what falls into a bucket by chance: total / 8192.
        """
        min_count = max(self.total * MIN_SHARE, 1)
        candidates: set[int] = set()
        for row in range(N_ROWS):
            cells = self.cells[row][self.cells[row, :, 64] >= min_count]
            ones = (2 * cells[:, :64] > cells[:, 64:]).astype(np.uint64)
            candidates |= set((ones << np.arange(64, dtype=np.uint64)).sum(axis=1, dtype=np.uint64).tolist())
        keys = np.array(sorted(candidates), dtype=np.uint64)
        counts = self._counts(keys).tolist()
        good = [(key, count) for key, count in zip(keys.tolist(), counts, strict=True) if count >= min_count]
        return dict(sorted(good, key=lambda pair: (-pair[1], pair[0])))

    def _counts(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Return what all rows of the sketch and all bits allow for each key."""
        bits = ((keys[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)).astype(bool)
        upper_bounds = np.full(len(keys), self.total, dtype=np.int64)
        for row in range(N_ROWS):
            cells = self.cells[row][_buckets(keys, row)]
            like = np.where(bits, cells[:, :64], cells[:, 64:] - cells[:, :64])  # rows that agree with the key in a bit
            upper_bounds = np.minimum(upper_bounds, like.min(axis=1))
        return upper_bounds

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FrequentValues):
            return NotImplemented
        return self.total == other.total and np.array_equal(self.cells, other.cells)

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash


def _buckets(keys: npt.NDArray[np.uint64], row: int) -> npt.NDArray[np.int64]:
    return ((keys >> np.uint64(_BITS * row)) & np.uint64(N_BUCKETS - 1)).astype(np.int64)
