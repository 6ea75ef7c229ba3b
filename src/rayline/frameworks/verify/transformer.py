"""Verify the files of a saved transformer before `transformers` reads them: weights are safetensors, JSON names no code and no other
file, sizes are not larger than the weights, and the regular expressions of the tokenizer end in time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rayline.core import strict_json
from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import tensors

TEXT, CONFIG, NUMBERS = "text.json", "config.json", "model.safetensors"

FILES = re.compile(
    r"(config|generation_config|text|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|model\.safetensors|vocab\.txt|merges\.txt|chat_template\.jinja"
)
"""Files that a saved model may hold. Files of SentencePiece are not included: its parser trusts their content, and
tokenizers of `transformers` 5 are saved as tokenizer.json."""

CODE = re.compile(
    r"auto_map|custom_pipelines|quantization_config|_?attn_implementation(_internal)?|_?experts_implementation|.*_file"
)
"""Keys that no configuration may have: they name code, here or on the internet, or another file."""

MAX_SIZE = 1 << 20
"""Allowance for a number in a configuration beyond the sizes of the saved tensors, for computed positions."""

LONGEST_PATTERN = 2000
"""Maximum number of characters of a regular expression of a tokenizer."""

_NO_SIZE = ("rope_theta",)
"""A key whose integer is a wavelength and not a size."""


def check(directory: Path) -> tuple[dict[str, tensors.Shape], dict[str, Any]]:
    """Return the shapes of the saved tensors, and the content of `text.json`.

    Raises ArtifactError when a file is strange or missing, or names code, another file, or larger layers than the weights have.
    """
    names = file_names(directory)
    strange, lacking = strange_files(names), sorted({CONFIG, TEXT, NUMBERS, "tokenizer_config.json"} - names)
    if strange or lacking:
        raise ArtifactError(
            f"The saved transformer {f'has unexpected files {strange[:5]}' if strange else f'lacks {lacking}'}.",
            "Expected weights, a tokenizer, and their configurations.",
            "save it again.",
        )
    shapes = tensors.check(directory / NUMBERS)
    read = {
        name: strict_json.loads((directory / name).read_bytes(), name)
        for name in sorted(names)
        if name.endswith(".json")
    }
    for name, value in read.items():
        _refuse_code(name, value)
    _refuse_patterns(read.get("tokenizer.json"))
    about = _text(read[TEXT])
    _refuse_sizes(read[CONFIG], shapes)
    return shapes, about


def file_names(directory: Path) -> set[str]:
    """Return the paths of all files of a directory."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def strange_files(names: Iterable[str]) -> list[str]:
    """Return the names that no saved model has."""
    return sorted(name for name in names if not FILES.fullmatch(name))


def _text(about: Any) -> dict[str, Any]:
    columns, length = (about.get("columns"), about.get("max_length")) if isinstance(about, dict) else (None, None)
    if not isinstance(columns, list) or not 1 <= len(columns) <= 2 or not all(isinstance(c, str) for c in columns):
        raise ArtifactError(
            "text.json of a saved transformer names no columns.", f"Got {columns!r:.80}.", "save it again."
        )
    if length is not None and (not isinstance(length, int) or isinstance(length, bool) or not 0 < length < 1 << 31):
        raise ArtifactError(
            "text.json of a saved transformer has no max_length.", f"Got {length!r:.80}.", "save it again."
        )
    best = about.get("best_iteration")  # missing in files of earlier versions
    if best is not None and (not isinstance(best, int) or isinstance(best, bool) or best < 0):
        raise ArtifactError(
            "text.json of a saved transformer has a wrong best_iteration.", f"Got {best!r:.80}.", "save it again."
        )
    return {"columns": columns, "max_length": length, "best_iteration": best}


def _refuse_code(name: str, value: Any) -> None:
    keys = [key for key, inner in _pairs(value) if inner is not None and CODE.fullmatch(key)]
    # The tokens of a vocabulary are keys too.
    if keys and name in (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        raise ArtifactError(
            f"{name} of a saved transformer sets {keys[0]!r}, which names code or another file.", "", "do not load it."
        )


def _refuse_patterns(tokenizer: Any) -> None:
    """Refuse regular expressions whose time grows faster than a small power of the text's length: a group repeated without bound,
    or very many adjacent repetitions. The tokenizers' engine backtracks."""
    for key, value in _pairs(tokenizer):
        if key != "Regex" or not isinstance(value, str):
            continue
        plain = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "x", value)  # without escapes and character classes
        if (
            len(value) > LONGEST_PATTERN
            or re.search(r"\)[*+{]", plain)
            or len(re.findall(r"[*+]|\{\d*,\d*\}", plain)) > 32
        ):
            raise ArtifactError(
                f"tokenizer.json of a saved transformer has a regular expression that may take very long: {value[:80]!r}.",
                "Expected one without repeated groups.",
                "do not load it; if it is your own, rewrite the pattern.",
            )


def _refuse_sizes(config: Any, shapes: Mapping[str, tensors.Shape]) -> None:
    # An empty tensor may have dimensions of any length.
    limit = max([MAX_SIZE, *(n for shape in shapes.values() if math.prod(shape) for n in shape)])
    for key, value in _pairs(config):
        if isinstance(value, (int, float)) and abs(value) > limit and key not in _NO_SIZE:
            raise ArtifactError(
                f"config.json describes layers that are larger than the saved tensors: {key[:80]!r} is {str(value)[:20]}.",
                f"Expected at most {limit:,}.",
                "save it again.",
            )


def _pairs(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Iterate over all keys and values of nested objects; the items of a list have the list's key."""
    todo = [(key, value)]
    while todo:
        key, value = todo.pop()
        yield key, value
        if isinstance(value, dict):
            todo += value.items()
        elif isinstance(value, list):
            todo += [(key, inner) for inner in value]
