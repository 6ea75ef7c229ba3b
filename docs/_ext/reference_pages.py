"""Writes a page for every public name before the pages are read: reference/api/<module>.rst and <module>.<name>.rst.

What is public is what the modules say: `rayline.__all__`, and the `__all__` of each module in it; an object has one page, under the
first name that it is found by.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import rayline

SEPARATE = ("rayline.sklearn", "rayline.onnx", "rayline.mlflow", "rayline.device")
"""Public modules that `import rayline` does not name, because each needs a library of its own."""


def modules() -> Iterator[tuple[str, types.ModuleType]]:
    yield "rayline", rayline
    for name in rayline.__all__:
        found = getattr(rayline, name)
        if isinstance(found, types.ModuleType) and hasattr(found, "__all__"):
            yield found.__name__, found
    for name in SEPARATE:
        try:
            yield name, importlib.import_module(name)
        except ImportError:  # its library is not installed, or there is no such module in this version
            continue


def names(module: types.ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    if listed is None:
        listed = [
            n for n, v in vars(module).items() if not n.startswith("_") and getattr(v, "__module__", "") == module.__name__
        ]  # fmt: skip
    return [n for n in listed if not isinstance(getattr(module, n), types.ModuleType)]


def public() -> dict[str, dict[str, Any]]:
    """Modules with their names and objects."""
    return {where: {name: getattr(module, name) for name in sorted(names(module), key=str.lower)}
            for where, module in modules()}  # fmt: skip


def first_sentence(found: Any) -> str:
    text = " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".") if inspect.isclass(found) or callable(found) else ""


def write(app: Sphinx) -> None:
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    pages: dict[str, str] = {}
    homes: dict[int, str] = {}
    for where, found in public().items():
        for name, value in found.items():
            if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__.startswith("rayline"):
                homes.setdefault(id(value), f"{where}.{name}")
    for where, found in public().items():
        lines = [where, "=" * len(where), "", f".. currentmodule:: {where}", "", *_introduction(where), ""]
        lines += [".. list-table::", "   :widths: 32 68", ""]
        own = []
        for name, value in found.items():
            home = homes.get(id(value))
            shown = f":doc:`{name} <{home}>`" if home else f"``{name}``"
            source = getattr(value, "__module__", "") or ""
            about = first_sentence(value) if home else f"As in ``{source}``"
            lines += [f"   * - {shown}", f"     - {about}"]
            if home == f"{where}.{name}":
                own.append(home)
                pages[home] = _page(home, value)
        pages[where] = "\n".join([*lines, "", ".. toctree::", "   :hidden:", "", *(f"   {page}" for page in own), ""])
    title = "Public names"
    listed = [f"   {where}" for where in pages if where in {m for m, _ in modules()}]
    pages["index"] = "\n".join([title, "=" * len(title), "", "Every public name, by module.", "", ".. toctree::", "   :maxdepth: 1", "",
                                *listed, ""])  # fmt: skip
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # an unchanged page is not read again
            path.write_text(text, encoding="utf-8")
    for path in folder.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()


def _introduction(where: str) -> list[str]:
    return inspect.cleandoc(importlib.import_module(where).__doc__ or "").split("\n")


def _page(name: str, value: Any) -> str:
    title = name.removeprefix("rayline.")
    kind = "autofunction"
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, Exception) else "autoclass"
    lines = [title, "=" * len(title), "", f".. {kind}:: {name}"]
    if kind == "autoclass":
        bases = [b.__name__ for b in value.__mro__ if not b.__module__.startswith("rayline")]
        lines += ["   :members:", f"   :inherited-members: {', '.join(bases)}"]
        others = [n for n in dir(value) if not n.startswith("_") and _is_of_others(getattr(value, n, None))]
        lines += [f"   :exclude-members: {', '.join(others)}"] if others else []
    return "\n".join([*lines, ""])


def _is_of_others(member: Any) -> bool:
    """Whether a method comes from another library (scikit-learn puts its own onto estimators)."""
    return inspect.isroutine(member) and not (getattr(member, "__module__", None) or "rayline").startswith("rayline")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
