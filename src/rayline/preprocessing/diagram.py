"""The diagram of a preprocessor in a notebook: its stages from top to bottom, with the columns that each reads and makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import polars as pl

from rayline.core.design import boxes
from rayline.core.errors import counted
from rayline.core.operations.base import Operation

MAX_NAMES = 6
"""Columns that a box names; of more it says how many."""


class Flow(NamedTuple):
    """The columns that a stage reads, those that it makes or changes, and those that it removes."""

    reads: list[str]
    makes: list[str]
    removes: list[str]


def flow(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> tuple[Flow, dict[str, pl.DataType]]:
    """Return what the operations of one stage do to a table of this schema, and the schema after them."""
    before, now = {*schema}, dict(schema)
    reads: dict[str, None] = {}
    makes: dict[str, None] = {}
    for operation in operations:
        for name, sources in operation.sources(now).items():
            reads.update((source, None) for source in sources if source in before)
            makes[name] = None
        operation.changes(now).update(now)
    removed = [name for name in schema if name not in now]
    return Flow(list(reads), [name for name in makes if name in now], removed), now


def name_list(columns: Iterable[str]) -> str:
    """Return the names of columns, or of the first ones and how many there are.

    >>> name_list("abc"), name_list("abcdefgh")
    ('a, b, c', 'a, b, c, d, e, … (8 columns)')
    """
    names = list(columns)
    if len(names) <= MAX_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: MAX_NAMES - 1])}, … ({counted(len(names), 'column')})"


def effect(flow: Flow) -> str:
    """Return what a stage does to columns: `hour` when it changes them in place, `carrier → carrier_AA, …` otherwise."""
    if flow.makes and {*flow.makes} == {*flow.reads} and not flow.removes:
        return name_list(flow.makes)
    parts = [name_list(flow.reads or flow.removes)]
    if flow.makes:
        parts.append(name_list(flow.makes))
    elif flow.removes:
        parts.append("nothing")
    return " → ".join(part for part in parts if part)


def html(title: str, rows: Sequence[tuple[str, str, str]]) -> str:
    """Return the diagram: for each box its name, what it is, and its columns."""
    return f"<p><b>{escape(title.partition(' ')[0])}</b> {escape(title.partition(' ')[2])}</p>{boxes(rows)}"
