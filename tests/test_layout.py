"""The rooms of the house: which module may import which (see CONTRIBUTING.md), read from the source and tried out."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "rayline"
MODULES = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}

MAY_IMPORT = {
    "core": {"core"},
    "stages": {"core"},
    "frameworks": {"core"},
    "compat": set(),
    "engine": {"core"},
    "data": {"core"},
    "preprocessing": {"core", "data"},
    "inference": {"core", "data", "preprocessing"},
    "train": {"core", "data", "preprocessing", "inference"},
    "tune": {"core", "data", "preprocessing", "inference", "train"},
    "serve": {"core", "data", "preprocessing", "inference"},
}
"""For each package the packages of ours that it may import besides itself. Others (cli, testing, sklearn) stand above all."""

SEPARATE = {"stages", "frameworks", "engine"}
"""Packages whose files do not import one another: they are reached through the registry."""

RAY_ENGINE = {
    f"rayline.engine.{name}"
    for name in ("ray", "session", "blocks", "object_refs", "group", "workers", "placement", "checkpoints")
}
"""The files of one engine, which import one another."""

TORCH = {
    f"rayline.frameworks.{name}"
    for name in ("torch", "torch_file", "torch_loop", "torch_modules", "torch_lightning", "torch_onnx", "horovod")
}
"""The adapters of what trains PyTorch modules: one way of making, saving and predicting them."""

RLLIB = {
    f"rayline.frameworks.{name}"
    for name in ("rllib", "rllib_file", "rllib_modules", "rllib_training", "rllib_settings")
}
"""The adapter of RLlib, and its policies as data."""

VERIFY = "rayline.frameworks.verify."
"""Checks of untrusted model files: every adapter may use them, and they may use one another."""

RAY = {
    *RAY_ENGINE,
    *(f"rayline.serve.{name}" for name in ("deployment", "replica", "model_store", "ingress")),
    "rayline.data.read",
}
"""Modules that may import ray; and everything in rayline.tune."""

ONE_PLACE = {
    "xgboost": {"xgboost", "xgboost_params", "xgboost_matrix", "xgboost_metrics", "xgboost_predict"},
    "lightgbm": {"lightgbm", "lightgbm_metrics"},
    "catboost": {"catboost"},
    "skops": {"sklearn"},
    "torch": {
        "torch",
        "verify.module_size",
        "torch_file",
        "torch_loop",
        "torch_modules",
        "torch_lightning",
        "torch_onnx",
        "huggingface",
        "huggingface_trainer",
        "horovod",
        "rllib_modules",
    },
    "transformers": {"huggingface", "huggingface_file", "huggingface_trainer"},
    "accelerate": {"huggingface"},
    "lightning": {"torch_lightning"},
    "horovod": {"horovod"},
    "gymnasium": {"rllib", "rllib_file", "rllib_modules", "rllib_settings"},
}
"""Libraries of frameworks, and the files of rayline.frameworks that may import them."""


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every imported module, and whether it is imported when this module is (not in a function, not for types only)."""

    def visit(node: ast.AST, eager: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module
            found = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from ((name if name in MODULES else node.module, eager) for name in sorted(found))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                yield from visit(child, eager)
        else:
            inside = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for child in ast.iter_child_nodes(node):
                yield from visit(child, eager and not inside)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), True)


def package(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    own = package(module)
    allowed = MAY_IMPORT.get(own)
    for name, _ in imports(MODULES[module]):
        if not name.startswith("rayline.") or allowed is None or own == "":
            continue
        other = package(name)
        if other == "compat":  # private names of other libraries; it imports nothing of ours
            continue
        of_one = name.startswith(f"{module}_")  # an adapter and what is its library's alone: parameters, a file's check
        together = (
            of_one
            or {module, name} <= RAY_ENGINE
            or {module, name} <= TORCH
            or {module, name} <= RLLIB
            or (name.startswith(VERIFY) and own == "frameworks")
            or (other == own and own not in SEPARATE)
        )
        assert other in allowed or together or name == module, (
            f"{module} imports {name}; {own} may import {sorted(allowed)} only"
        )


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_imported_in_their_place(module: str) -> None:
    if module == "rayline.compat":  # any library, in its functions only
        assert not [name for name, eager in imports(MODULES[module]) if eager and name.partition(".")[0] in HEAVY]
        return
    for name, _ in imports(MODULES[module]):
        root = name.partition(".")[0]
        assert (
            not any(part.startswith("_") and not part.startswith("__") for part in name.split(".")) or root == "rayline"
        ), f"{module} imports {name}: private names of other libraries stand in rayline.compat"
        if root == "ray":
            # An adapter of something that is itself made on Ray (RLlib, Lightning's strategy) is its place too.
            assert module in RAY or package(module) in ("tune", "frameworks"), f"{module} imports {name}"
        if root in ONE_PLACE:
            places = {f"rayline.frameworks.{place}" for place in ONE_PLACE[root]}
            assert module in places, f"{module} imports {name}, which belongs into {sorted(places)}"


def refuse_cycles(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " → ".join([*above, module])
        if module not in done:
            for name in graph[module]:
                visit(name, (*above, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_no_cycles() -> None:
    refuse_cycles(
        {
            module: {name for name, eager in imports(path) if eager and name in MODULES}
            for module, path in MODULES.items()
        }
    )


@pytest.mark.parametrize("name", ["train"])
def test_no_cycles_inside_a_package_even_for_types(name: str) -> None:
    inside = {module: path for module, path in MODULES.items() if module.startswith(f"rayline.{name}.")}
    graph: dict[str, set[str]] = {}
    for module, path in inside.items():
        tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        found = [node for node in tree if isinstance(node, ast.ImportFrom) and node.module]
        names = {f"{node.module}.{alias.name}" for node in found for alias in node.names}
        graph[module] = {other for other in names | {str(node.module) for node in found} if other in inside}
    refuse_cycles(graph)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = ("ray", "pandas", "sklearn", "scipy", "fastapi", *ONE_PLACE)


@pytest.mark.parametrize(
    "module",
    ["rayline", "rayline.data", "rayline.stages", "rayline.core.framework", "rayline.preprocessing.preprocessor"],
)
def test_import_loads_neither_ray_nor_a_framework(module: str) -> None:
    loaded = run(f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_import_is_quick() -> None:
    code = "import time; t = time.perf_counter(); import rayline; print(time.perf_counter() - t)"
    assert min(float(run(code)) for _ in range(3)) < 0.2
