"""What a type checker and an editor see of the public names: real types, and errors on misspelt ones.

Covers `core.data_types` too.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rayline as rl
from rayline import data, postprocess, serve, stages, train, tune
from rayline.core import registry

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def report() -> str:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", str(HERE / "accepted.py"), str(HERE / "rejected.py")]
    environment = {**os.environ, "MYPYPATH": str(ROOT / "src")}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    ).stdout


@pytest.fixture(scope="module")
def diagnostics(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, str, str]]:
    """What Pyright, which editors use, reports: file, line, severity, message."""
    pytest.importorskip("basedpyright", reason="Pyright is not among the requirements of the tests")
    config = tmp_path_factory.mktemp("pyright") / "pyrightconfig.json"
    files = [str(HERE / "accepted.py"), str(HERE / "rejected.py")]
    config.write_text(json.dumps({"include": files, "extraPaths": [str(ROOT / "src")], "typeCheckingMode": "standard"}))
    command = [sys.executable, "-m", "basedpyright", "-p", str(config), "--pythonpath", sys.executable, "--outputjson"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return [
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["severity"], one["message"])
        for one in json.loads(done.stdout)["generalDiagnostics"]
    ]


def lines(path: Path, pattern: str) -> set[int]:
    return {number for number, line in enumerate(path.read_text().splitlines(), 1) if re.search(pattern, line)}


def test_every_public_name_has_a_type(report: str) -> None:
    revealed = dict(re.findall(r'accepted\.py:(\d+): note: Revealed type is "(.*)"', report))
    assert {int(line) for line in revealed} == lines(HERE / "accepted.py", r"^ +reveal_type\(")
    assert not [line for line, kind in revealed.items() if kind == "Any"]
    assert "accepted.py" not in re.sub(r".*note: .*", "", report)


def test_an_editor_sees_the_same(diagnostics: list[tuple[str, int, str, str]]) -> None:
    revealed = {line: text for name, line, kind, text in diagnostics if name == "accepted.py" and kind == "information"}
    assert {*revealed} == lines(HERE / "accepted.py", r"^ +reveal_type\(")
    assert [text for text in revealed.values() if re.search(r'is "(Any|Unknown)"$', text)] == []
    errors = {(name, line) for name, line, kind, _ in diagnostics if kind == "error"}
    assert errors == {("rejected.py", line) for line in lines(HERE / "rejected.py", r"# wrong$")}


def test_the_script_uses_every_public_name() -> None:
    """The names are those of the API snapshot: anyone who adds one adds a line to accepted.py."""
    tree = ast.parse((HERE / "accepted.py").read_text(encoding="utf-8"))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Attribute, ast.Name))}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rayline."):
            used |= {
                f"{str(node.module).removeprefix('rayline.')}.{alias.name}"
                for alias in node.names
                if alias.name in used
            }
    recorded = json.loads((ROOT / "tests" / "api_surface.json").read_text(encoding="utf-8"))
    names = {
        f"{module.removeprefix('rayline.').replace('rayline', 'rl')}.{name}"
        for module in recorded
        for name in recorded[module]
    }
    assert sorted(names - used) == []


@pytest.mark.parametrize("module", ["stages", "postprocess", "train", "tune", "evaluate", "data", "serve"])
def test_mistakes_are_planted_in_every_package(module: str) -> None:
    assert len(lines(HERE / "rejected.py", rf"^    .*\b{module}\.\w+\(.*# wrong$")) >= 4


def test_every_mistake_is_reported(report: str) -> None:
    errors = {int(line) for line in re.findall(r"rejected\.py:(\d+): error", report)}
    assert errors == lines(HERE / "rejected.py", r"# wrong$")


@pytest.mark.parametrize(
    "module", [rl, data, postprocess, serve, stages, train, tune], ids=lambda module: module.__name__
)
def test_star_imports_give_every_public_name(module: object) -> None:
    namespace: dict[str, object] = {}
    exec(f"from {module.__name__} import *", namespace)  # type: ignore[attr-defined]
    assert {*module.__all__} <= {*namespace}  # type: ignore[attr-defined]


def test_all_stages_are_exported() -> None:
    ours = {name for name in registry.stages() if registry.stage(name).__module__.startswith("rayline.stages")}
    assert ours <= {*stages.__all__}
