"""Verify the files of a saved PyTorch module before PyTorch reads them: JSON with an id and plain arguments, and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayline.frameworks.verify import tensors

ABOUT, NUMBERS = "module.json", "module.safetensors"


def check(directory: Path) -> tuple[Any, dict[str, tensors.Shape]]:
    """Return the content of `module.json` and the shapes of the saved tensors; no numbers are read.

    Raises ArtifactError when a file is missing or damaged.
    """
    return tensors.check_module(directory, "PyTorch module", ABOUT, NUMBERS)
