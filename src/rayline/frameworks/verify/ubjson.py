"""Read untrusted UBJSON: memory is bounded by its length, and anything ambiguous is an ArtifactError.

Numbers of one type (`[$d#…`) become NumPy arrays without a copy per value, so that large models are read in
milliseconds. The subset is the one that XGBoost writes (draft 12, big endian): https://ubjson.org.
"""

from __future__ import annotations

import struct
from typing import Any, NoReturn

import numpy as np

from rayline.core.errors import ArtifactError

MAX_DEPTH = 64

_NUMBERS = {
    0x69: struct.Struct(">b"),  # i
    0x55: struct.Struct(">B"),  # U
    0x49: struct.Struct(">h"),  # I
    0x6C: struct.Struct(">i"),  # l
    0x4C: struct.Struct(">q"),  # L
    0x64: struct.Struct(">f"),  # d
    0x44: struct.Struct(">d"),  # D
}
_ARRAYS = {code: np.dtype(number.format) for code, number in _NUMBERS.items()}
_CONSTANTS = {0x54: True, 0x46: False, 0x5A: None}  # T, F, Z


def loads(data: bytes, what: str) -> Any:
    """Return the value of a UBJSON document: dicts, lists, strings, numbers, and NumPy arrays for lists of one type of number.

    Raises ArtifactError when it is not UBJSON, is nested deeper than `MAX_DEPTH`, repeats a key, is truncated, or has data after
    its end.
    """
    reader = _Reader(data, what)
    try:
        value = reader.value(reader.byte(), 0)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise _damaged(what, "it is cut short or not UTF-8") from error
    if reader.place != len(data):
        reader.fail("it has data after its end")
    return value


def _damaged(what: str, reason: str) -> ArtifactError:
    return ArtifactError(f"{what} is damaged: {reason}.", "Expected the UBJSON that was saved.", "save it again.")


class _Reader:
    def __init__(self, data: bytes, what: str) -> None:
        self.data, self.what, self.place = data, what, 0

    def fail(self, reason: str) -> NoReturn:
        raise _damaged(self.what, reason)

    def byte(self) -> int:
        value = self.data[self.place]
        self.place += 1
        return value

    def take(self, n_bytes: int) -> bytes:
        if n_bytes < 0 or n_bytes > len(self.data) - self.place:
            self.fail("a part is longer than the file")
        start, self.place = self.place, self.place + n_bytes
        return self.data[start : self.place]

    def number(self, code: int) -> Any:
        number = _NUMBERS[code]
        (value,) = number.unpack_from(self.data, self.place)
        self.place += number.size
        return value

    def count(self) -> int:
        code = self.byte()
        if code not in _NUMBERS or code in (0x64, 0x44):
            self.fail("a length is no integer")
        count: int = self.number(code)
        if count < 0 or count > len(self.data) - self.place:
            self.fail("a part is longer than the file")
        return count

    def value(self, code: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            self.fail(f"it is nested deeper than {MAX_DEPTH}")
        if code in _NUMBERS:
            return self.number(code)
        if code == 0x53:  # S
            return self.take(self.count()).decode("utf-8")
        if code == 0x7B:  # {
            return self.object(depth)
        if code == 0x5B:  # [
            return self.array(depth)
        if code not in _CONSTANTS:
            self.fail(f"there is no type {code:#x}")
        return _CONSTANTS[code]

    def object(self, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        while self.data[self.place] != 0x7D:
            key = self.take(self.count()).decode("utf-8")
            if key in members:
                self.fail(f"the key {key[:40]!r} occurs twice")
            members[key] = self.value(self.byte(), depth + 1)
        self.place += 1
        return members

    def array(self, depth: int) -> Any:
        code = self.data[self.place]
        if code == 0x24:  # $: all of one type
            dtype = _ARRAYS.get(self.data[self.place + 1])
            if dtype is None or self.data[self.place + 2] != 0x23:
                self.fail("an array has no such type")
            self.place += 3
            return np.frombuffer(self.take(self.count() * dtype.itemsize), dtype)
        if code == 0x23:  # #: so many values
            self.place += 1
            return [self.value(self.byte(), depth + 1) for _ in range(self.count())]
        values = []
        while self.data[self.place] != 0x5D:
            values.append(self.value(self.byte(), depth + 1))
        self.place += 1
        return values
