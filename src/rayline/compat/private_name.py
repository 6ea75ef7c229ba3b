"""The list of private names of other libraries."""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PrivateName:
    """A private name of another library.

    Attributes
    ----------
    path
        `module:attribute`; the attribute may have dots.
    seen
        The distribution and the version in which the name was last seen.
    use
        What Rayline uses it for.
    fallback
        What Rayline does when the name is missing.
    attributes
        Private attributes of its instances, or private parameters, that Rayline uses and no path leads to.
    since
        The first version that has the name; with an older one, which is allowed too, the fallback is what happens.
    """

    path: str
    seen: str
    use: str
    fallback: str
    attributes: tuple[str, ...] = ()
    since: str = ""

    def find(self) -> Any:
        """Return the object, or None when the installed version does not have it."""
        module, _, attributes = self.path.partition(":")
        try:
            return functools.reduce(getattr, attributes.split("."), importlib.import_module(module))
        except (ImportError, AttributeError):
            return None


PRIVATE_NAMES: list[PrivateName] = []


def register(path: str, seen: str, *attributes: str, use: str, fallback: str, since: str = "") -> PrivateName:
    """List a private name and return it."""
    name = PrivateName(path, seen, use, fallback, attributes, since)
    PRIVATE_NAMES.append(name)
    return name
