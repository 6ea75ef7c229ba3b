"""Verify an untrusted CatBoost model before CatBoost reads it: CatBoost verifies the FlatBuffers, but trusts their numbers.

A CBM file is "CBM1", the size of the core and the core, a FlatBuffer of TModelCore, and then the parts that it names: the
tables of encoded categories. Field numbers are those of `catboost/libs/model/flatbuffers/*.fbs`, version 1.2.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from rayline.core.errors import ArtifactError, first_line

_PART = "static_provider_v1"
_BUCKET = np.dtype([("hash", "<u8"), ("index", "<u4")])
_EMPTY = np.uint64(2**64 - 1)
_BY_CLASS, _MEANS, _COUNTS = (0, 1), (2, 3), (4, 5)
"""Kinds of tables: Borders and Buckets count by class, means have a sum and a number, counters a number."""
_BIN_BORDERS = 254
_NO_LEAF = 0xFFFF_FFFF

Combination = tuple[Any, ...]


def check(data: bytes) -> None:
    """Raise ArtifactError unless the bytes are a model that is safe for CatBoost to load: truncated models, text features and
    inconsistent parts are refused. Values (borders, leaves) are not restricted."""
    try:
        _model(data)
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        if isinstance(error, ArtifactError):
            raise
        _fail(f"{type(error).__name__}: {first_line(error)}")


def _fail(reason: str) -> NoReturn:
    raise ArtifactError(f"The saved CatBoost model is damaged: {reason}.", "Expected a CBM file.", "save it again.")


class _Table:
    """A table of a FlatBuffer, read with every offset checked."""

    def __init__(self, data: bytes, place: int) -> None:
        self.data, self.place = data, place
        (back,) = struct.unpack_from("<i", data, self._within(place, 4))
        fields = self._within(place - back, 4)
        (size,) = struct.unpack_from("<H", data, fields)
        self.fields = struct.unpack_from(f"<{max(0, size - 4) // 2}H", data, self._within(fields + 4, max(0, size - 4)))

    def _within(self, place: int, n_bytes: int) -> int:
        if place < 0 or place + n_bytes > len(self.data):
            _fail("it contains an offset outside of the file")
        return place

    def _field(self, number: int) -> int | None:
        offset = self.fields[number] if number < len(self.fields) else 0
        return self.place + offset if offset else None

    def _target(self, place: int) -> int:
        (offset,) = struct.unpack_from("<I", self.data, self._within(place, 4))
        return place + int(offset)

    def number(self, number: int, form: str = "<i", default: int = 0) -> int:
        place = self._field(number)
        if place is None:
            return default
        (value,) = struct.unpack_from(form, self.data, self._within(place, struct.calcsize(form)))
        return int(value)

    def table(self, number: int) -> _Table:
        place = self._field(number)
        if place is None:
            _fail("a part is missing")
        return _Table(self.data, self._target(place))

    def vector(self, number: int, dtype: Any) -> Any:
        place, kind = self._field(number), np.dtype(dtype)
        if place is None:
            return np.zeros(0, kind)
        start = self._target(place)
        (count,) = struct.unpack_from("<I", self.data, self._within(start, 4))
        return np.frombuffer(self.data, kind, count, self._within(start + 4, count * kind.itemsize))

    def tables(self, number: int) -> list[_Table]:
        return [_Table(self.data, target) for target in self._targets(number)]

    def texts(self, number: int) -> list[str]:
        return [self._text(target) for target in self._targets(number)]

    def _targets(self, number: int) -> list[int]:
        place = self._field(number)
        if place is None:
            return []
        start = self._target(place)
        (count,) = struct.unpack_from("<I", self.data, self._within(start, 4))
        self._within(start + 4, 4 * count)
        return [self._target(start + 4 + 4 * i) for i in range(count)]

    def text(self, number: int) -> str:
        place = self._field(number)
        return "" if place is None else self._text(self._target(place))

    def _text(self, start: int) -> str:
        (n_bytes,) = struct.unpack_from("<I", self.data, self._within(start, 4))
        self._within(start + 4, n_bytes)
        return self.data[start + 4 : start + 4 + n_bytes].decode("utf-8")


def _root(data: bytes) -> _Table:
    (offset,) = struct.unpack_from("<I", data, 0)
    return _Table(data, offset)


def _model(data: bytes) -> None:
    if data[:4] != b"CBM1":
        _fail("it is no CBM file")
    (size,) = struct.unpack_from("<I", data, 4)
    core, rest = data[8 : 8 + size], data[8 + size :]
    if len(core) != size:
        _fail("it is cut short")
    root = _root(core)
    parts, trees = root.texts(3), root.table(1)
    if parts not in ([], [_PART]) or (not parts and rest):
        _fail("it contains parts other than those of models of numbers and categories")
    tables = _tables(rest) if parts else {}
    n_splits, n_bins = _features(trees, tables)
    _trees(trees, n_splits, n_bins)


def _features(trees: _Table, tables: dict[Combination, tuple[int, int]]) -> tuple[int, int]:
    """Check the features and return the number of their splits and the size of their bins in bytes."""
    if any(len(trees.vector(number, "<u4")) for number in (12, 13, 18)):
        _fail("it has features of text")
    categories, floats = trees.tables(4), trees.tables(5)
    n = len(categories) + len(floats)
    places = [f.number(1, default=-1) for f in categories] + [f.number(2, default=-1) for f in floats]
    if len({*places}) != n or not all(0 <= place < n for place in places):
        _fail("the indices of its features are invalid")
    indices_of_kinds = [f.number(0, default=-1) for f in categories], [f.number(1, default=-1) for f in floats]
    if any(indices != [*range(len(indices))] for indices in indices_of_kinds):
        _fail("the order of its features is inconsistent")
    _ = [f.text(2) for f in categories], [f.text(4) for f in floats]  # names are UTF-8
    widths = [len(f.vector(3, "<f4")) for f in floats]
    for hot in trees.tables(6):
        if not 0 <= hot.number(0, default=-1) < len(categories):
            _fail("it encodes a category that does not exist")
        if len(hot.texts(2)) not in (0, len(hot.vector(1, "<i4"))):
            _fail("the values of a category are inconsistent")
        widths.append(len(hot.vector(1, "<i4")))
    for feature in trees.tables(7):
        encoded = feature.table(0)
        combination = _combination(encoded.table(0), len(categories), len(floats))
        if combination not in tables:
            _fail("a table of encoded categories is missing")
        kind, n_classes = tables[combination]
        border = encoded.number(1)
        if kind in _BY_CLASS and not 0 <= border < n_classes - (kind == 0):
            _fail("it refers to a class that does not exist")
        widths.append(len(feature.vector(1, "<f4")))
    return sum(widths), sum(-(-width // _BIN_BORDERS) for width in widths)


def _combination(base: _Table, n_categories: int | None, n_floats: int | None) -> Combination:
    """Return which features are encoded together, and how; the caller checks the feature numbers."""
    what = base.table(0)
    splits, hot = (
        what.vector(1, [("index", "<i4"), ("border", "<u4")]),
        what.vector(2, [("index", "<i4"), ("value", "<i4")]),
    )
    categories = what.vector(0, "<i4")
    if n_categories is not None and n_floats is not None:
        used: Sequence[tuple[Any, int]] = (
            (categories, n_categories),
            (splits["index"], n_floats),
            (hot["index"], n_categories),
        )
        if any((indices < 0).any() or (indices >= end).any() for indices, end in used):
            _fail("it encodes a feature that does not exist")
    return categories.tobytes(), splits.tobytes(), hot.tobytes(), base.number(1, "<B"), base.number(2)


def _tables(data: bytes) -> dict[Combination, tuple[int, int]]:
    """Check the tables of encoded categories and return the kind and the number of classes of each."""
    (count,) = struct.unpack_from("<I", data, 0)
    tables: dict[Combination, tuple[int, int]] = {}
    place = 4
    for _ in range(min(count, len(data))):
        (size,) = struct.unpack_from("<I", data, place)
        part = data[place + 4 : place + 4 + size]
        place += 4 + size
        if len(part) != size:
            _fail("it is cut short")
        table = _root(part)
        combination = _combination(table.table(0), None, None)
        kind, n_classes = combination[3], table.number(4)
        buckets, n_bytes = table.vector(1, "u1"), len(table.vector(2, "u1"))
        if kind not in (*_BY_CLASS, *_MEANS, *_COUNTS) or (kind in _BY_CLASS and not 1 <= n_classes <= n_bytes):
            _fail("a table of encoded categories has an unknown kind")
        width = 4 * n_classes if kind in _BY_CLASS else 8 if kind in _MEANS else 4
        if n_bytes % width or len(buckets) % _BUCKET.itemsize:
            _fail("the size of a table of encoded categories is inconsistent")
        _buckets(buckets.view(_BUCKET) if len(buckets) else np.zeros(0, _BUCKET), n_bytes // width)
        tables[combination] = kind, n_classes
    if place != len(data) or len(tables) != count:
        _fail("the number of its tables is inconsistent")
    return tables


def _buckets(buckets: Any, n_rows: int) -> None:
    """Check a hash table: lookups probe until an empty bucket, so there must be one, and every other bucket must refer to a row."""
    n, full = len(buckets), buckets["hash"] != _EMPTY
    if n == 0 or n & (n - 1) or full.all() or (buckets["index"][full] >= n_rows).any():
        _fail("a table of encoded categories contains an offset outside of the file")


def _trees(trees: _Table, n_splits: int, n_bins: int) -> None:
    n_outputs, splits, sizes = trees.number(0), trees.vector(1, "<i4"), trees.vector(2, "<i4").astype(np.int64)
    leaves, weights = len(trees.vector(8, "<f8")), len(trees.vector(9, "<f8"))
    steps, leaf_of = trees.vector(10, [("left", "<u2"), ("right", "<u2")]), trees.vector(11, "<u4")
    bins = trees.vector(17, [("feature", "<u2"), ("mask", "u1"), ("split", "u1")])
    if n_outputs < 1 or leaves % n_outputs or weights not in (0, leaves // n_outputs) or n_outputs > max(leaves, 1):
        _fail("the number of leaf values does not match the outputs")
    if len(trees.vector(16, "<f8")) not in (0, n_outputs):
        _fail("the bias does not match the outputs")
    ends = np.cumsum(sizes)
    if (sizes < 0).any() or (ends[-1] if len(ends) else 0) != len(splits):
        _fail("the number of splits of its trees is inconsistent")
    if not np.array_equal(trees.vector(3, "<i4"), ends - sizes):
        _fail("the start of a tree is inconsistent")
    if len(splits) and (splits.min() < 0 or splits.max() >= n_splits):
        _fail("a tree refers to a split that does not exist")
    if len(bins) not in (0, len(splits)) or (bins["feature"] >= n_bins).any():
        _fail("a tree refers to a feature that does not exist")
    if len(steps) or len(leaf_of):
        if len(steps) != len(splits) or len(leaf_of) != len(splits):
            _fail("the nodes of its trees are inconsistent")
        _steps(steps, leaf_of.astype(np.int64), np.repeat(ends, sizes), leaves - n_outputs)
    elif (sizes > 31).any() or int((1 << np.minimum(sizes, 31)).sum()) * n_outputs != leaves:
        _fail("the number of leaves does not match the splits")


def _steps(steps: Any, leaf_of: Any, ends: Any, last_leaf: int) -> None:
    """Check that steps only lead forward, and that a path ends at a leaf where a step is 0."""
    node = np.arange(len(steps))
    stops = np.zeros(len(steps), bool)
    for side in ("left", "right"):
        if (node + steps[side] >= ends).any():
            _fail("a tree contains an index outside of the tree")
        stops |= steps[side] == 0
    if (leaf_of[stops] > last_leaf).any() or (leaf_of[~stops & (leaf_of != _NO_LEAF)] > last_leaf).any():
        _fail("a tree leads to a leaf that does not exist")
