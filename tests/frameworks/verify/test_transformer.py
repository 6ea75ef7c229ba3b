"""The files of a saved transformer, verified without `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rayline.core.errors import ArtifactError
from rayline.frameworks.verify import transformer
from tests.frameworks.verify.test_torch_module import numbers


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A directory that passes."""
    (tmp_path / transformer.NUMBERS).write_bytes(numbers([2, 3]))
    (tmp_path / transformer.CONFIG).write_text('{"hidden_size": 3}')
    (tmp_path / transformer.TEXT).write_text('{"columns": ["text"], "max_length": 16}')
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text(json.dumps({"pre_tokenizer": {"pattern": {"Regex": r"\w+|[^\w\s]+"}}}))
    return tmp_path


def test_what_is_right_passes(saved: Path) -> None:
    shapes, about = transformer.check(saved)
    assert shapes == {"w": (2, 3)}
    assert about == {"columns": ["text"], "max_length": 16, "best_iteration": None}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("modeling.py", "", "unexpected files"),
        ("config.json", {"auto_map": {"AutoModel": "x.Y"}}, "names code or another file"),
        ("config.json", {"text": {"quantization_config": {"a": 1}}}, "names code or another file"),
        ("config.json", {"hidden_size": 1 << 40}, "larger than the saved tensors"),
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "names code or another file"),
        ("tokenizer.json", {"Regex": "(a+)+b"}, "may take very long"),
        ("tokenizer.json", {"Regex": "x" * 5000}, "may take very long"),
        ("text.json", {"columns": []}, "names no columns"),
        ("text.json", {"columns": ["a"], "max_length": -1}, "no max_length"),
        ("text.json", {"columns": ["a"], "best_iteration": "7"}, "wrong best_iteration"),
    ],
)
def test_what_is_not_data_is_refused(saved: Path, name: str, content: Any, says: str) -> None:
    (saved / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ArtifactError, match=says):
        transformer.check(saved)


@pytest.mark.parametrize("name", [transformer.NUMBERS, transformer.CONFIG, transformer.TEXT, "tokenizer_config.json"])
def test_what_is_missing_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"lacks .*{name}"):
        transformer.check(saved)
