from __future__ import annotations

import importlib
import pkgutil

import pytest

import rayline
from rayline.core.deprecation import DEPRECATED, deprecated


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")[:3]))


def overdue(now: str) -> list[str]:
    return [name for name, removal in DEPRECATED.items() if version(removal) <= version(now)]


def test_what_is_overdue_is_removed() -> None:
    for module in pkgutil.walk_packages(rayline.__path__, "rayline."):
        if not any(part in module.name for part in (".frameworks.", "mlflow", "onnx")):  # optional libraries
            importlib.import_module(module.name)
    assert not overdue(rayline.__version__)


def test_a_deprecated_function_warns_and_works() -> None:
    @deprecated(since="0.1.0", removal="0.3.0", instead="other(x)")
    def old(x: int) -> int:
        return x

    try:
        with pytest.warns(FutureWarning, match=r"will be removed in 0\.3\.0; use other\(x\)"):
            assert old(3) == 3
        assert not overdue("0.2.9")
        assert len(overdue("0.3.0")) == 1
    finally:
        DEPRECATED.popitem()
