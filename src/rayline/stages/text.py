"""Stages that turn free text into sparse vectors, without ever building a dense matrix.

A text is cut into tokens, runs of tokens ("grams") are counted, and the counts become one sparse vector for each row: a
column of the type `rayline.core.schema.SPARSE`. Missing texts become vectors of zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias

import polars as pl

from rayline.core.errors import DataError, ParameterError
from rayline.core.operations.base import Operation
from rayline.core.schema import Kind
from rayline.core.stage import ColumnStage, FitContext, ParameterCheck, Stage, an_int, param
from rayline.core.statistics.base import StatisticRequest
from rayline.core.statistics.counts import MAX_CATEGORIES
from rayline.core.statistics.ngrams import DocumentFrequency, GramCounts
from rayline.core.text_analysis import WORDS, Analyzer, n_groups
from rayline.stages.text_vectors import SplitWords, Vectorize


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


def _group(stage: Any) -> dict[str, Any]:
    """Return the learned flag that a token is the match of the pattern's one capturing group.

    Files of older versions lack the flag: there a token is the whole match.
    """
    n = n_groups(stage.token_pattern)
    if n > 1:
        raise ParameterError.value(
            "token_pattern",
            "at most one capturing group (others are written (?:…))",
            stage.token_pattern,
            where=type(stage).__name__,
        )
    return {"group": True} if n else {}


def _group_of(learned: Mapping[str, Any]) -> dict[str, Any]:
    return {"group": True} if learned.get("group") else {}


_PATTERN = ParameterCheck("a regular expression in Rust's syntax", _is_pattern)
_STOP_WORDS = ParameterCheck(
    "a list of words, or None",
    lambda v: v is None or (isinstance(v, (list, tuple)) and all(isinstance(word, str) for word in v)),
)
_RANGE = ParameterCheck("two integers from 1 to 10, the smaller first", _is_range)

TextNorm: TypeAlias = Literal["l2", "l1"]
"""The norm of a text's vector that becomes 1."""


@dataclass(frozen=True)
class _TextStage(ColumnStage):
    """The parameters that all text stages share: how texts are split."""

    kinds: ClassVar = (Kind.TEXT,)
    accepts: ClassVar = (Kind.TEXT, Kind.CATEGORY)

    ngram_range: tuple[int, int] = param((1, 1), _RANGE)
    lowercase: bool = True
    token_pattern: str = param(WORDS, _PATTERN)
    stop_words: Sequence[str] | None = param(None, _STOP_WORDS)

    unsupported_params: ClassVar = {
        **Stage.unsupported_params,
        "analyzer": 'words are the matches of token_pattern; token_pattern="." with ngram_range=(3, 3) uses characters',
        "alternate_sign": "leave it out: counts stay positive",
        "vocabulary": "leave it out: it is learned; max_features, min_df and max_df limit it",
        "strip_accents": "leave it out, or change the texts first (FunctionTransformer)",
        "smooth_idf": "leave it out: idf is smoothed",
    }

    def analyzer(self, learned: Mapping[str, Any]) -> Analyzer:
        """Return the analyzer that splits texts.

        Parameters
        ----------
        learned
            What a fit learned about the pattern: whether it has a capturing group.

        Returns
        -------
        Analyzer
            Of a text it gives the grams; of a null none.
        """
        words = tuple(sorted(set(self.stop_words or ())))
        return Analyzer(
            self.lowercase, self.token_pattern, (self.ngram_range[0], self.ngram_range[1]), words, **_group_of(learned)
        )

    def options(self) -> dict[str, Any]:
        """Return the analyzer's settings as options of a statistic request.

        Returns
        -------
        dict
            Only hashable values; settings that have their defaults may be left out.

        Raises
        ------
        ParameterError
            When the pattern has more than one capturing group.
        """
        analyzer = self.analyzer(_group(self))
        return {
            "lowercase": analyzer.lowercase,
            "token_pattern": analyzer.token_pattern,
            "ngram_range": analyzer.ngram_range,
            **({"stop_words": analyzer.stop_words} if analyzer.stop_words else {}),
            **_group_of(_group(self)),
        }

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        return _group(self)


@dataclass(frozen=True)
class Vectorizer(_TextStage):
    """Turn each text into one sparse vector of tf-idf weights; features are hash buckets, so no vocabulary has to fit in memory.

    A weight is the count of a gram times `ln((1 + texts) / (1 + texts with it)) + 1`, learned in fit; then each vector is
    normalized. The formulas are those of scikit-learn's TfidfVectorizer. Missing texts become vectors of zeros. The column
    keeps its name and becomes a sparse vector.

    Parameters
    ----------
    columns
        String columns; when omitted, all that hold free text (four or more words on average).
    ngram_range
        The minimum and maximum number of consecutive words that form a gram (from 1 to 10).
    lowercase
        Whether case is ignored.
    token_pattern
        The regular expression of a word, in Rust's syntax; by default two or more letters, digits or underscores. With "."
        every character is a word. If it has a capturing group, the word is the match of the group.
    stop_words
        Words to ignore, after `lowercase`; for instance `list(sklearn.feature_extraction.text.ENGLISH_STOP_WORDS)`.
    n_features
        The number of hash buckets. Different grams may share one: with 2^18 buckets and 10,000 grams about 4 % do.
    use_idf
        Whether to give rare grams more weight.
    sublinear_tf
        Whether to replace a count n by 1 + ln(n).
    norm
        The norm of each vector: "l2", "l1", or None for no normalization.

    Raises
    ------
    ParameterError
        When `token_pattern` is no regular expression of Rust, `ngram_range` is not two numbers from 1 to 10, or `norm` is
        unknown; in fit, when the pattern has two capturing groups.

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
    use_idf: bool = True
    sublinear_tf: bool = False
    norm: TextNorm | None = "l2"

    def column_requests(self, column: str, context: FitContext) -> list[StatisticRequest]:
        request = context.request(DocumentFrequency, column, n_features=self.n_features, **self.options())
        return [request] if self.use_idf else []

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        if not self.use_idf:
            return _group(self)
        counts: DocumentFrequency = statistics[0]
        return {
            **_group(self),
            "n_rows": counts.n_rows,
            "rows_with": {"feature": counts.features.tolist(), "n": counts.rows_with.tolist()},
        }

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        idf = {name: learned[name] for name in ("n_rows", "rows_with") if name in learned}
        how: dict[str, Any] = {"norm": self.norm, "sublinear_tf": self.sublinear_tf}
        return [Vectorize(column, self.analyzer(learned), self.n_features, **how, **idf)]


@dataclass(frozen=True)
class HashingVectorizer(_TextStage):
    """Turn each text into one sparse vector of gram counts in hash buckets; nothing is learned.

    Works as scikit-learn's with `alternate_sign=False`, but with another hash function. Missing texts become vectors of
    zeros.

    Parameters
    ----------
    columns
        String columns; when omitted, all that hold free text.
    ngram_range, lowercase, token_pattern, stop_words
        As in Vectorizer.
    n_features
        The number of hash buckets.
    binary
        Whether to use 1 for every gram that occurs, instead of its count.
    norm
        The norm of each vector: "l2", "l1", or None for no normalization.

    Raises
    ------
    ParameterError
        When `token_pattern` is no regular expression of Rust, or `norm` is unknown; in fit, when the pattern has two capturing
        groups.

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
    binary: bool = False
    norm: TextNorm | None = "l2"

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [Vectorize(column, self.analyzer(learned), self.n_features, norm=self.norm, binary=self.binary)]


@dataclass(frozen=True)
class _Vocabulary(_TextStage):
    """A text stage that learns a vocabulary of grams."""

    min_df: float = param(1, ParameterCheck("a count, or a share of the texts below 1", lambda v: _is_df(v)))  # noqa: PLW0108  # defined below
    max_df: float = param(1.0, ParameterCheck("a count, or a share of the texts up to 1.0", lambda v: _is_df(v)))  # noqa: PLW0108
    max_features: int | None = param(None, an_int(1, none=True))
    binary: bool = False

    def column_requests(self, column: str, context: FitContext) -> list[StatisticRequest]:
        return [context.request(GramCounts, column, **self.options())]

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        counts: GramCounts = statistics[0]
        if counts.overflow:
            raise DataError(
                f"{type(self).__name__}: column {column!r} has too many different grams to count.",
                f"Expected at most {MAX_CATEGORIES:,}; got more.",
                "use HashingVectorizer or Vectorizer, which hash them.",
            )
        low, high = (v if isinstance(v, int) else v * counts.n_rows for v in (self.min_df, self.max_df))
        table = counts.table.filter(pl.col("n_rows").is_between(low, high)).sort("gram", "key")
        if self.max_features is not None:
            table = table.sort("n", descending=True, maintain_order=True).head(self.max_features).sort("gram", "key")
        if not table.height:
            raise DataError(
                f"{type(self).__name__}: column {column!r} has no grams to learn from.",
                f"Expected some grams that occur in {low:g} to {high:g} of {counts.n_rows} texts.",
                "change min_df or max_df, or drop the column.",
            )
        n = table["n_rows"].to_list()
        return {
            **_group(self),
            "vocabulary": table["gram"].to_list(),
            "keys": table["key"].to_list(),
            "n_rows": counts.n_rows,
            "rows_with": {"feature": list(range(len(n))), "n": n},
        }

    def _vectorize(self, column: str, learned: Mapping[str, Any], **how: Any) -> Vectorize:
        vocabulary, keys = learned["vocabulary"], learned.get("keys")
        return Vectorize(
            column, self.analyzer(learned), len(vocabulary), vocabulary, keys=keys, binary=self.binary, **how
        )


def _is_df(value: Any) -> bool:
    return (type(value) is int and value >= 0) or (isinstance(value, float) and 0.0 <= value <= 1.0)


@dataclass(frozen=True)
class CountVectorizer(_Vocabulary):
    """Turn each text into one sparse vector of gram counts; the grams are learned, in alphabetical order.

    Works as scikit-learn's, with the same `min_df`, `max_df` and `max_features`. Missing texts become vectors of zeros.

    Parameters
    ----------
    columns
        String columns; when omitted, all that hold free text.
    ngram_range, lowercase, token_pattern, stop_words
        As in Vectorizer.
    min_df, max_df
        Grams that occur in fewer or more texts are left out: counts when integers, shares of the texts when floats.
    max_features
        The maximum number of grams; the most frequent ones are kept.
    binary
        Whether to use 1 for every gram that occurs, instead of its count.

    Raises
    ------
    DataError
        In fit, when no gram remains, or there are more than a million distinct grams.
    ParameterError
        When `token_pattern` is no regular expression of Rust, and on document frequencies or ranges of grams that cannot be;
        in fit, when the pattern has two capturing groups.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline.train import Preprocessor
    >>> from rayline.stages import CountVectorizer
    >>> table = pl.DataFrame({"note": ["no snow no delay", "snow"]})
    >>> Preprocessor([("text", CountVectorizer(["note"]))]).fit_transform(table)["note"].struct.field("values").to_list()
    [[1.0, 2.0, 1.0], [1.0]]
    """

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [self._vectorize(column, learned)]


@dataclass(frozen=True)
class TfidfVectorizer(_Vocabulary):
    """Turn each text into one sparse vector of tf-idf weights; the grams are learned, in alphabetical order.

    Works as scikit-learn's (with smoothed idf). Missing texts become vectors of zeros.

    Parameters
    ----------
    columns
        String columns; when omitted, all that hold free text.
    ngram_range, lowercase, token_pattern, stop_words
        As in Vectorizer.
    min_df, max_df, max_features, binary
        As in CountVectorizer.
    use_idf, sublinear_tf, norm
        As in Vectorizer.

    Raises
    ------
    DataError
        In fit, when no gram remains, or there are more than a million distinct grams.
    ParameterError
        As CountVectorizer, and on an unknown `norm`.

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

    use_idf: bool = True
    sublinear_tf: bool = False
    norm: TextNorm | None = "l2"

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        idf: dict[str, Any] = {"n_rows": learned["n_rows"], "rows_with": learned["rows_with"]} if self.use_idf else {}
        how: dict[str, Any] = {"norm": self.norm, "sublinear_tf": self.sublinear_tf}
        return [self._vectorize(column, learned, **idf, **how)]


@dataclass(frozen=True)
class Tokenizer(ColumnStage):
    """Turn each text into the list of its words; missing texts stay missing.

    Parameters
    ----------
    columns
        String columns; when omitted, all that hold free text.
    lowercase
        Whether to convert words to lower case.
    token_pattern
        The regular expression of a word, in Rust's syntax, as in Vectorizer.

    Raises
    ------
    ParameterError
        When `token_pattern` is no regular expression of Rust; in fit, when it has two capturing groups.

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

    lowercase: bool = True
    token_pattern: str = param(WORDS, _PATTERN)

    def learn_column(self, column: str, dtype: pl.DataType, *statistics: Any) -> dict[str, Any]:
        return _group(self)

    def column_to_operations(self, column: str, learned: Mapping[str, Any]) -> list[Operation]:
        return [SplitWords(column, Analyzer(self.lowercase, self.token_pattern, **_group_of(learned)))]
