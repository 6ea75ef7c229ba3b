"""Stages that turn free text into sparse vectors, without ever building a dense matrix.

A text is cut into tokens, runs of tokens ("grams") are counted, and the counts become one sparse vector for each row: a
column of the type `rayline.core.schema.SPARSE`. Missing texts become vectors of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from rayline.core.errors import DataError
from rayline.core.operations import Operation, Row, RowFunction
from rayline.core.schema import SPARSE, Kind, col
from rayline.core.stage import Check, ColumnStage, Stage, View, a_bool, an_int, one_of, param
from rayline.core.statistics import MAX_CATEGORIES, Request, Statistic
from rayline.core.text import WORDS, Analyzer, Grams

BLOCK_ROWS = 1 << 15
"""Texts that are taken apart at a time."""


# -- statistics --------------------------------------------------------------------------------------------------------


def _blocks(texts: pl.Series) -> list[pl.Series]:
    return [texts.slice(start, BLOCK_ROWS) for start in range(0, len(texts), BLOCK_ROWS)]


def _analyzer(options: Mapping[str, Any]) -> Analyzer:
    stop_words = options.get("stop_words", ())
    return Analyzer(options["lowercase"], options["token_pattern"], options["ngram_range"], stop_words)


@dataclass(frozen=True, eq=False)
class DocumentFrequency(Statistic):
    """In how many texts each hash bucket occurs; only those that do are kept."""

    n_rows: int = 0
    features: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # ascending
    rows_with: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(text=columns[0])

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        texts, parts = values[0]["text"], []
        for block in _blocks(texts):
            _, buckets, _ = _counted(_analyzer(options).grams(block), options["n_features"])
            parts.append(cls(len(block), *np.unique(buckets, return_counts=True)))
        return cls.merge_all(parts)

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = [*states, cls()]
        features, place = np.unique(np.concatenate([state.features for state in states]), return_inverse=True)
        rows_with = np.zeros(len(features), dtype=np.int64)
        np.add.at(rows_with, place, np.concatenate([state.rows_with for state in states]))
        return cls(sum(state.n_rows for state in states), features, rows_with)

    def merge(self, other: Self) -> Self:
        return self.merge_all([self, other])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DocumentFrequency):
            return NotImplemented
        same = np.array_equal(self.features, other.features) and np.array_equal(self.rows_with, other.rows_with)
        return self.n_rows == other.n_rows and same

    __hash__ = None  # type: ignore[assignment]  # arrays have no hash


@dataclass(frozen=True, eq=False)
class GramCounts(Statistic):
    """How often each gram occurs, and in how many texts, exactly, for up to MAX_CATEGORIES distinct grams."""

    n_rows: int = 0
    table: pl.DataFrame = field(default_factory=lambda: _NO_GRAMS)
    overflow: bool = False

    @classmethod
    def query(cls, table: pl.LazyFrame, *columns: pl.Expr, **options: Any) -> pl.LazyFrame | None:
        return table.select(text=columns[0])

    @classmethod
    def of(cls, *values: Any, **options: Any) -> Self:
        texts = values[0]["text"]
        return cls.merge_all([cls._of_block(block, _analyzer(options)) for block in _blocks(texts)])

    @classmethod
    def _of_block(cls, texts: pl.Series, analyzer: Analyzer) -> Self:
        grams = analyzer.grams(texts)
        keys, first, place, n = np.unique(grams.keys, return_index=True, return_inverse=True, return_counts=True)
        _, occurring, _ = _pairs(grams.rows, place, max(len(keys), 1))
        n_rows = np.bincount(occurring, minlength=len(keys))
        spelled = grams.spell(first)
        return cls(len(texts), pl.DataFrame({"gram": spelled, "n": n, "n_rows": n_rows}, schema=_NO_GRAMS.schema))

    @classmethod
    def empty(cls, **options: Any) -> Self:
        return cls()

    @classmethod
    def merge_all(cls, states: Iterable[Self], **options: Any) -> Self:
        states = list(states)
        n_rows = sum(state.n_rows for state in states)
        tables = [state.table for state in states if state.table.height]
        if any(state.overflow for state in states):
            return cls(n_rows, _NO_GRAMS, overflow=True)
        table = pl.concat(tables).group_by("gram").agg(pl.col("n", "n_rows").sum()) if tables else _NO_GRAMS
        return cls(n_rows, table) if table.height <= MAX_CATEGORIES else cls(n_rows, _NO_GRAMS, overflow=True)

    def merge(self, other: Self) -> Self:
        return self.merge_all([self, other])


_NO_GRAMS: pl.DataFrame = pl.DataFrame(schema={"gram": pl.String, "n": pl.Int64, "n_rows": pl.Int64})


# -- the operation -----------------------------------------------------------------------------------------------------


def _counted(grams: Grams, n_features: int) -> tuple[Any, Any, Any]:
    """Rows, buckets and counts of what occurs, in the order of rows and buckets."""
    buckets = (grams.keys % np.uint64(n_features)).astype(np.int64)
    return _pairs(grams.rows, buckets, n_features)


def _pairs(rows: Any, features: Any, n_features: int) -> tuple[Any, Any, Any]:
    pairs = rows * n_features + features
    pairs.sort()
    starts = np.flatnonzero(np.concatenate([[True], pairs[1:] != pairs[:-1]])) if len(pairs) else np.empty(0, np.int64)
    counts = np.diff(np.concatenate([starts, [len(pairs)]]))
    return pairs[starts] // n_features, pairs[starts] % n_features, counts


@dataclass(frozen=True)
class Vectorize(Operation):
    """A text becomes the sparse vector of its gram counts, weighted and normed."""

    column: str
    analyzer: Analyzer
    n_features: int
    vocabulary: Sequence[str] | None = None  # None: features are hash buckets
    n_rows: int = 0  # texts seen in fit; 0 for no idf
    rows_with: Mapping[str, Sequence[int]] | None = None  # "feature": places, "n": texts with each; others had none
    norm: str | None = None
    sublinear_tf: bool = False
    binary: bool = False

    @cached_property
    def _known(self) -> tuple[Any, Any]:
        """The sorted keys of the vocabulary, and the feature of each."""
        keys = np.array([self.analyzer.spelled_key(gram) for gram in self.vocabulary or ()], dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    @cached_property
    def _places(self) -> dict[int, int]:
        return {self.analyzer.spelled_key(gram): i for i, gram in enumerate(self.vocabulary or ())}

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
        return {k: v for k, v in self.__dict__.items() if k not in ("_known", "_places", "_idf", "_idf_of")}

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        return [col(self.column).map_batches(self._vectors, return_dtype=SPARSE, is_elementwise=True)]

    def _vectors(self, texts: pl.Series) -> pl.Series:
        blocks = [self._block(block) for block in _blocks(texts)]
        return pl.concat(blocks).alias(texts.name) if blocks else pl.Series(texts.name, [], dtype=SPARSE)

    def _block(self, texts: pl.Series) -> pl.Series:
        grams = self.analyzer.grams(texts)
        if self.vocabulary is None:
            rows, features, counts = _counted(grams, self.n_features)
        else:
            keys, order = self._known
            places = np.minimum(np.searchsorted(keys, grams.keys), max(len(keys) - 1, 0))
            is_known = keys[places] == grams.keys if len(keys) else np.zeros(len(grams.keys), dtype=bool)
            rows, features, counts = _pairs(grams.rows[is_known], order[places[is_known]], max(self.n_features, 1))
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

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def elements(self, schema: Mapping[str, pl.DataType]) -> dict[str, Sequence[str]]:
        return {self.column: self.vocabulary or [str(i) for i in range(self.n_features)]}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return None  # the order of the words is lost


def _sparse(size: int, offsets: Any, indices: Any, values: Any) -> pl.Series:
    sizes = pa.array(np.full(len(offsets) - 1, size, dtype=np.uint32))
    places = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(indices))
    weights = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
    series = pl.from_arrow(pa.StructArray.from_arrays([sizes, places, weights], ["size", "indices", "values"]))
    assert isinstance(series, pl.Series)
    return series.cast(SPARSE)


@dataclass(frozen=True)
class SplitWords(Operation):
    """A text becomes the list of its tokens."""

    column: str
    analyzer: Analyzer

    def expressions(self, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
        x = col(self.column).cast(pl.String)
        return [(x.str.to_lowercase() if self.analyzer.lowercase else x).str.extract_all(self.analyzer.token_pattern)]

    def row(self, schema: Mapping[str, pl.DataType]) -> RowFunction | None:
        column, analyzer = self.column, self.analyzer

        def split(row: Row) -> None:
            if row[column] is not None:
                row[column] = analyzer.row_tokens(row[column])

        return split

    def sources(self, schema: Mapping[str, pl.DataType]) -> dict[str, tuple[str, ...]]:
        return {self.column: (self.column,)}

    def inverse(self, schema: Mapping[str, pl.DataType]) -> list[Operation] | None:
        return None  # what stood between the words is lost


# -- the stages --------------------------------------------------------------------------------------------------------


def _is_pattern(value: Any) -> bool:
    if not isinstance(value, str) or not value:
        return False
    try:
        pl.Series([""]).str.extract_all(value)
    except pl.exceptions.PolarsError:
        return False
    return True


def _is_range(value: Any) -> bool:
    ok = isinstance(value, (tuple, list)) and len(value) == 2 and all(type(v) is int for v in value)
    return ok and 1 <= value[0] <= value[1] <= 10


_PATTERN = Check("a regular expression in Rust's syntax", _is_pattern)
_STOP_WORDS = Check(
    "a list of words, or None",
    lambda v: v is None or (isinstance(v, (list, tuple)) and all(isinstance(word, str) for word in v)),
)
_RANGE = Check("two integers from 1 to 10, the smaller first", _is_range)


@dataclass(frozen=True)
class _TextStage(ColumnStage):
    """What all text stages take: how texts are cut."""

    kinds: ClassVar = (Kind.TEXT,)
    accepts: ClassVar = (Kind.TEXT, Kind.CATEGORY)

    ngram_range: tuple[int, int] = param((1, 1), _RANGE)
    lowercase: bool = param(True, a_bool())
    token_pattern: str = param(WORDS, _PATTERN)
    stop_words: Sequence[str] | None = param(None, _STOP_WORDS)

    elsewhere: ClassVar = {
        **Stage.elsewhere,
        "analyzer": 'words are what token_pattern says; token_pattern="." with ngram_range=(3, 3) makes them characters',
        "alternate_sign": "leave it out: counts stay positive",
        "vocabulary": "leave it out: it is learned; max_features, min_df and max_df bound it",
        "strip_accents": "leave it out, or change the texts before (FunctionTransformer)",
        "smooth_idf": "leave it out: idf is smoothed",
    }

    @property
    def analyzer(self) -> Analyzer:
        words = tuple(sorted(set(self.stop_words or ())))
        return Analyzer(self.lowercase, self.token_pattern, (self.ngram_range[0], self.ngram_range[1]), words)

    def ask_with(self, view: View, column: str) -> Request | None:
        """The statistic of one column with the options of this stage."""
        return None

    def requests(self, view: View) -> list[Request]:
        return [request for column in view.columns if (request := self.ask_with(view, column)) is not None]

    def learn(self, view: View, answers: Mapping[Request, Any]) -> dict[str, Any]:
        learned = {}
        for column in view.columns:
            request = self.ask_with(view, column)
            learned[column] = self.learn_column(column, view.schema[column], *([answers[request]] if request else []))
        return {"columns": learned}

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        return {}

    def options(self) -> dict[str, Any]:
        """The analyzer as options of a request."""
        analyzer = self.analyzer
        return {
            "lowercase": analyzer.lowercase,
            "token_pattern": analyzer.token_pattern,
            "ngram_range": analyzer.ngram_range,
            **({"stop_words": analyzer.stop_words} if analyzer.stop_words else {}),
        }


@dataclass(frozen=True)
class Vectorizer(_TextStage):
    """Turn each text into one sparse vector of tf-idf weights; features are hash buckets, so nothing has to fit in memory.

    Counts of grams, times `ln((1 + texts) / (1 + texts with it)) + 1` learned in fit, normed; the formulas are those of
    scikit-learn's TfidfVectorizer. Missing texts give zeros. The column keeps its name and becomes a sparse vector.

    Parameters
    ----------
    columns
        String columns; when omitted all that hold free text (four words or more in the mean).
    ngram_range
        The shortest and the longest run of words that is a feature.
    lowercase
        Whether case is ignored.
    token_pattern
        What a word is, as a regular expression in Rust's syntax; words of two or more letters or digits. With "." every
        character is one.
    stop_words
        Words that do not count, after `lowercase`; for instance `list(sklearn.feature_extraction.text.ENGLISH_STOP_WORDS)`.
    n_features
        Hash buckets. Different grams may share one: with 2^18 buckets and 10,000 grams about 4 % do.
    use_idf
        Whether rare grams weigh more.
    sublinear_tf
        Whether a count n becomes 1 + ln(n).
    norm
        "l2", "l1" or None.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Vectorizer
    >>> table = pl.DataFrame({"note": ["late because of snow and more snow", "on time as it is almost always"]})
    >>> vectors = Preprocessor([("text", Vectorizer())]).fit_transform(table)["note"]
    >>> vectors.struct.field("size")[0], vectors.struct.field("indices").list.len().to_list()
    (262144, [6, 7])
    """

    n_features: int = param(1 << 18, an_int(1, 1 << 31))
    use_idf: bool = param(True, a_bool())
    sublinear_tf: bool = param(False, a_bool())
    norm: str | None = param("l2", one_of("l2", "l1", None))

    def ask_with(self, view: View, column: str) -> Request | None:
        return (
            view.ask(DocumentFrequency, column, n_features=self.n_features, **self.options()) if self.use_idf else None
        )

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        if not self.use_idf:
            return {}
        counts: DocumentFrequency = answers[0]
        return {
            "n_rows": counts.n_rows,
            "rows_with": {"feature": counts.features.tolist(), "n": counts.rows_with.tolist()},
        }

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [
            Vectorize(column, self.analyzer, self.n_features, norm=self.norm, sublinear_tf=self.sublinear_tf, **learned)
        ]


@dataclass(frozen=True)
class HashingVectorizer(_TextStage):
    """Turn each text into one sparse vector of gram counts in hash buckets; nothing is learned.

    Like scikit-learn's with `alternate_sign=False`, with a hash of our own. Missing texts give zeros.

    Parameters
    ----------
    columns
        String columns; when omitted all that hold free text.
    ngram_range, lowercase, token_pattern, stop_words
        As in Vectorizer.
    n_features
        Hash buckets.
    binary
        Whether only presence counts.
    norm
        "l2", "l1" or None.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import HashingVectorizer
    >>> table = pl.DataFrame({"note": ["no snow no delay"]})
    >>> vectors = Preprocessor([("text", HashingVectorizer(["note"], norm=None))]).fit_transform(table)["note"]
    >>> sorted(vectors.struct.field("values")[0])
    [1.0, 1.0, 2.0]
    """

    n_features: int = param(1 << 18, an_int(1, 1 << 31))
    binary: bool = param(False, a_bool())
    norm: str | None = param("l2", one_of("l2", "l1", None))

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [Vectorize(column, self.analyzer, self.n_features, norm=self.norm, binary=self.binary)]


@dataclass(frozen=True)
class _Vocabulary(_TextStage):
    """A stage that learns its grams."""

    min_df: float = param(1, Check("a count, or a share of the texts below 1", lambda v: _is_df(v)))  # noqa: PLW0108  # defined below
    max_df: float = param(1.0, Check("a count, or a share of the texts up to 1.0", lambda v: _is_df(v)))  # noqa: PLW0108
    max_features: int | None = param(None, an_int(1, none=True))
    binary: bool = param(False, a_bool())

    def ask_with(self, view: View, column: str) -> Request | None:
        return view.ask(GramCounts, column, **self.options())

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        counts: GramCounts = answers[0]
        if counts.overflow:
            raise DataError(
                f"{type(self).__name__}: column {column!r} has too many different grams to count.",
                f"Expected at most {MAX_CATEGORIES:,}; got more.",
                "use HashingVectorizer or Vectorizer, which hash them.",
            )
        low, high = (v if isinstance(v, int) else v * counts.n_rows for v in (self.min_df, self.max_df))
        table = counts.table.filter(pl.col("n_rows").is_between(low, high)).sort("gram")
        if self.max_features is not None:
            table = table.sort("n", descending=True, maintain_order=True).head(self.max_features).sort("gram")
        if not table.height:
            raise DataError(
                f"{type(self).__name__}: column {column!r} has no grams to learn from.",
                f"Expected some that occur in {low:g} to {high:g} of {counts.n_rows} texts.",
                "change min_df or max_df, or drop the column.",
            )
        n = table["n_rows"].to_list()
        return {
            "vocabulary": table["gram"].to_list(),
            "n_rows": counts.n_rows,
            "rows_with": {"feature": list(range(len(n))), "n": n},
        }


def _is_df(value: Any) -> bool:
    return (type(value) is int and value >= 0) or (isinstance(value, float) and 0.0 <= value <= 1.0)


@dataclass(frozen=True)
class CountVectorizer(_Vocabulary):
    """Turn each text into one sparse vector of gram counts; the grams are learned, in alphabetical order.

    As scikit-learn's, with the same `min_df`, `max_df` and `max_features`. Missing texts give zeros.

    Parameters
    ----------
    columns
        String columns; when omitted all that hold free text.
    ngram_range, lowercase, token_pattern, stop_words
        As in Vectorizer.
    min_df, max_df
        Grams in fewer or more texts are left out: counts when integers, shares of the texts when floats.
    max_features
        Only so many, the most frequent ones.
    binary
        Whether only presence counts.

    Raises
    ------
    DataError
        In fit, when no gram is left, or there are more than a million.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import CountVectorizer
    >>> table = pl.DataFrame({"note": ["no snow no delay", "snow"]})
    >>> Preprocessor([("text", CountVectorizer(["note"]))]).fit_transform(table)["note"].struct.field("values").to_list()
    [[1.0, 2.0, 1.0], [1.0]]
    """

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        vocabulary = learned["vocabulary"]
        return [Vectorize(column, self.analyzer, len(vocabulary), vocabulary, binary=self.binary)]


@dataclass(frozen=True)
class TfidfVectorizer(_Vocabulary):
    """Turn each text into one sparse vector of tf-idf weights; the grams are learned, in alphabetical order.

    As scikit-learn's (with smoothed idf). Missing texts give zeros.

    Parameters
    ----------
    columns
        String columns; when omitted all that hold free text.
    ngram_range, lowercase, token_pattern, stop_words
        As in Vectorizer.
    min_df, max_df, max_features, binary
        As in CountVectorizer.
    use_idf, sublinear_tf, norm
        As in Vectorizer.

    Raises
    ------
    DataError
        In fit, when no gram is left, or there are more than a million.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import TfidfVectorizer
    >>> table = pl.DataFrame({"note": ["no snow no delay", "snow"]})
    >>> vectors = Preprocessor([("text", TfidfVectorizer(["note"]))]).fit_transform(table)["note"]
    >>> [round(v, 3) for v in vectors.struct.field("values")[0]]
    [0.426, 0.852, 0.303]
    """

    use_idf: bool = param(True, a_bool())
    sublinear_tf: bool = param(False, a_bool())
    norm: str | None = param("l2", one_of("l2", "l1", None))

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        vocabulary = learned["vocabulary"]
        idf: dict[str, Any] = {"n_rows": learned["n_rows"], "rows_with": learned["rows_with"]} if self.use_idf else {}
        how: dict[str, Any] = {"norm": self.norm, "sublinear_tf": self.sublinear_tf, "binary": self.binary}
        return [Vectorize(column, self.analyzer, len(vocabulary), vocabulary, **idf, **how)]


@dataclass(frozen=True)
class Tokenizer(ColumnStage):
    """Turn each text into the list of its words; missing stays missing.

    Parameters
    ----------
    columns
        String columns; when omitted all that hold free text.
    lowercase
        Whether words become lower case.
    token_pattern
        What a word is, as a regular expression in Rust's syntax.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import Tokenizer
    >>> Preprocessor([("words", Tokenizer(["t"]))]).fit_transform(pl.DataFrame({"t": ["Gate B12, no delay"]}))["t"].to_list()
    [['gate', 'b12', 'no', 'delay']]
    """

    kinds: ClassVar = (Kind.TEXT,)
    accepts: ClassVar = (Kind.TEXT, Kind.CATEGORY)

    lowercase: bool = param(True, a_bool())
    token_pattern: str = param(WORDS, _PATTERN)

    def learn_column(self, column: str, dtype: pl.DataType, *answers: Any) -> dict[str, Any]:
        return {}

    def lower_column(self, column: str, learned: Mapping[str, Any], where: str) -> list[Operation]:
        return [SplitWords(column, Analyzer(self.lowercase, self.token_pattern))]
