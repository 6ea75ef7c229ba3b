"""A package that is missing, and one that is there and broken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import rayline as rl

CASES = {
    "missing": (None, "which is not installed"),
    "a dependency is missing": ("import no_such_dependency_of_mlflow", "cannot be imported(.|\n)*no_such_dependency"),
    "another version": ("", "cannot be imported(.|\n)*(DataType|ColSpec|mlflow)"),
    "a library does not load": ("raise ImportError('libfoo.so: cannot open')", "cannot be imported(.|\n)*libfoo"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_package_is_not_called_missing(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, words = CASES[case]
    for name in [n for n in sys.modules if n.partition(".")[0] == "mlflow" or n == "rayline.mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    if code is None:
        monkeypatch.setitem(sys.modules, "mlflow", None)
    else:
        (tmp_path / "mlflow").mkdir()
        (tmp_path / "mlflow" / "__init__.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(rl.MissingExtraError, match=words):
        import rayline.mlflow  # noqa: F401
