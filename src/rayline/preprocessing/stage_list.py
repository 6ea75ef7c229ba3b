"""Validate lists of named stages, and the columns that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayline.core.column_choice import Selected
from rayline.core.errors import ParameterError, SchemaError
from rayline.core.schema import Kind
from rayline.core.stage import Stage

WHERE = "Preprocessor"


def checked(stages: Any, group: type[Any], noun: str = "stages") -> tuple[tuple[str, Any], ...]:
    """Return the validated `(name, stage)` pairs; a stage may be a `group` of stages, the preprocessor's own class.

    Raises ParameterError when they are none, or a name is used twice.
    """
    if not isinstance(stages, (list, tuple)):
        raise ParameterError.value(noun, "a list of (name, stage) pairs", stages, where=WHERE)
    seen: set[str] = set()
    for pair in stages:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ParameterError.value(noun, "(name, stage) pairs", pair, where=WHERE)
        name, stage = pair
        if not isinstance(stage, (Stage, group)):
            is_class = isinstance(stage, type)
            raise ParameterError(
                f"Preprocessor: stage {name!r} is not a stage.",
                f"Expected a Stage or a Preprocessor; got {stage!r}.",
                "a stage must be an object, not its class" if is_class else "derive it from rayline.Stage",
            )
        if isinstance(stage, group) and stage.target_stages:
            raise ParameterError(
                f"Preprocessor: the inner preprocessor {name!r} has target stages.",
                "Expected them on the outermost one.",
                "move target_stages there.",
            )
        if name in seen or not name or "/" in name:
            raise ParameterError.value(noun, "different names, not empty and without '/'", name, where=WHERE)
        seen.add(name)
    return tuple((name, stage) for name, stage in stages)


def checked_targets(stages: Any, group: type[Any], taken: Sequence[str]) -> tuple[tuple[str, Stage], ...]:
    """Return the validated target stages: none may change rows or use a name in `taken` (those of other stages)."""
    checked_stages = checked(stages, group, "target_stages")
    for name, stage in checked_stages:
        if isinstance(stage, group) or stage.resamples or name in taken:
            raise ParameterError.value(
                "target_stages", "stages that keep rows, under names that `stages` does not have", name, where=WHERE
            )
    return checked_stages


def named_columns(leaf: Stage) -> set[str]:
    """Return the columns that a stage names, directly or in a per-column parameter; none when they are chosen by type."""
    named = {leaf.columns} if isinstance(leaf.columns, str) else set()
    if isinstance(leaf.columns, (list, tuple)) and not isinstance(leaf.columns, Selected):
        named |= set(leaf.columns)
    for value in leaf.parameters().values():
        named |= {name for name in value if isinstance(name, str)} if isinstance(value, Mapping) else set()
    return named


def refuse_targets(leaves: Sequence[tuple[str, Stage]], targets: Sequence[str]) -> None:
    """Raise SchemaError when one of these stages names a target among its columns."""
    for path, leaf in leaves:
        taken = sorted(named_columns(leaf) & set(targets))
        if taken:
            raise SchemaError.here(
                f"stage {path!r} works on {taken[0]!r}, which is a target column.",
                f"Expected stages on features only; the targets are {list(targets)}.",
                "name other columns in it; to transform the target, use target_stages=.",
            )


_RULES = {
    Kind.TEXT: "strings with four or more words on average",
    Kind.CATEGORY: "strings with fewer than four words on average",
}


def idle(leaves: Sequence[tuple[str, Stage]]) -> list[tuple[str, str]]:
    """Return the fitted stages without any matching column, each with a description of the columns it applies to."""
    unused = []
    for path, leaf in leaves:
        if leaf.kinds and not leaf.state.get("columns"):
            kinds = [f"{kind} columns" for kind in leaf.kinds]
            rules = [rule for kind, rule in _RULES.items() if kind in leaf.kinds]
            unused.append((path, " or ".join(kinds) + (f" ({rules[0]})" if len(rules) == 1 else "")))
    return unused
