"""Lists of named stages, their validation, and the columns that they name."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from rayline.core.arguments import known_arguments
from rayline.core.column_choice import Selected
from rayline.core.errors import ParameterError, SchemaError
from rayline.core.schema import Kind
from rayline.core.stage import Stage

WHERE = "Preprocessor"


@known_arguments
class NamedStages:
    """Stages with names, some of which may be such a list themselves: what they are, without data.

    Parameters
    ----------
    stages, target_stages
        As in `rayline.Preprocessor`.
    """

    def __init__(
        self, stages: Sequence[tuple[str, Stage | NamedStages]] = (), target_stages: Sequence[tuple[str, Stage]] = ()
    ) -> None:
        self._stages: tuple[tuple[str, Stage | Self], ...] = _checked(stages)
        self._target_stages = _checked_targets(target_stages, [name for name, _ in self._stages])

    @property
    def stages(self) -> list[tuple[str, Stage | Self]]:
        """The named stages; fitted ones after `fit`."""
        return list(self._stages)

    @property
    def target_stages(self) -> list[tuple[str, Stage]]:
        """The named stages of the targets; fitted ones after `fit`."""
        return list(self._target_stages)

    def __getitem__(self, name: str) -> Stage | Self:
        for stage_name, stage in (*self._stages, *self._target_stages):
            if stage_name == name:
                return stage
        raise ParameterError.unknown([name], self._names, "stage", where=WHERE)

    @property
    def _names(self) -> list[str]:
        return [name for name, _ in (*self._stages, *self._target_stages)]

    def __len__(self) -> int:
        return len(self._stages)

    def __iter__(self) -> Iterator[tuple[str, Stage | Self]]:
        return iter(self._stages)

    @property
    def leaves(self) -> list[tuple[str, Stage]]:
        """All stages with their paths ("outer/inner"); the stages of a nested preprocessor are listed one by one."""
        leaves: list[tuple[str, Stage]] = []
        for name, stage in self._stages:
            if isinstance(stage, NamedStages):
                leaves += [(f"{name}/{path}", leaf) for path, leaf in stage.leaves]
            else:
                leaves.append((name, stage))
        return leaves

    def clone(self) -> Self:
        """Return an unfitted copy.

        Returns
        -------
        Preprocessor
            The same names and parameters; nothing learned.
        """
        return self.replace({})

    def __copy__(self) -> Self:
        """Return an independent copy: fitting one of the two again does not change the other."""
        copied = type(self)()
        copied.__dict__.update(self.__dict__)
        copied._stages = tuple((n, copy.copy(s) if isinstance(s, NamedStages) else s) for n, s in self._stages)
        return copied

    def replace(self, changes: Mapping[str, Mapping[str, Any]]) -> Self:
        """Return an unfitted copy with other parameters: `{"impute": {"strategy": "median"}}`.

        Parameters
        ----------
        changes
            New parameters by the name of the stage; those of a nested preprocessor are again such a dict.

        Returns
        -------
        Preprocessor
            A new one; this one does not change.

        Raises
        ------
        ParameterError
            When a stage or a parameter of it does not exist, or a stage refuses the value.
        """
        if not isinstance(changes, Mapping) or not all(isinstance(values, Mapping) for values in changes.values()):
            raise ParameterError.value(
                "changes", 'a dict of dicts, such as {"impute": {"strategy": "median"}}', changes, where=WHERE
            )
        unknown = [name for name in changes if name not in self._names]
        if unknown:
            raise ParameterError.unknown(unknown, self._names, "stage", where=WHERE)
        return type(self)(
            [
                (
                    name,
                    stage.replace(changes.get(name, {}))
                    if isinstance(stage, NamedStages)
                    else stage.replace(**changes.get(name, {})),
                )
                for name, stage in self._stages
            ],
            [(name, stage.replace(**changes.get(name, {}))) for name, stage in self._target_stages],
        )

    def _take(self, leaves: Sequence[Stage]) -> None:
        """Put fitted stages in the places of the leaves."""
        rest = list(leaves)
        stages: list[tuple[str, Stage | Self]] = []
        for name, stage in self._stages:
            if isinstance(stage, NamedStages):
                inner = stage.clone()
                inner._take(rest[: len(stage.leaves)])
                rest = rest[len(stage.leaves) :]
                stages.append((name, inner))
            else:
                stages.append((name, rest.pop(0)))
        self._stages = tuple(stages)


def _checked(stages: Any, noun: str = "stages") -> tuple[tuple[str, Any], ...]:
    """Return the validated `(name, stage)` pairs. Raises ParameterError when they are none, or a name is used twice."""
    if not isinstance(stages, (list, tuple)):
        raise ParameterError.value(noun, "a list of (name, stage) pairs", stages, where=WHERE)
    seen: set[str] = set()
    for pair in stages:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ParameterError.value(noun, "(name, stage) pairs", pair, where=WHERE)
        name, stage = pair
        if not isinstance(stage, (Stage, NamedStages)):
            is_class = isinstance(stage, type)
            raise ParameterError(
                f"Preprocessor: stage {name!r} is not a stage.",
                f"Expected a Stage or a Preprocessor; got {stage!r}.",
                "a stage must be an object, not its class" if is_class else "derive it from rayline.Stage",
            )
        if isinstance(stage, NamedStages) and stage.target_stages:
            raise ParameterError(
                f"Preprocessor: the inner preprocessor {name!r} has target stages.",
                "Expected them on the outermost one.",
                "move target_stages there.",
            )
        if name in seen or not name or "/" in name:
            raise ParameterError.value(noun, "different names, not empty and without '/'", name, where=WHERE)
        seen.add(name)
    return tuple((name, stage) for name, stage in stages)


def _checked_targets(stages: Any, taken: Sequence[str]) -> tuple[tuple[str, Stage], ...]:
    """Return the validated target stages: none may change rows or use a name in `taken` (those of other stages)."""
    checked_stages = _checked(stages, "target_stages")
    for name, stage in checked_stages:
        if isinstance(stage, NamedStages) or stage.resamples or name in taken:
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
