"""`from rayline… import *` gives what `__all__` names, and loads neither Ray nor a framework where the module alone does not."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

MODULES = [
    "rayline",
    "rayline.stages",
    "rayline.train",
    "rayline.data",
    "rayline.tune",
    "rayline.serve",
    "rayline.testing",
]


@pytest.mark.parametrize("name", MODULES)
def test_a_star_import_gives_all_names(name: str) -> None:
    names: dict[str, object] = {}
    exec(f"from {name} import *", names)
    module = importlib.import_module(name)
    assert len(module.__all__) == len(set(module.__all__))
    assert module.__all__
    assert set(module.__all__) <= names.keys()
    assert set(module.__all__) <= set(dir(module))


def test_the_usual_names_are_there() -> None:
    names: dict[str, object] = {}
    exec("from rayline.stages import *\nfrom rayline.train import *\nfrom rayline.data import *", names)
    assert {
        "StandardScaler",
        "OneHotEncoding",
        "register_function",
        "XGBoostTrainer",
        "Preprocessor",
        "KFold",
    } <= names.keys()


@pytest.mark.parametrize("statement", ["import rayline", "from rayline.stages import *", "from rayline.train import *"])
def test_a_star_import_loads_no_framework(statement: str) -> None:
    heavy = ["ray", "torch", "xgboost", "lightgbm", "catboost", "transformers", "sklearn"]
    code = f"import sys\n{statement}\nprint([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
