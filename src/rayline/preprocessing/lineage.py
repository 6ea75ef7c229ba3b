"""Lineage: the source columns of each transformed column, derived from the operations without reading data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from rayline.core.operations.base import Operation
from rayline.core.schema import SPARSE, dense_width

Lineage = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class ColumnOrigins:
    """The sources of each column of a table, and of each element of its vectors, by name, where the elements have names."""

    columns: Lineage
    elements: dict[str, Lineage]

    def features(self, schema: Mapping[str, pl.DataType]) -> dict[str, Lineage]:
        """Return, for each column of this schema, its features and their sources.

        The features of a vector are its elements, named `column_element`; any other column, and a vector of unknown
        length, is one feature.
        """
        lineage: dict[str, Lineage] = {}
        for name, dtype in schema.items():
            sources = self.elements.get(name)
            if sources is None and isinstance(dtype, pl.Array):
                sources = dict.fromkeys(map(str, range(dense_width(dtype))), self.columns[name])
            is_vector = isinstance(dtype, pl.Array) or dtype == SPARSE
            lineage[name] = (
                {f"{name}_{e}": s for e, s in sources.items()}
                if sources is not None and is_vector
                else {name: self.columns[name]}
            )
        return lineage


def origins(operations: Sequence[Operation], schema: Mapping[str, pl.DataType]) -> ColumnOrigins:
    """Return the sources of each column after the operations, in the order of the table."""
    origins: Lineage = {name: (name,) for name in schema}
    elements: dict[str, Lineage] = {}
    places = {name: place for place, name in enumerate(schema)}
    schema = dict(schema)
    for operation in operations:
        reads, named = operation.sources(schema), operation.elements(schema)
        computed = {
            name: tuple(
                sorted({source for read in column_sources for source in origins.get(read, ())}, key=places.__getitem__)
            )
            for name, column_sources in reads.items()
        }
        for name in computed:
            elements.pop(name, None)
        for name, column_sources in named.items():  # an element that is called as a column is that column
            apart = list(column_sources) == list(reads[name])
            elements[name] = (
                {e: origins[e] for e in column_sources} if apart else dict.fromkeys(column_sources, computed[name])
            )
        changes = operation.changes(schema)
        changes.update(schema)
        kept = {name: origins.get(name, ()) for name in changes.outputs}
        for name in changes.removed:
            origins.pop(name, None)
        origins |= kept  # new columns are in the order of the table
        origins |= {name: sources for name, sources in computed.items() if name in schema}
    return ColumnOrigins(origins, elements)


def by_source(values: Mapping[str, float], lineage: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Values of output columns (importances) summed over their source columns; what has several is shared equally.

    >>> by_source({"city_Oslo": 2.0, "city_Rome": 1.0, "pca0": 4.0},
    ...           {"city_Oslo": ["city"], "city_Rome": ["city"], "pca0": ["city", "age"]})
    {'city': 5.0, 'age': 2.0}
    """
    shares: dict[str, float] = {}
    for name, value in values.items():
        sources = lineage.get(name, (name,))
        for source in sources:
            shares[source] = shares.get(source, 0.0) + value / len(sources)
    return shares
