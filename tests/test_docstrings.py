"""Every public name says what it takes, gives and raises, with shapes, units, nulls, sources and an example: the sections of its docstring."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from rayline.core.errors import RaylineError

MODULES = (
    "rayline",
    "rayline.data",
    "rayline.evaluate",
    "rayline.stages",
    "rayline.postprocess",
    "rayline.train",
    "rayline.tune",
    "rayline.serve",
    "rayline.testing",
)
OTHERS = {
    "rayline.onnx": ["to_onnx"],
    "rayline.mlflow": ["log_model", "load_model"],
    "rayline.sklearn": ["RaylineClassifier", "RaylineRegressor", "RaylineTransformer"],
}

SECTIONS = ("Parameters", "Attributes", "Returns", "Yields", "Raises", "Notes", "References", "Examples")

UNITS = {
    r".*_s|seconds": r"second",
    r".*_bytes|.*_size_bytes": r"\bbytes\b",
    r"batch_size|max_batch_size|.*_rows|rows_per_file": r"\b[Rr]ows\b",
    r"percentage|coverage|confidence|quantile|resample|test_size|ratio|threshold": r"share|between 0 and 1|relative|correlation|variance|probability|largest value",
}
"""Parameters whose number means nothing without its unit or range, and the words of which its description has one."""

DATA = {
    "data", "rows", "ds", "train_dataset", "test_dataset", "calibration_set", "table", "frame", "row", "X", "y", "paths",
}  # fmt: skip
"""Parameters that rows come in through: the text describes the handling of nulls."""
NULLS = re.compile(r"\b(nulls?|NaN|missing|None)\b", re.IGNORECASE)

SOURCE = re.compile(r"scikit-learn|pandas|NumPy|Ray Tune|winsorising|[(,]\s*(19|20)\d\d\)")
"""What names the method of a stage or splitter: a paper with its year, or the library whose function it is."""

OWN_METHOD = {
    "Categorizer", "CheckCategories", "CheckMissing", "CheckRange", "Concatenator", "DatetimeEncoder", "DropColumns", "DropRows", "Expression",
    "FunctionTransformer", "Ratio", "SelectColumns", "Tokenizer", "Clip", "Holdout", "Downsample", "Upsample",
}  # fmt: skip
"""Stages and splitters that follow no published method: their first sentences are the whole definition."""


# -- the public names ------------------------------------------------------------------------------------------------------


def public() -> Iterator[tuple[str, Any]]:
    seen = set[int]()
    for module in [*MODULES, *OTHERS]:
        try:
            loaded = importlib.import_module(module)
        except ImportError:  # an optional library
            continue
        for name in OTHERS.get(module) or loaded.__all__:
            found = getattr(loaded, name)
            if not inspect.isroutine(found) and not inspect.isclass(found):
                continue
            if not found.__module__.startswith("rayline") or id(found) in seen or issubclass_of(found, Exception):
                continue
            seen.add(id(found))
            yield f"{module}.{name}", found


def issubclass_of(found: Any, base: type) -> bool:
    return inspect.isclass(found) and issubclass(found, base)


NAMES = dict(public())


def function_of(member: Any) -> Any:
    if isinstance(member, (staticmethod, classmethod)):
        return member.__func__
    if isinstance(member, property):
        return member.fget
    return member.func if isinstance(member, functools.cached_property) else member


def members() -> Iterator[tuple[str, Any]]:
    """The public methods and properties of public classes where they are introduced: an override has the same contract."""
    seen = set[int]()
    for owner in NAMES.values():
        bases = (
            [base for base in inspect.getmro(owner) if base.__module__.startswith("rayline")]
            if inspect.isclass(owner)
            else []
        )
        for place, base in enumerate(bases):
            for own, member in vars(base).items():
                function = function_of(member)
                introduced = not any(own in vars(above) for above in bases[place + 1 :])
                if own.startswith("_") or not inspect.isfunction(function) or not introduced or id(function) in seen:
                    continue
                seen.add(id(function))
                yield f"{base.__module__}.{base.__qualname__}.{own}", member


MEMBERS = dict(members())
METHODS = {
    name: function_of(m) for name, m in MEMBERS.items() if not isinstance(m, (property, functools.cached_property))
}
DOCUMENTED = {**NAMES, **METHODS}


# -- their docstrings --------------------------------------------------------------------------------------------------------


def sections(found: Any) -> dict[str, str]:
    """The text of each section, and before them what the docstring begins with, under the name ""."""
    made, current = {"": ""}, ""
    lines = (inspect.getdoc(found) or "").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line in SECTIONS and re.fullmatch(r"-{3,}", below):
            current, made[line] = line, ""
        elif not (current and re.fullmatch(r"-{3,}", line)):
            made[current] += f"{line}\n"
    return made


def entries(section: str) -> dict[str, str]:
    """What a section says of each name: names are at the left margin, several of them with commas between."""
    made: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            names = [name.strip(" *") for name in line.split(" : ")[0].split(",")]
            made |= dict.fromkeys(names, "")
        for name in names:
            made[name] += f"{line.strip()} " if line.startswith(" ") else ""
    return made


def given(found: Any) -> list[inspect.Parameter]:
    """The parameters that a user passes by name."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    hidden = ("self", "cls", "learned") if inspect.isclass(found) else ("self", "cls")
    parameters = inspect.signature(found).parameters.values()
    return [p for p in parameters if p.name not in hidden and not p.name.startswith("_") and p.kind not in variadic]


def returned(found: Any) -> str:
    return "None" if inspect.isclass(found) else str(inspect.signature(found).return_annotation)


def raised(found: Any) -> set[str]:
    """The errors that its own body raises; of a class those of its constructor."""
    function = found if not inspect.isclass(found) else vars(found).get("__post_init__") or vars(found).get("__init__")
    function = inspect.unwrap(function) if function is not None else None
    if not inspect.isfunction(function):
        return set()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # a constructor that dataclasses made
        return set()
    names = {
        ast.unparse(node.exc).split("(")[0].split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and node.exc
    }
    return {name for name in names if name.endswith("Error")}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_parameters(name: str) -> None:
    found, said = DOCUMENTED[name], sections(DOCUMENTED[name])
    if inspect.isclass(found) and "Attributes" in said and "Parameters" not in said:
        return  # what a user does not construct (a result) describes its attributes
    described = entries(said.get("Parameters", ""))
    assert [p.name for p in given(found) if p.name not in described] == []


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if returned(DOCUMENTED[name]) != "None"])
def test_returns(name: str) -> None:
    said = sections(DOCUMENTED[name])
    text = said.get("Returns", "") + said.get("Yields", "")
    assert text, "a section Returns (or Yields)"
    if re.search(r"Array|Scores|FeatureContributions", returned(DOCUMENTED[name])):
        assert "hape" in text, "the shape of what is returned"
    if "DataFrame" in returned(DOCUMENTED[name]):
        assert re.search(r"\b[Rr]ow\b", text), "what a row of the table is"


@pytest.mark.parametrize("name", DOCUMENTED)
def test_raises(name: str) -> None:
    text = sections(DOCUMENTED[name]).get("Raises", "")
    assert [error for error in raised(DOCUMENTED[name]) if error not in text] == []


@pytest.mark.parametrize("name", [name for name, found in NAMES.items() if inspect.isclass(found)])
def test_refused_values_are_said(name: str) -> None:
    """Construct the class with nonsense for each parameter in turn: an error of ours has its place under Raises."""
    found, said = NAMES[name], sections(NAMES[name])
    if "Attributes" in said and "Parameters" not in said:
        return  # what a user does not construct
    text = said.get("Raises", "")
    refused = [refusal(found, parameter.name) for parameter in given(found)]
    wrong = {type(error).__name__ for error in refused if error is not None}
    assert [error for error in sorted(wrong) if error not in text] == []


def refusal(found: Any, parameter: str) -> RaylineError | None:
    try:
        found(**{parameter: _Nonsense()})
    except RaylineError as error:
        return error
    except Exception:  # another parameter is required
        return None
    return None


class _Nonsense:
    """No value of any parameter."""


@pytest.mark.parametrize("name", NAMES)
def test_examples(name: str) -> None:
    assert ">>>" in sections(NAMES[name]).get("Examples", "")


@pytest.mark.parametrize("name", MEMBERS)
def test_members_are_described(name: str) -> None:
    assert sections(MEMBERS[name])[""].strip()


def test_units() -> None:
    lacking = []
    for name, found in DOCUMENTED.items():
        said = sections(found)
        for parameter, text in {**entries(said.get("Parameters", "")), **entries(said.get("Attributes", ""))}.items():
            for pattern, words in UNITS.items():
                if (
                    re.fullmatch(pattern, parameter)
                    and not re.search(words, text)
                    and not re.match(r"As in|As for|Those", text)
                ):
                    lacking.append(f"{name}: {parameter}")
    assert lacking == []


@pytest.mark.parametrize("name", [name for name, found in DOCUMENTED.items() if {p.name for p in given(found)} & DATA])
def test_nulls(name: str) -> None:
    assert NULLS.search(inspect.getdoc(DOCUMENTED[name]) or "")


STEPS = [
    name
    for name in NAMES
    if name.startswith(("rayline.stages.", "rayline.postprocess.")) and inspect.isclass(NAMES[name])
]


@pytest.mark.parametrize("name", STEPS)
def test_nulls_of_stages(name: str) -> None:
    assert NULLS.search("".join(text for key, text in sections(NAMES[name]).items() if key != "Examples"))


@pytest.mark.parametrize(
    "name", [*STEPS, *(name for name in NAMES if re.search(r"(Fold|Split|Bootstrap|Holdout|Population)$", name))]
)
def test_sources(name: str) -> None:
    text = "".join(text for key, text in sections(NAMES[name]).items() if key != "Examples")
    assert (name.rpartition(".")[2] in OWN_METHOD) != bool(SOURCE.search(text))
