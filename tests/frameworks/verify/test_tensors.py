"""The header of a safetensors file: what the library writes is accepted, what lies about itself is not."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import tensors

library = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed (make test-all)")

TYPES = st.sampled_from(["f4", "f8", "f2", "i1", "i8", "u1", "?"])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)


@given(st.dictionaries(st.text(max_size=8), st.tuples(TYPES, SHAPES), max_size=6), st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_the_library_writes_is_accepted(tmp_path: Path, kinds: dict[str, Any], told: bool) -> None:
    kinds.pop("__metadata__", None)
    path = tmp_path / "x.safetensors"
    made = {name: np.zeros(shape, dtype) for name, (dtype, shape) in kinds.items()}
    library.save_file(made, path, metadata={"format": "np"} if told else None)
    assert tensors.check(path) == {name: array.shape for name, array in made.items()}


GOOD: dict[str, Any] = {
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "U8", "shape": [4], "data_offsets": [24, 28]},
}


def written(path: Path, header: Any, numbers: int = 28, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + bytes(numbers))
    return path


def test_shapes_are_counted(tmp_path: Path) -> None:
    shapes = tensors.check(written(tmp_path / "x", GOOD))
    assert shapes == {"a": (2, 3), "b": (4,)}
    assert tensors.n_numbers(shapes) == 10


def changed(tensor: str, **to: Any) -> dict[str, Any]:
    return {**GOOD, tensor: {**GOOD[tensor], **to}}


@pytest.mark.parametrize(
    "header",
    [
        [], "x", {"a": 5}, {"a": {}}, {"a": GOOD["a"]}, {"b": GOOD["b"]},
        changed("a", dtype="F999"), changed("a", dtype=None), changed("a", shape=[2, 4]), changed("a", shape=[-2, -3]),
        changed("a", shape=[2.0, 3]), changed("a", shape=[True, 6]), changed("a", shape=[1 << 63, 3]), changed("a", shape=[6] + [1] * 40),
        changed("a", shape="23"), changed("a", data_offsets=[0, 25]), changed("a", data_offsets=[4, 28]), changed("b", data_offsets=[20, 24]),
        changed("b", data_offsets=[24]), changed("b", more=1), {**GOOD, "__metadata__": {"format": 5}}, {**GOOD, "__metadata__": []},
        {**GOOD, "c": {"dtype": "U8", "shape": [0], "data_offsets": [99, 99]}},
        b"{", b"[" * 100_000, b'{"a": 1e999}', b'{"a": 1, "a": 2}', b"\xff\xfe",
    ],
)  # fmt: skip
def test_what_lies_about_itself_is_refused(tmp_path: Path, header: Any) -> None:
    with pytest.raises(ArtifactError):
        tensors.check(written(tmp_path / "x", header))


@pytest.mark.parametrize("size", [0, 7, 8, 20])
def test_what_is_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    path = written(tmp_path / "x", GOOD)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ArtifactError):
        tensors.check(path)


@pytest.mark.parametrize(("numbers", "length"), [(27, None), (29, None), (28, 1 << 62), (28, 0)])
def test_other_numbers_than_it_names_are_refused(tmp_path: Path, numbers: int, length: int | None) -> None:
    with pytest.raises(ArtifactError):
        tensors.check(written(tmp_path / "x", GOOD, numbers, length))
