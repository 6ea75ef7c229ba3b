"""The deprecation policy: a deprecated name warns for at least one minor version and names its replacement.

A name that is deprecated in version 0.4 may be removed in 0.6 at the earliest. `tests/core/test_deprecation.py` fails when
the version reaches `removal`, so that no deprecated name stays by mistake.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

DEPRECATED: dict[str, str] = {}
"""Maps the qualified name of every deprecated function to the version that removes it."""


def deprecated(*, since: str, removal: str, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function or a constructor as deprecated: a call warns with FutureWarning and works as before.

    Parameters
    ----------
    since, removal
        The versions that deprecate it and that remove it, such as "0.4.0".
    instead
        The replacement, as the user types it.

    Examples
    --------
    >>> import warnings
    >>> from rayline.core.deprecation import DEPRECATED, deprecated
    >>> @deprecated(since="0.4.0", removal="0.6.0", instead="new_name(x)")
    ... def old_name(x):
    ...     return x + 1
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     old_name(1)
    2
    >>> str(caught[0].message)
    'old_name is deprecated since Rayline 0.4.0 and will be removed in 0.6.0; use new_name(x).'
    >>> _ = DEPRECATED.popitem()
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        DEPRECATED[f"{function.__module__}.{function.__qualname__}"] = removal
        text = f"{function.__qualname__} is deprecated since Rayline {since} and will be removed in {removal}; use {instead}."

        @functools.wraps(function)
        def warning(*args: P.args, **kwargs: P.kwargs) -> R:
            warnings.warn(text, FutureWarning, stacklevel=2)
            return function(*args, **kwargs)

        return warning

    return mark
