"""Names and sentences: a name stands for one concept, and words that a reader would have to look up are refused."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = sorted((ROOT / "src" / "rayline").rglob("*.py"))

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

USUAL_NAMES = {
    "acted": "action_space",
    "acts": "generates_own_data",
    "answers": "results, statistics, predictions",
    "asked": "requested, request",
    "become": "store_fit",
    "beside": "excluded_columns",
    "changes_rows": "resamples",
    "elsewhere": "the place itself",
    "for_few_rows": "single_row_view",
    "found": "what it holds: result, table, metrics, …",
    "gone": "removed, lost_node",
    "journal": "store",
    "keeper": "cache_actor",
    "keeps": "keep_input",
    "least": "min_…",
    "loses": "lossy_reason",
    "made": "what it holds: result, columns, plots, …",
    "most": "max_…, limit",
    "needs_test": "validation_argument",
    "own": "what it holds: statistics, metrics, columns, …",
    "patience_s": "wait_timeout_s",
    "peers": "worker_addresses",
    "questions": "column_requests",
    "said": "message",
    "setting_aside": "without_targets",
    "shelf": "shared",
    "tally": "counts",
    "thing": "value, object",
    "told": "message, received",
    "told_apart": "unique_row_key",
    "watched": "log_train_metrics",
}
"""Names that say nothing to a reader, each with the usual one. No module, class, function, attribute, parameter or variable has one."""

USUAL_PREFIXES = {"least_": "min_", "most_": "max_"}
USUAL_ENOUGH = {"most_frequent", "most_likely"}

USUAL_PHRASES = {
    r"(told|tells?) ((\w+ )?\w+ )?apart": "distinguish",
    r"hangs? on (the|its|what|how|who)": "depends on",
    r"a stranger": "untrusted, an attacker",
    r"experience itself": "generates its own data",
    r"in one go": "at once",
    r"lets? go of|let go\b": "drop, release",
    r"(goes|go|went) away": "is removed",
    r"what (becomes|became|came) of": "the result, the outcome",
    r"\bnobody\b": "no user, no other work",
    r"\bwhoever\b": "a user who, anyone who",
    r"for ever\b": "forever, without end",
    r"\banew\b": "again",
    r"\bway back\b": "the inverse",
    r"that there (is|are) not": "that does not exist",
    r"than (it|they) says?\b": "than declared",
    r"\bfit together": "are consistent",
    r"\btruth values?\b": "boolean",
    r"stands? above": "is shown above",
    r"no form in (ONNX|Polars)": "cannot be exported, cannot be represented",
    r"kept aside": "held back",
    r"\bhears of\b": "gets",
    r"\bhardly\b": "barely, rarely, little",
    r"search for cycles": "garbage collection",
    r"however many run": "for any number of",
    r"as it is told": "as configured",
    r"what is known of": "the metrics, the metadata",
    r"library.s own words": "argument",
    r"by (its|their) places?\b": "by index, by position",
}
"""Phrases that are not plain technical English, each with usual ones. No docstring, comment, message or page contains one."""

ANY_PHRASE = re.compile("|".join(USUAL_PHRASES), re.IGNORECASE)


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


def names_of(tree: ast.AST) -> set[str]:
    """Every name that code defines: classes, functions, parameters, variables and attributes."""
    names = {
        node.name for node in ast.walk(tree) if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
    }
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


def unusual_names(names: Iterable[str]) -> dict[str, str]:
    """The names for which there is a usual one; a leading underscore and the case do not matter."""
    refused = {}
    for name in names:
        plain = name.lstrip("_").lower()
        prefix = next((p for p in USUAL_PREFIXES if plain.startswith(p) and plain not in USUAL_ENOUGH), None)
        if plain in USUAL_NAMES or prefix:
            refused[name] = USUAL_NAMES.get(plain) or USUAL_PREFIXES[str(prefix)]
    return refused


def pages() -> list[Path]:
    """Every page for readers, and the source: whose docstrings, comments and messages are sentences, too."""
    docs = [path for path in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in path.parts]
    tests = [path for path in sorted((ROOT / "tests").rglob("*.py")) if path != Path(__file__)]
    return [
        *docs,
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
        *SOURCE,
        *tests,
    ]


def unusual_phrases(text: str) -> list[tuple[int, str, str]]:
    """The line of each refused phrase, the phrase, and what to write instead; code in backticks does not count."""
    if not ANY_PHRASE.search(text):
        return []
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        plain = re.sub(r"`[^`]*`", "", line)
        for phrase, usual in USUAL_PHRASES.items():
            found += [(number, match.group(), usual) for match in re.finditer(phrase, plain, re.IGNORECASE)]
    return found


def test_names_are_usual() -> None:
    for path in SOURCE:
        names = {path.stem, *names_of(ast.parse(path.read_text(encoding="utf-8")))}
        assert unusual_names(names) == {}, path


def test_sentences_are_plain() -> None:
    refused = [
        f"{p.relative_to(ROOT)}:{found}" for p in pages() for found in unusual_phrases(p.read_text(encoding="utf-8"))
    ]
    assert not refused, "\n".join(refused)


def test_unusual_names_and_phrases_are_found() -> None:
    code = "def keeps(beside): self._found = [most_bytes for most_frequent in beside]"
    assert unusual_names(names_of(ast.parse(code))).keys() == {"keeps", "beside", "_found"}
    assert unusual_names(["most_bytes", "LEAST_SHARE", "most_frequent"]) == {
        "most_bytes": "max_",
        "LEAST_SHARE": "min_",
    }
    assert unusual_phrases("fine\nRows are told apart; `nobody` is code.") == [(2, "told apart", "distinguish")]
