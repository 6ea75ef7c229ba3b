"""Detection of forked processes: a child inherits Polars' locks without the threads that hold them, and would deadlock."""

from __future__ import annotations

import os

from rayline.core.errors import ResourceError

_state = {"used": False, "forked": False}


def _in_child() -> None:
    _state["forked"] = _state["used"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def refuse_after_fork() -> None:
    """Raise ResourceError in a process that was forked from one which had worked on tables."""
    if _state["forked"]:
        raise ResourceError.here(
            "this process was forked from a process that had already used Polars, and would deadlock.",
            "Expected a newly started process.",
            'start it with multiprocessing.get_context("spawn"); see docs/values.md.',
        )
    _state["used"] = True
