"""The public names of a package, each imported when it is first used.

The stub beside the package's `__init__.py` says where each name is defined. It is the only list of them: type checkers and editors read it,
and so does the package, a line at a time.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Import modules without searching them for garbage again and again, which takes a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def public_names(package: str) -> tuple[list[str], Callable[[str], Any]]:
    """Return the names that the stub of a package imports, sorted, and the package's `__getattr__`, which imports one."""
    stub = (pkgutil.get_data(package, "__init__.pyi") or b"").decode()
    imports = [line.split() for line in stub.splitlines() if line.startswith("from ")]
    modules = {name: module for _, module, _, name, *_ in imports}  # `from module import name as name`, one a line

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with without_garbage_collection():
            if modules[name] == package:
                return importlib.import_module(f"{package}.{name}")
            return getattr(importlib.import_module(modules[name]), name)

    return sorted(modules), load
