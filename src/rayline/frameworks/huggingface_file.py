"""Save a transformer and its tokenizer, and verify untrusted files before `transformers` reads them: weights are safetensors,
JSON names no code and no other file, and the layers match the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rayline.core import strict_json
from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import module_size, tensors

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

MOST = 1 << 20
"""Allowance for a number in a configuration beyond the sizes of the saved tensors, for computed positions."""

LONGEST_PATTERN = 2000
"""Maximum number of characters of a regular expression of a tokenizer."""

_NO_SIZE = ("rope_theta",)
"""A key whose integer is a wavelength and not a size."""


def save(model: Any, tokenizer: Any, directory: Path, about: Mapping[str, Any]) -> None:
    """Write the model and its tokenizer. Raises ArtifactError when the model has adapters in addition to its weights (LoRA),
    of which only the adapters would be saved, and when the tokenizer writes files that `load` refuses."""
    if getattr(model, "_hf_peft_config_loaded", False) or getattr(model, "peft_config", None):
        raise ArtifactError(
            f"The {type(model).__name__} has adapters (peft): `transformers` would save these without the model.",
            "Expected a model whose weights are its own.",
            "merge the adapters into the weights (merge_and_unload of peft) and save the merged model.",
        )
    model.save_pretrained(directory, max_shard_size="100TB")
    # `transformers` omits default labels, whose number may differ in the class of the model.
    config = strict_json.loads((directory / CONFIG).read_bytes(), CONFIG)
    labels = {str(code): str(label) for code, label in model.config.id2label.items()}
    config |= {"id2label": labels, "label2id": {label: int(code) for code, label in labels.items()}}
    (directory / CONFIG).write_bytes(strict_json.dumps(config, indent=1))
    written = {Path(name).name for name in tokenizer.save_pretrained(directory) or ()}
    (directory / TEXT).write_bytes(strict_json.dumps(about, indent=1))
    strange = [name for name in _strange(_names(directory)) if name in written]
    if strange:
        raise ArtifactError(
            f"The tokenizer {type(tokenizer).__name__} is saved as {strange[:5]}.",
            "Expected one that is saved as tokenizer.json.",
            "take the fast form of it (AutoTokenizer, with the package 'tokenizers').",
        )


def load(directory: Path) -> tuple[Any, Any, dict[str, Any]]:
    """Return the model, its tokenizer, and the content of `text.json`.

    Raises ArtifactError when a file names code, another file, or layers that the weights do not have.
    """
    names = _names(directory)
    strange, lacking = _strange(names), sorted({CONFIG, TEXT, NUMBERS, "tokenizer_config.json"} - names)
    if strange or lacking:
        raise ArtifactError(
            f"The saved transformer {f'has strange files {strange[:5]}' if strange else f'lacks {lacking}'}.",
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
    given: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        with module_size.no_larger_than(shapes, CONFIG):
            model, loading_info = AutoModelForSequenceClassification.from_pretrained(
                directory, use_safetensors=True, output_loading_info=True, **given
            )
        tokenizer = AutoTokenizer.from_pretrained(directory, **given)
    except ArtifactError:
        raise
    except Exception as error:  # a wrong configuration may raise anything
        raise ArtifactError(
            f"The saved transformer cannot be read: {str(error)[:500]}", "", "save it again."
        ) from error
    wrong = {kind: sorted(map(str, names))[:3] for kind, names in loading_info.items() if names}
    if wrong:
        raise ArtifactError(
            "config.json names other layers than the saved numbers have.", f"Got {wrong}.", "save it again."
        )
    return model, tokenizer, about


def _names(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def _strange(names: set[str]) -> list[str]:
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
    found = [key for key, inner in _pairs(value) if inner is not None and CODE.fullmatch(key)]
    # The tokens of a vocabulary are keys too.
    if found and name in (CONFIG, "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        raise ArtifactError(
            f"{name} of a saved transformer sets {found[0]!r}, which names code or another file.", "", "do not load it."
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
                "do not load it; where it is your own, rewrite the pattern.",
            )


def _refuse_sizes(config: Any, shapes: Mapping[str, tensors.Shape]) -> None:
    # An empty tensor may have dimensions of any length.
    most = max([MOST, *(n for shape in shapes.values() if math.prod(shape) for n in shape)])
    for key, value in _pairs(config):
        if isinstance(value, (int, float)) and abs(value) > most and key not in _NO_SIZE:
            raise ArtifactError(
                f"config.json names layers that are larger than the saved numbers: {key[:80]!r} is {str(value)[:20]}.",
                f"Expected at most {most:,}.",
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
