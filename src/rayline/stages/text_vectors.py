"""The operations of fitted text stages: texts become sparse vectors, or lists of words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rayline.core.operations.base import ColumnOperation, Row, RowFunction
from rayline.core.schema import SPARSE, col, map_values
from rayline.core.statistics.ngrams import blocks_of, bucket_counts, counted_pairs
from rayline.core.text_analysis import Analyzer


@dataclass(frozen=True)
class Vectorize(ColumnOperation):
    """Replaces a text by the sparse vector of its gram counts, weighted and normalized."""

    stays: ClassVar = False  # no inverse: the order of the words is lost
    analyzer: Analyzer
    n_features: int
    vocabulary: Sequence[str] | None = None  # the spelling of each gram; None: features are hash buckets
    n_rows: int = 0  # texts seen in fit; 0 for no idf
    rows_with: Mapping[str, Sequence[int]] | None = None  # "feature": places, "n": texts with each; others had none
    norm: str | None = None
    sublinear_tf: bool = False
    binary: bool = False
    keys: Sequence[int] | None = None  # of the grams of the vocabulary; None in files that spell them only

    @cached_property
    def _keys(self) -> list[int]:
        return (
            [self.analyzer.spelled_key(gram) for gram in self.vocabulary or ()]
            if self.keys is None
            else list(self.keys)
        )

    @cached_property
    def _known(self) -> tuple[Any, Any]:
        """The sorted keys of the vocabulary, and the feature of each."""
        keys = np.array(self._keys, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    @cached_property
    def _places(self) -> dict[int, int]:
        return {key: i for i, key in enumerate(self._keys)}

    @cached_property
    def _idf(self) -> tuple[Any, Any, float] | None:
        """ln((1 + texts) / (1 + texts with it)) + 1: the features seen in fit, the weight of each, and of all others."""
        if self.rows_with is None:
            return None
        by_count = {n: self._weight(n) for n in set(self.rows_with["n"])}
        weights = np.array([by_count[n] for n in self.rows_with["n"]], dtype=np.float64)
        return np.array(self.rows_with["feature"], dtype=np.int64), weights, self._weight(0)

    @cached_property
    def _idf_of(self) -> dict[int, float]:
        features, weights, _ = self._idf or ((), (), 0.0)
        return dict(zip(map(int, features), map(float, weights), strict=True))

    def _weight(self, n: int) -> float:
        return math.log((1 + self.n_rows) / (1 + n)) + 1.0

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_keys", "_known", "_places", "_idf", "_idf_of")}

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [map_values(col(self.column), self._vectors, SPARSE)]

    def _vectors(self, texts: pl.Series) -> pl.Series:
        blocks = [self._block(block) for block in blocks_of(texts)]
        return pl.concat(blocks) if blocks else pl.Series([], dtype=SPARSE)

    def _block(self, texts: pl.Series) -> pl.Series:
        grams = self.analyzer.grams(texts)
        if self.vocabulary is None:
            rows, features, counts = bucket_counts(grams, self.n_features)
        else:
            keys, order = self._known
            places = np.minimum(np.searchsorted(keys, grams.keys), max(len(keys) - 1, 0))
            is_known = keys[places] == grams.keys if len(keys) else np.zeros(len(grams.keys), dtype=bool)
            rows, features, counts = counted_pairs(
                grams.rows[is_known], order[places[is_known]], max(self.n_features, 1)
            )
        values = self._weighted(rows, features, counts, len(texts))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(texts)))])
        return _sparse(self.n_features, offsets, features.astype(np.uint32), values)

    def _weighted(self, rows: Any, features: Any, counts: Any, n_rows: int) -> npt.NDArray[np.float64]:
        values: npt.NDArray[np.float64] = counts.astype(np.float64)
        if self.binary:
            values = np.ones(len(counts))
        elif self.sublinear_tf and len(counts):
            distinct, place = np.unique(counts, return_inverse=True)
            values = np.array([1.0 + math.log(n) for n in distinct.tolist()])[place]
        if self._idf is not None and len(values):
            seen, weights, other = self._idf
            place = np.minimum(np.searchsorted(seen, features), max(len(seen) - 1, 0))
            values = values * (np.where(seen[place] == features, weights[place], other) if len(seen) else other)
        if self.norm is not None:
            # bincount adds in order, as the row function does.
            sizes = np.bincount(
                rows, weights=values * values if self.norm == "l2" else np.abs(values), minlength=n_rows
            )
            values = values / (np.sqrt(sizes) if self.norm == "l2" else sizes)[rows]
        return values

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, analyzer, n_features = self.column, self.analyzer, self.n_features
        places, idf = (self._places if self.vocabulary is not None else None), self._idf_of
        other = self._idf[2] if self._idf is not None else None

        def vectorize(row: Row) -> None:
            counts: dict[int, int] = {}
            text = row[column]
            for key in analyzer.row_keys(text) if text is not None else ():
                feature = key % n_features if places is None else places.get(key)
                if feature is not None:
                    counts[feature] = counts.get(feature, 0) + 1
            features = sorted(counts)
            values = [
                1.0 if self.binary else 1.0 + math.log(counts[f]) if self.sublinear_tf else float(counts[f])
                for f in features
            ]
            if other is not None:
                values = [value * idf.get(f, other) for value, f in zip(values, features, strict=True)]
            if self.norm is not None and values:
                size = 0.0
                for value in values:
                    size += value * value if self.norm == "l2" else abs(value)
                size = math.sqrt(size) if self.norm == "l2" else size
                values = [value / size for value in values]
            row[column] = {"size": n_features, "indices": features, "values": values}

        return vectorize

    def elements(self, schema: Mapping[str, pl.DataType]) -> dict[str, Sequence[str]]:
        return {self.column: self.vocabulary or [str(i) for i in range(self.n_features)]}


def _sparse(size: int, offsets: Any, indices: Any, values: Any) -> pl.Series:
    sizes = pa.array(np.full(len(offsets) - 1, size, dtype=np.uint32))
    places = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(indices))
    weights = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    series = pl.from_arrow(pa.StructArray.from_arrays([sizes, places, weights], ["size", "indices", "values"]))
    assert isinstance(series, pl.Series)
    return series.cast(SPARSE)


@dataclass(frozen=True)
class SplitWords(ColumnOperation):
    """Replaces a text by the list of its tokens."""

    stays: ClassVar = False  # no inverse: the characters between the words are lost
    analyzer: Analyzer

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [self.analyzer.split(col(self.column))]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, analyzer = self.column, self.analyzer

        def split(row: Row) -> None:
            if row[column] is not None:
                row[column] = analyzer.row_tokens(row[column])

        return split
