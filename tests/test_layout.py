"""The layout of the packages: which module may import which (see CONTRIBUTING.md), read from the source and tried out."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
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
    "device": {"core"},
    "engine": {"core"},
    "data": {"core"},
    "preprocessing": {"core", "data"},
    "postprocess": {"core"},
    "inference": {"core", "data", "preprocessing", "postprocess"},
    "evaluate": {"core", "data", "preprocessing", "postprocess", "inference"},
    "train": {"core", "data", "preprocessing", "postprocess", "inference", "evaluate"},
    "tune": {"core", "data", "preprocessing", "postprocess", "inference", "evaluate", "train"},
    "serve": {"core", "data", "preprocessing", "postprocess", "inference"},
}
"""For each package the packages of ours that it may import besides itself. The others (cli, testing, sklearn) may import all."""

SEPARATE = {"stages", "frameworks", "engine"}
"""Packages whose files do not import one another: they are reached through the registry."""

RAY_ENGINE = {
    f"rayline.engine.{name}"
    for name in (
        "ray",
        "session",
        "tasks",
        "reading",
        "reservation",
        "training_rows",
        "blocks",
        "small_blocks",
        "kept_rows",
        "object_refs",
        "group",
        "group_cleaner",
        "actor_pool",
        "pool_actor",
        "idle_worker",
        "holders",
        "worker_group",
        "kept_groups",
        "workers",
        "placement",
        "nodes",
        "checkpoints",
        "train_backend",
        "train_supervisor",
        "train_worker",
    )
}
"""The files of one engine, which import one another."""

TORCH = {
    f"rayline.frameworks.{name}"
    for name in (
        "torch",
        "torch_device",
        "torch_file",
        "torch_loop",
        "torch_losses",
        "torch_modules",
        "torch_rows",
        "torch_lightning",
        "torch_onnx",
        "horovod",
    )
}
"""The adapters of what trains PyTorch modules: one way of making, saving and predicting them."""

RLLIB = {
    f"rayline.frameworks.{name}"
    for name in ("rllib", "rllib_file", "rllib_modules", "rllib_training", "rllib_settings")
}
"""The adapter of RLlib, and its policies as data."""

TORCH_DEVICE = "rayline.frameworks.torch_device"
"""Modules and batches on a device: every adapter whose models are PyTorch's may use it."""

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
    "lightgbm": {"lightgbm", "lightgbm_params", "lightgbm_dataset", "lightgbm_metrics"},
    "catboost": {"catboost"},
    "skops": {"sklearn"},
    "torch": {
        "torch",
        "verify.module_size",
        "torch_device",
        "torch_file",
        "torch_loop",
        "torch_losses",
        "torch_modules",
        "torch_rows",
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


PLUGINS = {"rayline.core.registry": ("Stage", "Framework", "Engine", "PipelineMethod")}
"""The module that names others in strings without depending on them: implementations of these contracts of core, by id."""

IMPORT_BY_NAME = {
    *PLUGINS,
    "rayline.core.lazy_names",  # those that the stub of a package imports
    "rayline.evaluate",
    "rayline.cli",  # modules that the user names
    "rayline.compat.private_name",  # modules of other libraries
    "rayline.frameworks.rllib_file",  # classes of RLlib
}
"""Modules that may import a module whose name is in a string."""


def imports(path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Every imported module, also those imported in a function or for type checking only, unless `top_level`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            assert node.module
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (name if name in MODULES else node.module for name in sorted(names))


def named_in_strings(path: Path) -> Iterator[tuple[str, str]]:
    """Every module of ours that a string names, alone or as "module:attribute", and the attribute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            module, _, attribute = node.value.partition(":")
            if module in MODULES:
                yield module, attribute


def package(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    own = package(module)
    allowed = MAY_IMPORT.get(own)
    for name in imports(MODULES[module]):
        if not name.startswith("rayline.") or allowed is None or own == "":
            continue
        other = package(name)
        if other == "compat":  # private names of other libraries; it imports nothing of ours
            continue
        if other == "device" and own != "core":  # it imports core alone
            continue
        of_one = name.startswith(f"{module}_")  # an adapter and what is its library's alone: parameters, a file's check
        together = (
            of_one
            or {module, name} <= RAY_ENGINE
            or {module, name} <= TORCH
            or {module, name} <= RLLIB
            or (name.startswith(VERIFY) and own == "frameworks")
            or (name == TORCH_DEVICE and "torch" in imports(MODULES[module]))
            or (other == own and own not in SEPARATE)
            or name.startswith(f"{module}.")  # a package's names, for type checkers
        )
        assert other in allowed or together or name == module, (
            f"{module} imports {name}; {own} may import {sorted(allowed)} only"
        )


COMPAT = [module for module in MODULES if package(module) == "compat"]


# ray_footers holds a class of Ray Data's; compat.ray imports it in a function.
@pytest.mark.parametrize("module", [module for module in COMPAT if module != "rayline.compat.ray_footers"])
def test_compat_imports_libraries_in_functions_only(module: str) -> None:
    assert not [name for name in imports(MODULES[module], top_level=True) if name.partition(".")[0] in HEAVY]


@pytest.mark.parametrize("module", [module for module in MODULES if module not in COMPAT])
def test_libraries_are_imported_in_their_place(module: str) -> None:
    for name in imports(MODULES[module]):
        root = name.partition(".")[0]
        assert (
            not any(part.startswith("_") and not part.startswith("__") for part in name.split(".")) or root == "rayline"
        ), f"{module} imports {name}: private names of other libraries belong in rayline.compat"
        if root == "ray":
            # An adapter of something that is itself made on Ray (RLlib, Lightning's strategy) is its place too.
            assert module in RAY or package(module) in ("tune", "frameworks"), f"{module} imports {name}"
        if root in ONE_PLACE:
            places = {f"rayline.frameworks.{place}" for place in ONE_PLACE[root]}
            assert module in places, f"{module} imports {name}, which belongs into {sorted(places)}"


def import_graph() -> dict[str, set[str]]:
    """For each module the modules of ours that it imports, at any time, for types only, or by a name in a string."""
    graph = {}
    for module, path in MODULES.items():
        by_name: set[str] = set()
        if module in IMPORT_BY_NAME - {*PLUGINS}:
            by_name = {name for name, _ in named_in_strings(path)}
        graph[module] = ({name for name in imports(path) if name in MODULES} | by_name) - {module}
    return graph


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of more than one node that all reach one another."""

    def reached(start: str) -> set[str]:
        seen, left = set[str](), [start]
        while left:
            for name in graph[left.pop()] - seen:
                seen.add(name)
                left.append(name)
        return seen

    below = {name: reached(name) for name in graph}
    together = {name: frozenset(other for other in below[name] if name in below[other]) for name in graph}
    return [set(members) for members in {*together.values()} if members]


def test_no_cycles() -> None:
    assert cycles(import_graph()) == []


def test_cycles_are_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]
    assert cycles({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize("module", MODULES)
def test_modules_are_imported_by_name_in_few_places_only(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if called & {"importlib.import_module", "import_module", "__import__"}:
        assert module in IMPORT_BY_NAME, f"{module} imports a module by a name in a string"


@pytest.mark.parametrize("module", PLUGINS)
def test_the_registry_names_implementations_of_contracts_only(module: str) -> None:
    for name, attribute in named_in_strings(MODULES[module]):
        if not attribute:  # the name of a group of entry points
            continue
        tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
        found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == attribute]
        assert found, f"{name}:{attribute} is no class"
        assert found[0].bases, f"{name}:{attribute} implements none of {PLUGINS[module]}"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = ("ray", "pandas", "sklearn", "scipy", "fastapi", *ONE_PLACE)


@pytest.mark.parametrize(
    "module",
    [
        "rayline",
        "rayline.data",
        "rayline.stages",
        "rayline.core.framework",
        "rayline.preprocessing.preprocessor",
        "rayline.train",
        "rayline.tune",
    ],
)
def test_import_loads_neither_ray_nor_a_framework(module: str) -> None:
    loaded = run(f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded.strip() == "[]"


def test_a_pipeline_is_loaded_without_the_splits() -> None:
    code = (
        "import sys, rayline.inference.artifact; print([m for m in sys.modules if m.startswith('rayline.data.split')])"
    )
    assert run(code).strip() == "[]"


def test_import_loads_next_to_nothing() -> None:
    code = "import sys; before = {*sys.modules}; import rayline; print(sorted(m.partition('.')[0] for m in {*sys.modules} - before))"
    loaded = ast.literal_eval(run(code))
    assert loaded.count("rayline") < 10
    assert {*loaded} - {"rayline"} <= {*sys.stdlib_module_names}


PLACES: dict[str, int] = {}
"""Parameters and fields `where: str` that a package may have: none (`core.errors.at` names the place of an error)."""

WRONG_NAMES = {"value": 3, "dtype": 3, "unknown": 3, "absent": 2, "missing": 2}
"""Named constructors of errors, and how many arguments go without a keyword; the place is no argument."""


def places(path: Path) -> int:
    """How many parameters of functions and fields of classes are called `where` and are strings."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = [node.annotation for node in nodes if isinstance(node, ast.arg) and node.arg == "where"]
    fields = [node for node in nodes if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "where"]
    return sum(annotation is not None and "str" in ast.unparse(annotation) for annotation in found) + sum(
        ast.unparse(field.annotation) == "str" for field in fields
    )


def test_the_place_of_an_error_is_context() -> None:
    found = Counter[str]()
    for module, path in MODULES.items():
        if module != "rayline.core.errors":
            found[package(module)] += places(path)
    assert {name: n for name, n in found.items() if n > PLACES.get(name, 0)} == {}, "use core.errors.at"


@pytest.mark.parametrize("module", MODULES)
def test_errors_are_built_with_the_arguments_that_they_take(module: str) -> None:
    for call in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            of_error = ast.unparse(call.func.value).endswith("Error")
            assert not of_error or len(call.args) <= WRONG_NAMES.get(call.func.attr, len(call.args)), (
                f"{module}, line {call.lineno}: the place is no argument; core.errors.at names it, or where="
            )


SCREEN = 40
"""Lines of a function's body, without its docstring, that fit on a screen."""

MOST_LONGER, LONGEST = 1, 45
"""How many functions are longer, and the lines of the longest: may become fewer, never more."""


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    code = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    return function.end_lineno - code[0].lineno + 1 if code and function.end_lineno is not None else 0


def test_functions_fit_on_a_screen() -> None:
    longer = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and body_lines(node) > SCREEN:
                longer[f"{module}.{node.name}"] = body_lines(node)
    assert len(longer) <= MOST_LONGER, f"longer than {SCREEN} lines: {sorted(longer.items(), key=lambda item: item[1])}"
    assert max(longer.values(), default=0) <= LONGEST
