"""The trainer classes against the adapters whose arguments they write out."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

from rayline import train
from rayline.core import registry
from rayline.core.errors import MissingExtraError
from rayline.train import trainers

CLASSES = {cls.framework_id: cls for cls in vars(trainers).values() if hasattr(cls, "framework_id")}


def written_out(cls: type) -> list[str]:
    """The parameters of the constructor that type checkers see."""
    tree = ast.parse(Path(trainers.__file__).read_text(encoding="utf-8"))
    bodies = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for base in cls.__mro__:
        for node in ast.walk(bodies[base.__name__]):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return [argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]][1:]
    raise AssertionError(cls)


def test_every_framework_of_ours_has_a_trainer() -> None:
    assert {*CLASSES} == {*registry.frameworks()} & {*registry.own_frameworks()} - {"ensemble", "stack"}
    assert all(getattr(train, cls.__name__) is cls for cls in CLASSES.values())


@pytest.mark.parametrize("framework", CLASSES)
def test_the_arguments_are_those_of_the_adapter(framework: str) -> None:
    try:
        adapter = registry.framework(framework)
    except MissingExtraError:
        pytest.skip(f"{framework} is not installed")
    assert written_out(CLASSES[framework]) == list(inspect.signature(adapter.train).parameters)[1:]


def test_the_options_are_those_of_trainer() -> None:
    parameters = inspect.signature(train.Trainer.__init__).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert list(trainers.TrainerOptions.__annotations__) == keywords
