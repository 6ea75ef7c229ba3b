"""Where the columns of a transformed table come from, read off the operations: no data is looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from rayline.core.operations import Operation
from rayline.core.schema import SPARSE

Lineage = dict[str, tuple[str, ...]]


def lineage(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> Lineage:
    """For each column after the operations the columns before them that its values depend on, in the table's order."""
    found: Lineage = {name: (name,) for name in schema}
    places = {name: place for place, name in enumerate(schema)}
    for operation in operations:
        made = {
            name: tuple(sorted({source for read in reads for source in found.get(read, ())}, key=places.__getitem__))
            for name, reads in operation.sources(schema).items()
        }
        schema = operation.schema_after(schema)
        found = {name: made.get(name, found.get(name, ())) for name in schema}
    return found


def names_out(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> dict[str, list[str]]:
    """For each column after the operations the names of its features: its own, or of a vector those of its elements,
    `column_element`. A vector whose length is not known stays one name.
    """
    elements: dict[str, Sequence[str]] = {}
    for operation in operations:
        changed, new = operation.sources(schema), operation.elements(schema)
        elements = {name: own for name, own in elements.items() if name not in changed} | new
        schema = operation.schema_after(schema)
    names: dict[str, list[str]] = {}
    for name, dtype in schema.items():
        own = elements.get(name)
        if own is None and isinstance(dtype, pl.Array):
            own = [str(i) for i in range(dtype.size)]
        is_vector = isinstance(dtype, pl.Array) or dtype == SPARSE
        names[name] = [f"{name}_{element}" for element in own] if own is not None and is_vector else [name]
    return names


def by_source(values: Mapping[str, float], lineage: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Values of output columns (importances) summed over their source columns; what has several is shared equally.

    >>> by_source({"city_Oslo": 2.0, "city_Rome": 1.0, "pca0": 4.0},
    ...           {"city_Oslo": ["city"], "city_Rome": ["city"], "pca0": ["city", "age"]})
    {'city': 5.0, 'age': 2.0}
    """
    found: dict[str, float] = {}
    for name, value in values.items():
        sources = lineage.get(name, (name,))
        for source in sources:
            found[source] = found.get(source, 0.0) + value / len(sources)
    return found
