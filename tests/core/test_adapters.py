"""What adapters share: every error names the library's file or parameters, and a model is read once."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from rayline.core import adapters
from rayline.core.errors import ArtifactError, ParameterError, at


def test_a_file_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.ubj").touch()
    assert adapters.model_file(tmp_path, "model.ubj", "XGBoost model") == tmp_path / "model.ubj"
    with pytest.raises(ArtifactError, match=r"saved XGBoost model is incomplete(.|\n)*model\.bin"):
        adapters.model_file(tmp_path, "model.bin", "XGBoost model")


def test_errors_of_a_library() -> None:
    expected = pytest.raises(ArtifactError, match="saved model cannot be read: bad magic")
    with expected as caught, adapters.reading("model", ValueError):
        raise ValueError("bad magic.\nits internals")
    assert isinstance(caught.value.__cause__, ValueError)
    assert "internals" not in str(caught.value)
    assert ".." not in str(caught.value)
    trial = adapters.trying("X", {"a": 1}, KeyError, ValueError, text=lambda error: "NO")
    wrong = pytest.raises(ParameterError, match="x trainer: X refuses the parameters: NO")
    with wrong as refused, at("x trainer"), trial:
        raise ValueError("no")
    assert "{'a': 1}" in str(refused.value)
    with pytest.raises(KeyError), adapters.reading("model", ValueError):  # others pass
        raise KeyError("a fault of ours")


def test_a_model_is_read_once() -> None:
    class Native:
        pass

    read: list[int] = []
    names = adapters.once_per_model(lambda model: read.append(1) or len(read))
    first, second = Native(), Native()
    assert [names(first), names(first), names(second), names(first)] == [1, 1, 2, 1]
    del first
    gc.collect()
    assert names(Native()) == 3
