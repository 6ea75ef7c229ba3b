"""A package that is missing, and one that is there and broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rayline as rl
from rayline.core import registry

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
    for name in ("mlflow", "rayline.mlflow"):  # what is imported here is not there afterwards
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    if code is None:
        monkeypatch.setitem(sys.modules, "mlflow", None)
    else:
        (tmp_path / "mlflow").mkdir()
        (tmp_path / "mlflow" / "__init__.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(rl.MissingExtraError, match=words):
        import rayline.mlflow  # noqa: F401


def test_every_framework_names_its_extra_when_its_library_is_missing() -> None:
    code = (
        "import sys\n"
        "for name in ('xgboost', 'lightgbm', 'catboost', 'sklearn', 'transformers', 'gymnasium', 'torch', 'horovod'):\n"
        "    sys.modules[name] = None\n"
        "from rayline import train\n"
        "from rayline.core import registry\n"
        "for name in registry.own_frameworks():\n"
        "    if name in ('ensemble', 'stack'): continue\n"
        "    try: train.Trainer(name)\n"
        "    except ImportError as error: print(name, type(error).__name__, *str(error).split())\n"
        "try: import rayline.sklearn\n"
        "except ImportError as error: print('rayline.sklearn', type(error).__name__, *str(error).split())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    told = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert told.keys() == {*registry.own_frameworks(), "rayline.sklearn"} - {"ensemble", "stack"}
    for name, line in told.items():
        assert "MissingExtraError" in line
        assert "which is not installed" in line
        extra = {"rayline.sklearn": "sklearn", "horovod": "torch"}.get(name, name)
        assert f"'rayline[{extra}]'" in line
