"""Verify the files of a saved RLlib policy before RLlib builds it: JSON with plain settings of bounded sizes, and safetensors."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import tensors

ABOUT, NUMBERS = "policy.json", "policy.safetensors"

MAX_LAYERS, MAX_UNITS = 1 << 10, 1 << 24

EXTRA_SETTINGS = (
    "num_atoms", "v_min", "v_max", "dueling", "double_q", "epsilon", "std_init", "twin_q", "clip_log_std",
)  # fmt: skip
"""Settings that algorithms add to the common ones."""


def check(directory: Path) -> tuple[Any, dict[str, tensors.Shape]]:
    """Return the content of `policy.json` and the shapes of the saved tensors; no numbers are read.

    Raises ArtifactError when a file is missing or damaged.
    """
    return tensors.check_module(directory, "policy", ABOUT, NUMBERS)


def check_settings(config: Any, known: Collection[str]) -> None:
    """Raise ArtifactError on settings that RLlib's own modules do not have, or of too many or too large layers."""
    unknown = [name for name in config if name not in {*known, *EXTRA_SETTINGS}]
    sizes = [int(n) for value in config.values() if isinstance(value, list) for n in _whole_numbers(value)]
    if unknown or len(sizes) > MAX_LAYERS or sum(map(abs, sizes)) > MAX_UNITS:
        raise ArtifactError(
            "policy.json names settings that Rayline does not write.", f"Got {unknown[:8]}.", "save it again."
        )


def _whole_numbers(value: Any) -> Iterator[int]:
    for inner in value if isinstance(value, list) else [value]:
        if isinstance(inner, list):
            yield from _whole_numbers(inner)
        elif isinstance(inner, int):
            yield inner
