"""Names of the source: a class, or a public function of another meaning, is named once."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

SOURCE = sorted((Path(__file__).parents[1] / "src" / "rayline").rglob("*.py"))

SAME_MEANING = {
    "build": "what a description or its arguments name",
    "check": "raise an error unless what is given is right",
    "checked": "the argument in its one valid form",
    "compare": "two or more on the same rows",
    "decode": "the body of a request, in one protocol",
    "described": "a module with its description attached",
    "dumps": "as json.dumps",
    "encode": "the body of an answer, in one protocol",
    "fit": "train or learn from rows",
    "from_arrow": "a table of Arrow in another form",
    "from_pandas": "a table of pandas in another form",
    "html": "a page",
    "importance": "shares by name",
    "is_served": "a law of the contract suites, for two kinds of target",
    "is_tuned": "a law",
    "load": "what `save` wrote",
    "loads": "as json.loads",
    "objective": "what parameters say about the target",
    "of_features": "parameters that are set for each feature",
    "pack": "files as bytes",
    "placed": "a model on a device",
    "predicts_datasets": "a law",
    "quiet": "silence one library",
    "run": "until the search or the server ends",
    "save": "files of a model or a pipeline",
    "scheduler": "who stops trials early",
    "scores": "what a native model answers",
    "sign": "with a private key",
    "single_rows_are_the_table": "a law",
    "to_onnx": "a model as a graph of ONNX",
    "trains_on_workers": "a law",
    "unpack": "what `pack` made",
}
"""Names that functions of several modules have because they mean the same there."""


def definitions(path: Path, *, classes: bool) -> set[str]:
    """The classes of a file, also those in functions, or the public functions of the module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if classes:
        return {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) if not node.name.startswith("_")}


def named_twice(paths: Iterable[Path], *, classes: bool) -> dict[str, list[str]]:
    places: dict[str, list[str]] = {}
    for path in paths:
        for name in definitions(path, classes=classes):
            places.setdefault(name, []).append(str(path))
    return {name: found for name, found in places.items() if len(found) > 1}


def test_a_class_name_stands_once() -> None:
    assert named_twice(SOURCE, classes=True) == {}


def test_no_class_of_the_tests_has_the_name_of_one_of_the_source() -> None:
    own = set().union(*(definitions(path, classes=True) for path in SOURCE))
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        assert not own & definitions(path, classes=True), path


def test_functions_of_one_name_mean_the_same() -> None:
    assert named_twice(SOURCE, classes=False).keys() == SAME_MEANING.keys()


def test_names_that_stand_twice_are_found(tmp_path: Path) -> None:
    for name, code in (("a", "def f(): class_ = 1\nclass C: ..."), ("b", "def f():\n    class C: ...\ndef _g(): ...")):
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    paths = sorted(tmp_path.iterdir())
    assert named_twice(paths, classes=True).keys() == {"C"}
    assert named_twice(paths, classes=False).keys() == {"f"}
