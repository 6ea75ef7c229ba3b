"""What documents, docstrings and comments cite is there: files, modules and names of Rayline, decisions, targets of make."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ""}
"""Suffixes of files that cite."""

WRITTEN_LATER = ("dist/", "model/", "rayline-1.2.0/")
"""Folders that a release or a test makes, relative to a folder of its own."""

FILE = re.compile(r"(?<![\w/.:-])((?:[\w.-]+/)+[\w.-]+\.(?:py|md|toml|json|ipynb|yaml|sh|css))\b")
BARE_FILE = re.compile(r"(?<![\w/.-])(test_\w+\.py)\b")
NAME = re.compile(r"(?<![\w./-])(rayline(?:\.[A-Za-z_]\w*)+)(?![\w/-])")
DECISION = re.compile(r"\bdecisions?[ /](\d{4})\b")
TARGET = re.compile(r"`make ([a-z][\w-]*)")

NO_NAMES = {
    "rayline.css",  # a file
    "rayline.checks",  # a logger
    "rayline.pipeline",  # formats of saved files
    "rayline.preprocessor",
    "rayline.gpu",  # what decision 0030 rejects
    "rayline.register_",  # the beginning of a name
}
"""What looks like a name and is none."""


@cache
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]


def texts() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        if path.suffix in TEXT and path.name not in ("CHANGELOG.md", Path(__file__).name):
            yield path, path.read_text(encoding="utf-8", errors="replace")


def cited(pattern: re.Pattern[str]) -> Iterator[tuple[str, Path, str]]:
    for path, text in texts():
        for match in pattern.finditer(text):
            yield f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}", path, match[1]


def test_files() -> None:
    places = [ROOT, ROOT / "src", ROOT / "src" / "rayline", ROOT / "tests", ROOT / "docs"]
    absent = [
        f"{where}: {name}"
        for where, path, name in cited(FILE)
        if not any((place / name).exists() for place in [*places, path.parent]) and not name.startswith(WRITTEN_LATER)
    ]
    assert absent == []


def test_test_files() -> None:
    names = {path.name for path in tracked()}
    assert [f"{where}: {name}" for where, _, name in cited(BARE_FILE) if name not in names] == []


def resolves(name: str) -> bool:
    """Whether a dotted name is a module of Rayline, or an attribute of one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            target = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            if (ROOT / "src").joinpath(*parts[:n]).with_suffix(".py").exists():
                return True  # the module needs a library that is not installed here
            continue
        for part in parts[n:]:
            if not hasattr(target, part):
                return part in getattr(target, "__annotations__", {})
            target = getattr(target, part)
        return True
    return False


def test_names() -> None:
    absent: dict[str, str] = {}
    for where, _, name in cited(NAME):
        if name not in {*absent, *NO_NAMES} and not resolves(name):
            absent[name] = where
    assert absent == {}


def test_decisions() -> None:
    numbers = {path.name[:4] for path in (ROOT / "docs" / "decisions").glob("*.md")}
    assert [f"{where}: {number}" for where, _, number in cited(DECISION) if number not in numbers] == []


def test_targets_of_make() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert [f"{where}: make {name}" for where, _, name in cited(TARGET) if name not in targets] == []


def patched() -> Iterator[tuple[str, str]]:
    """The attributes of Rayline's modules and classes that tests replace by `monkeypatch.setattr(owner, "name", …)`."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        known: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rayline"):
                known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Import):
                known |= {
                    alias.asname or alias.name: alias.name for alias in node.names if alias.name.startswith("rayline")
                }
        for node in ast.walk(tree):
            if not (
                isinstance(node, ast.Call) and ast.unparse(node.func) == "monkeypatch.setattr" and len(node.args) > 2
            ):
                continue
            owner, name = ast.unparse(node.args[0]), node.args[1]
            new = any(keyword.arg == "raising" for keyword in node.keywords)
            if owner in known and isinstance(name, ast.Constant) and not new:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", f"{known[owner]}.{name.value!s}"


def test_patched_names() -> None:
    assert [f"{where}: {name}" for where, name in patched() if not resolves(name)] == []
