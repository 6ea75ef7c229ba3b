"""Scored rows on their way to a table of scores: keys in the order of the scores, with label, bucket and weight.

Batches only append their rows; these are sorted once for many batches, and all slices of a batch are separated in one pass.

Scores of single precision, which most models give, have keys of 32 bits: such a key with label and bucket is one word, and words
sort several times as fast as places do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from rayline.core.statistics.score_weights import order_keys, order_values
from rayline.evaluate.batch import ScoredBatch

Array = npt.NDArray[Any]

_SIGN_32 = np.uint32(1 << 31)

_TINY = np.uint32(63 << 23)
"""The bits of 2^−64 in single precision. Below it bits of single and of double precision do not shorten to equal groups."""

_PIECE = 1 << 16
"""Values at a time, so that they stay in the cache."""


class RowPiece(NamedTuple):
    """Some rows: keys (uint32 of single precision, else uint64), `bucket * labels + label`, and weights."""

    keys: Array
    groups: Array
    weight: Array | None

    def take(self, rows: Array | slice) -> RowPiece:
        """Return some of the rows."""
        return RowPiece(self.keys[rows], self.groups[rows], None if self.weight is None else self.weight[rows])


@dataclass(frozen=True, eq=False)
class ScoreRows:
    """Rows that are not sorted yet.

    Attributes
    ----------
    pieces
        The rows, of one or more batches.
    n_labels, n_buckets
        How many labels and bootstrap buckets there are; 0 buckets for rows without.
    odds
        Whether the scores are probabilities, whose bins are as fine near 1 as near 0.
    """

    pieces: tuple[RowPiece, ...]
    n_labels: int
    n_buckets: int
    odds: bool

    @classmethod
    def of(cls, batch: ScoredBatch, of: tuple[Any, ...]) -> Self:
        """Return the rows of a batch; `of` says what score and label are (see `ScoreTable`)."""
        scores, labels, n_labels, odds = _scores_and_labels(batch, of)
        groups, n_groups, n_buckets = labels, n_labels, 0
        if batch.bucket is not None:
            n_buckets = batch.n_buckets
            groups, n_groups = batch.bucket.astype(np.int64, copy=False) * n_labels + labels, n_buckets * n_labels
        kind = np.uint16 if n_groups <= 1 << 16 else np.uint32
        keys = _single_keys(scores)
        piece = RowPiece(order_keys(scores) if keys is None else keys, groups.astype(kind), batch.weight)
        return cls((piece,), n_labels, n_buckets, odds)

    def split(self, order: Array, ends: Sequence[int]) -> list[Self]:
        """Return the rows in some order, divided at these indices."""
        parts = [piece.take(order) for piece in self.pieces]
        starts = [0, *ends[:-1]]
        return [
            replace(self, pieces=tuple(part.take(slice(start, stop)) for part in parts))
            for start, stop in zip(starts, ends, strict=True)
        ]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all."""
        return replace(parts[0], pieces=tuple(piece for part in parts for piece in part.pieces))

    @property
    def n_bytes(self) -> int:
        """The memory of the rows in bytes."""
        return sum(array.nbytes for piece in self.pieces for array in piece if array is not None)

    def sorted(self, *, with_buckets: bool = True) -> RowPiece:
        """Return the rows in the order of their scores, in one piece; without buckets a group is a label."""
        pieces = self.pieces
        n_buckets = self.n_buckets if with_buckets else 0
        if n_buckets < self.n_buckets:
            pieces = tuple(piece._replace(groups=piece.groups % self.n_labels) for piece in pieces)
        if all(piece.keys.dtype == np.uint32 and piece.weight is None for piece in pieces):
            return _sorted_words(pieces, (max(1, n_buckets) * self.n_labels - 1).bit_length())
        keys = np.concatenate([wide_keys(piece.keys) for piece in pieces])
        order = np.argsort(keys)
        groups = np.concatenate([piece.groups for piece in pieces])[order]
        weights = [np.ones(len(piece.keys)) if piece.weight is None else piece.weight for piece in pieces]
        is_weighted = any(piece.weight is not None for piece in pieces)
        return RowPiece(keys[order], groups, np.concatenate(weights)[order] if is_weighted else None)


def _sorted_words(pieces: Iterable[RowPiece], low: int) -> RowPiece:
    """Sort rows of single precision without weights; a group has `low` bits."""
    pieces = list(pieces)
    words = np.empty(sum(len(piece.keys) for piece in pieces), np.uint64)
    start = 0
    for piece in pieces:
        block = words[start : (start := start + len(piece.keys))]
        block[:] = piece.keys
        block <<= np.uint64(low)
        block |= piece.groups
    words.sort()
    keys, groups = np.empty(len(words), np.uint32), np.empty(len(words), np.uint32)
    for start in range(0, len(words), _PIECE):
        rows = slice(start, start + _PIECE)
        block = words[rows]
        groups[rows] = block & np.uint64((1 << low) - 1)
        block >>= np.uint64(low)
        keys[rows] = block
    return RowPiece(keys, groups, None)


def _scores_and_labels(batch: ScoredBatch, of: tuple[Any, ...]) -> tuple[Array, Array, int, bool]:
    """Return scores, labels, the number of labels, and whether the scores are probabilities."""
    if of[0] == "error":
        return np.abs(batch.errors), np.zeros(len(batch), np.int64), 1, False
    names = batch.scores.dtype.names
    odds = names is None or "margin" not in names
    if of[0] == "classes":
        return batch.ranks(of[1]), batch.truth, len(batch.classes), odds
    labels = batch.truth if of[1] == 1 and len(batch.classes) == 2 else (batch.truth == of[1]).astype(np.int64)
    return batch.ranks(of[1]), labels, 2, odds


# -- keys ------------------------------------------------------------------------------------------------------------------


def _single_keys(values: Array) -> Array | None:
    """Return such integers of 32 bits; None where some numbers are not of single precision, or nearly 0."""
    if not (values[:64].astype(np.float32) == values[:64]).all():
        return None
    single = values.astype(np.float32)
    if not (single == values).all():
        return None
    bits = (single + np.float32(0.0)).view(np.uint32)
    if ((bits & ~_SIGN_32) - np.uint32(1) < _TINY).any():
        return None
    is_negative = bits >= _SIGN_32
    return np.where(is_negative, ~bits, bits | _SIGN_32) if is_negative.any() else bits | _SIGN_32


def wide_keys(keys: Array) -> Array:
    """Return keys of 64 bits for those of 32."""
    return keys if keys.dtype == np.uint64 else order_keys(order_values(keys))


def bin_keys(keys: Array, *, odds: bool) -> Array:
    """Return keys of the same order for bins; keys ascend. Of a probability above one half they are those of its distance from 1."""
    if not odds or not len(keys):
        return keys
    chance = order_values(keys)
    half = int(np.searchsorted(chance, 0.5, side="right"))
    borders = chance.view(keys.dtype).copy()
    middle = chance.dtype.type(0.5).view(keys.dtype)
    borders[half:] = 2 * middle - (1 - chance[half:]).view(keys.dtype)
    return borders
