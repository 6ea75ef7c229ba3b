"""Remove columns from fitted stages: the result equals a fit in which these columns were targets."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import polars as pl

from rayline.core.errors import RaylineError, SchemaError
from rayline.core.operations.base import Operation, schema_after
from rayline.core.stage import FitContext, Stage, operations_of
from rayline.preprocessing.lineage import origins
from rayline.preprocessing.stage_list import named_columns


def without_targets(
    leaves: Sequence[tuple[str, Stage]], schema: Mapping[str, pl.DataType], targets: Sequence[str]
) -> tuple[list[Stage], pl.Schema]:
    """Return the fitted stages, and their output schema, as if `targets` had not been features in their fit.

    A stage drops the targets and the columns that earlier stages derived from them. It keeps what it learned from the other columns.
    Raises SchemaError when a stage has learned of other columns what depends on a target (principal components, nearest neighbors, …).
    """
    before, after = dict(schema), {name: dtype for name, dtype in schema.items() if name not in targets}
    seen = set[str]()  # columns that a stage behind this one saw with other values than it would now, and still sees
    removed = {*targets}  # columns that it saw, and would not see now
    worked = set[str]()  # targets that a stage has worked on
    stages: list[Stage] = []
    for path, leaf in leaves:
        one = _without(leaf, removed, worked | seen, targets)
        if one is None or _reads_absent(operations_of(path, one), after) or _learned_from(one, seen, after, targets):
            raise _refusal(path, leaf, targets)
        old = operations_of(path, leaf)
        if one is not leaf or seen:
            worked |= {name for name in leaf.state["columns"] if name in targets}
            lineage = origins(old, before).columns
            seen = {
                name
                for name, sources in lineage.items()
                if any(source in removed or source in seen for source in sources)
            }
        before, after = schema_after(old, before), schema_after(operations_of(path, one), after)
        removed = {name for name in before if name not in after} | {*targets}
        seen &= after.keys()
        if any(name in targets for name in after):
            raise _refusal(path, leaf, targets)
        stages.append(one)
    return stages, pl.Schema(after)


def _without(leaf: Stage, removed: Collection[str], changed: Collection[str], targets: Sequence[str]) -> Stage | None:
    derived = {name for name in removed if name not in targets}
    if not named_columns(leaf).isdisjoint(derived):
        return None  # it names what a stage before made of a target
    if not leaf.resamples:
        return leaf.without(removed)
    # Which rows it chose, all stages behind it have learned from: it may only have looked at what stays as it was.
    return (
        leaf.without({*derived, *changed})
        if not any(name in removed for name in leaf.state.get("columns", ()))
        else None
    )


def _reads_absent(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> bool:
    schema = dict(schema)
    for operation in operations:
        if any(read not in schema for sources in operation.sources(schema).values() for read in sources):
            return True
        operation.changes(schema).update(schema)
    return False


def _learned_from(
    leaf: Stage, columns: Collection[str], schema: Mapping[str, pl.DataType], targets: Sequence[str]
) -> bool:
    """Return whether the fitted state depends on one of these columns."""
    if not columns:
        return False
    try:
        requests = leaf.required_statistics(FitContext(tuple(leaf.state.get("columns", ())), schema, tuple(targets)))
    except RaylineError:  # it looks at a target
        return True
    return any(column in columns for request in requests for column in request.columns)


def _refusal(path: str, leaf: Stage, targets: Sequence[str]) -> SchemaError:
    names = ", ".join(map(repr, targets))
    return SchemaError.here(
        f"stage {path!r} ({type(leaf).__name__}) was fitted with {names} among the features, and what it learned of "
        "others depends on that.",
        f"Expected a preprocessor that was fitted with target_columns={list(targets)}.",
        "fit it that way, or pass it unfitted (preprocessor.clone()): then it is fitted on the features alone.",
    )
