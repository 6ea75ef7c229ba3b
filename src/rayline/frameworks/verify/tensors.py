"""Verify an untrusted safetensors file before its library reads it: list its tensors and check that sizes match the header.

The format is that of https://github.com/huggingface/safetensors: the length of a JSON header, the header, the numbers of
all tensors one after the other.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from rayline.core import adapters, strict_json
from rayline.core.errors import ArtifactError

MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 32

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

Shape = tuple[int, ...]


def check(path: Path) -> dict[str, Shape]:
    """Return the shape of each tensor in a file; only the header is read.

    Raises
    ------
    ArtifactError
        When the header is not strict JSON or is larger than `MAX_HEADER_BYTES`, names an unknown type, or when the tensors
        do not fill the file from its header to its end without overlap.

    Examples
    --------
    >>> import json, struct, tempfile
    >>> header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "x.safetensors"
    ...     _ = path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    ...     check(path)
    {'w': (2,)}
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        start = file.read(8)
        n_header = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if n_header > min(MAX_HEADER_BYTES, size - 8):
            _fail(path, "it is cut short, or its header is too long")
        header = strict_json.loads(file.read(n_header), path.name)
    if not isinstance(header, dict):
        _fail(path, "its header is no object")
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        _fail(path, "its metadata is not text")
    parts = sorted((_part(path, name, tensor) for name, tensor in header.items()), key=lambda part: part[1:3])
    end = 0
    for name, first, last, _ in parts:
        if first != end:
            _fail(path, f"the tensor {name[:80]!r} does not begin where the one before it ends")
        end = last
    if end != size - 8 - n_header:
        _fail(path, "its size does not match its tensors")
    return {name: shape for name, _, _, shape in parts}


def n_numbers(shapes: Mapping[str, Shape]) -> int:
    """Return the total number of elements of these tensors."""
    return sum(map(math.prod, shapes.values()))


def check_module(directory: Path, what: str, about: str, numbers: str) -> tuple[Any, dict[str, Shape]]:
    """Return the content of a module's JSON file and the shapes of its saved tensors. Raises ArtifactError when a file is missing
    or damaged."""
    files = [adapters.model_file(directory, name, what) for name in (about, numbers)]
    return strict_json.loads(files[0].read_bytes(), about), check(files[1])


def _part(path: Path, name: str, tensor: Any) -> tuple[str, int, int, Shape]:
    if not isinstance(tensor, dict) or {*tensor} != {"dtype", "shape", "data_offsets"}:
        _fail(path, f"the tensor {name[:80]!r} has unknown fields")
    bits, shape, offsets = _BITS.get(str(tensor["dtype"])), tensor["shape"], tensor["data_offsets"]
    if (
        bits is None
        or not _are_counts(shape)
        or len(shape) > MAX_DIMENSIONS
        or not _are_counts(offsets)
        or len(offsets) != 2
    ):
        _fail(path, f"the tensor {name[:80]!r} has no type, shape or offsets")
    first, last = offsets
    if (last - first) * 8 != math.prod(shape) * bits:
        _fail(path, f"the tensor {name[:80]!r} has a size that does not match its shape")
    return name, first, last, tuple(shape)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63 for value in values
    )


def _fail(path: Path, reason: str) -> NoReturn:
    raise ArtifactError(f"{path.name} is damaged: {reason}.", "Expected a safetensors file.", "save it again.")
