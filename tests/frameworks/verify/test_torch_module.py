"""The files of a PyTorch module and of an RLlib policy, verified without either library.

Covers `frameworks.verify.module_size` and `frameworks.verify.policy` too.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import policy, torch_module


def numbers(shape: list[int]) -> bytes:
    """A safetensors file with one tensor of this shape."""
    size = 4
    for n in shape:
        size *= n
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


@pytest.mark.parametrize("kind", [torch_module, policy], ids=["torch", "rllib"])
def test_both_files_are_needed_and_read_as_data(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"Expected a file {kind.ABOUT}"):
        kind.check(tmp_path)
    (tmp_path / kind.ABOUT).write_text('{"module": "MLP"}')
    with pytest.raises(ArtifactError, match=f"Expected a file {kind.NUMBERS}"):
        kind.check(tmp_path)
    (tmp_path / kind.NUMBERS).write_bytes(numbers([2, 3]))
    assert kind.check(tmp_path) == ({"module": "MLP"}, {"w": (2, 3)})
    (tmp_path / kind.NUMBERS).write_bytes(numbers([2, 3])[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        kind.check(tmp_path)
    (tmp_path / kind.ABOUT).write_text("{")
    with pytest.raises(ArtifactError):
        kind.check(tmp_path)


@pytest.mark.parametrize(
    "config",
    [{"exec": "rm"}, {"fcnet_hiddens": [1] * 2000}, {"fcnet_hiddens": [1 << 30]}, {"conv_filters": [[[1 << 30, 1]]]}],
    ids=["unknown", "too many", "too large", "nested"],
)
def test_settings_that_no_policy_has(config: dict[str, Any]) -> None:
    known = {"fcnet_hiddens", "conv_filters"}
    policy.check_settings({"fcnet_hiddens": [64, 64], "dueling": True}, known)
    with pytest.raises(ArtifactError, match="settings"):
        policy.check_settings(config, known)
