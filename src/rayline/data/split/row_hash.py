"""A hash of a row's values: the same for every library, process, block layout and version.

Values are normalised first. Numbers hash by value, whatever their type (1, 1.0 and True are one); NaN is null, -0.0 is
0.0; a category is its text; a date is its midnight; instants are microseconds since 1970, whatever the unit and the
time zone; a vector is a list. A row's hash is the mixed sum of its values' hashes, each keyed with the column's name, so
the order of columns does not matter.

The arithmetic is spelled out here, on 64-bit integers, and no library's hash is used: a new version of one would move
rows between training and test sets. The steps are xor-shifts and multiplications as in SplitMix64 (Steele, Lea and
Flood, "Fast splittable pseudorandom number generators", 2014). It is no cryptographic hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rayline.core.errors import SchemaError
from rayline.core.schema import col, is_category

Words = npt.NDArray[np.uint64]

BITS = 63
"""A hash is a non-negative 63-bit integer, so that it fits Int64."""

_C1, _C2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MISSING = np.uint64(0x7FF8_0000_0000_DEAD)
_MISSING_NAN = float(_MISSING.view(np.float64))
_EXACT = 1 << 53
_29, _32 = np.uint64(29), np.uint64(32)
_BLOCK = 1 << 15  # values at a time, so that the steps stay in the cache
_LONG = 512  # bytes; longer texts are digested one by one


@dataclass(frozen=True)
class RowHash:
    """A function of rows to hashes, for use in a query.

    Parameters
    ----------
    columns
        The columns that count. Others do not matter.
    seed
        Another seed, another hash.
    purpose
        A word that keeps apart what is decided with the same seed: the split and the folds must not depend on each other.
    """

    columns: tuple[str, ...]
    seed: int = 0
    purpose: str = ""
    is_local: ClassVar[bool] = True

    def expression(self) -> pl.Expr:
        """The hashes as UInt64, below 2^63."""
        keys = tuple(self._key(name) for name in self.columns)
        return pl.struct([col(name) for name in self.columns]).map_batches(
            _Hash(keys), return_dtype=pl.UInt64, is_elementwise=True
        )

    def of(self, table: pl.DataFrame) -> Words:
        """The hashes of a table's rows."""
        return table.select(self.expression().alias("")).to_series().to_numpy()

    def _key(self, name: str) -> int:
        return _key(f"{self.seed}\0{self.purpose}\0{name}")


@dataclass(frozen=True)
class _Hash:
    keys: tuple[int, ...]

    def __call__(self, rows: pl.Series) -> pl.Series:
        total = _sum(rows, self.keys)
        _mix(total, _C2)
        total >>= np.uint64(64 - BITS)
        return pl.Series(total)


def _sum(rows: pl.Series, keys: Sequence[int]) -> Words:
    """The mixed words of the fields of a struct column, added up."""
    total = np.full(len(rows), _GOLDEN, dtype=np.uint64)
    buffer = np.empty(min(len(rows), _BLOCK), dtype=np.uint64)
    for field, key in zip(rows.struct.unnest().get_columns(), keys, strict=True):
        if not _is_plain(field):
            words = value_words(field)
            _mix(words, np.uint64(key))
            total += words
            continue
        floats = field.alias("values").fill_null(_MISSING_NAN).to_numpy()
        for start in range(0, len(floats), _BLOCK):  # the same as above, and nothing in between leaves the cache
            part = floats[start : start + _BLOCK]
            words = buffer[: len(part)]
            np.add(part, 0.0, out=words.view(np.float64))  # makes -0.0 one with 0.0
            _mix(words, np.uint64(key))
            total[start : start + _BLOCK] += words
    return total


def _is_plain(values: pl.Series) -> bool:
    """Whether the values are floats without NaN: a sum that is a number has none."""
    total: Any = values.sum() if values.dtype == pl.Float64 else None
    return total is not None and total == total


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") | 1


def salted(words: Words, salt: Words | int) -> Words:
    """Other hashes made of these and a salt (one for all, or one for each); equal where both are equal."""
    hashes = words + np.asarray(salt, dtype=np.uint64) * _GOLDEN
    _mix(hashes, _C2)
    hashes >>= np.uint64(64 - BITS)
    return hashes


def _mix(words: Words, factor: np.uint64) -> None:
    """Spread every bit over all others, in place; one to one for an odd factor."""
    shifted = np.empty(min(len(words), _BLOCK), dtype=np.uint64)
    for start in range(0, len(words), _BLOCK):
        part = words[start : start + _BLOCK]
        other = shifted[: len(part)]
        part ^= np.right_shift(part, _32, out=other)
        part *= _C1
        part ^= np.right_shift(part, _29, out=other)
        part *= factor
        part ^= np.right_shift(part, _32, out=other)


def value_words(values: pl.Series) -> Words:
    """Each value as a 64-bit word, equal for equal values; a new array. Raises SchemaError when the column holds Python objects."""
    name, dtype = values.name, values.dtype
    values = values.alias("values")  # methods of a Series called "*" or "^x$" would look for other columns
    if dtype == pl.Null:
        return np.full(len(values), _MISSING, dtype=np.uint64)
    if dtype in (pl.Int64, pl.UInt64, pl.Int128) and _is_large(values):
        return _large_integers(values)
    if dtype.is_numeric() or dtype == pl.Boolean:
        return _numbers(values)
    if dtype.is_temporal():
        return _instants(values)
    if is_category(dtype):
        return _texts(values.cast(pl.String))
    if dtype in (pl.String, pl.Binary):
        return _texts(values)
    if isinstance(dtype, pl.Array):
        return _lists(values.arr.to_list())
    if isinstance(dtype, pl.List):
        return _lists(values)
    if isinstance(dtype, pl.Struct):
        return _structs(values)
    raise SchemaError(
        f"Column {name!r} holds {dtype}, whose values cannot be hashed.",
        "Expected numbers, text, dates, lists or structs of these.",
        f"convert {name!r}, or drop it.",
    )


def _numbers(values: pl.Series) -> Words:
    floats = values.cast(pl.Float64).fill_null(float("nan")).to_numpy() + 0.0  # makes -0.0 one with 0.0, and a copy
    words = floats.view(np.uint64)
    words[np.isnan(floats)] = _MISSING
    return words


def _is_large(values: pl.Series) -> bool:
    low, high = values.min(), values.max()
    return low is not None and (int(low) < -_EXACT or int(high) > _EXACT)  # type: ignore[arg-type]


def _large_integers(values: pl.Series) -> Words:
    # Beyond 2^53 neighbouring integers are one as floats: take their own bits there.
    words = _numbers(values)
    wide = values.cast(pl.Int128)  # an unsigned column cannot be compared with what is below 0
    outside = ((wide > _EXACT) | (wide < -_EXACT)).fill_null(False).to_numpy()
    bits = wide.filter(pl.Series(outside))
    low = (bits & ((1 << 63) - 1)).cast(pl.UInt64).to_numpy().copy()
    high = (bits // (1 << 63)).cast(pl.Int64, wrap_numerical=True).to_numpy().view(np.uint64)
    low += high * _GOLDEN
    words[outside] = low
    return words


def _instants(values: pl.Series) -> Words:
    dtype, rest = values.dtype, None
    if dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    elif getattr(dtype, "time_unit", None) == "ms":
        values = values.dt.cast_time_unit("us")
    counts = values.cast(pl.Int64)
    if dtype == pl.Time or getattr(dtype, "time_unit", None) == "ns":
        counts, rest = counts // 1000, counts % 1000
    words = value_words(counts)
    if rest is not None:
        words += rest.fill_null(0).cast(pl.UInt64).to_numpy() * _GOLDEN
    return words


def _texts(values: pl.Series) -> Words:
    array: Any = values.cast(pl.Binary).to_arrow(compat_level=pl.CompatLevel.oldest())
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = (
        np.frombuffer(offsets_buffer, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
        if len(array)
        else np.zeros(1, np.int64)
    )
    data = np.frombuffer(data_buffer, dtype=np.uint8) if data_buffer is not None else np.empty(0, np.uint8)
    used = np.zeros(int(offsets[-1] - offsets[0]) + 8, dtype=np.uint8)
    used[:-8] = data[offsets[0] : offsets[-1]]
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    words = lengths.astype(np.uint64) * _GOLDEN + _C2
    is_long = lengths > _LONG
    # An unaligned view of the bytes: the eight from each position on as one word.
    view: Words = np.ndarray((len(used) - 7,), dtype="<u8", buffer=used, strides=(1,))
    for start in range(0, len(words), _BLOCK):
        part = slice(start, start + _BLOCK)
        _absorb(words[part], view, starts[part], np.where(is_long[part], 0, lengths[part]))
    for row in np.flatnonzero(is_long):
        text = used[starts[row] : starts[row] + lengths[row]].tobytes()
        words[row] = np.uint64(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little"))
    words[values.is_null().to_numpy()] = _MISSING
    return words


def _absorb(words: Words, view: Words, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> None:
    """Take in the texts eight bytes at a time, all texts that have as many at once."""
    rows, position = np.flatnonzero(lengths > 0), 0
    while len(rows):
        piece = view[starts[rows] + position]
        left = lengths[rows] - position
        piece &= _FIRST_BYTES[np.minimum(left, 8)]
        piece ^= words[rows]
        _mix(piece, _C2)
        words[rows] = piece
        rows, position = rows[left > 8], position + 8


_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(9)], dtype=np.uint64)


def _lists(values: pl.Series) -> Words:
    lengths = values.list.len().fill_null(0).cast(pl.Int64).to_numpy()
    words = lengths.astype(np.uint64) * _GOLDEN + _C1
    full = lengths > 0
    if full.any():
        counts = lengths[full]
        ends = np.cumsum(counts)
        elements = value_words(values.filter(pl.Series(full)).explode())
        places = np.arange(len(elements), dtype=np.uint64) - np.repeat((ends - counts).astype(np.uint64), counts)
        elements += (places + np.uint64(1)) * _GOLDEN
        _mix(elements, _C2)
        words[full] += np.add.reduceat(elements, ends - counts)
    words[values.is_null().to_numpy()] = _MISSING
    return words


def _structs(values: pl.Series) -> Words:
    words = _sum(values, [_key(field.name) for field in values.dtype.fields])  # type: ignore[attr-defined]
    words[values.is_null().to_numpy()] = _MISSING
    return words
