"""The public names of a package, each imported when it is first used.

The stub beside the package's `__init__.py` says where each name is defined. It is the only list of them: type checkers and editors read it,
and so does the package.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any


def public_names(package: str) -> tuple[list[str], Callable[[str], Any]]:
    """Return the names that the stub of a package imports, sorted, and the package's `__getattr__`, which imports one."""
    stub = ast.parse(pkgutil.get_data(package, "__init__.pyi") or b"")
    imports = [statement for statement in stub.body if isinstance(statement, ast.ImportFrom)]
    modules = {name.name: str(statement.module) for statement in imports for name in statement.names}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if modules[name] == package:
            return importlib.import_module(f"{package}.{name}")
        return getattr(importlib.import_module(modules[name]), name)

    return sorted(modules), load
