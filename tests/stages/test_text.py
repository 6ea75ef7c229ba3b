"""Text stages against scikit-learn.

Covers `core.statistics.ngrams`, `core.text_analysis` and `stages.text_vectors` too.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.feature_extraction import text as sk

from rayline.core.errors import DataError, ParameterError
from rayline.core.schema import SPARSE
from rayline.core.text_analysis import Analyzer, key_of
from rayline.inference.pipeline import Preprocessor
from rayline.stages import CountVectorizer, HashingVectorizer, TfidfVectorizer, Tokenizer, Vectorizer

from .one_stage import check_single_rows

WORDS = ["snow", "Snow", "gate", "b12", "late,", "a", "no", "x_y", "ça", "delay!"]
documents = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=12).filter(
    lambda texts: any(len(word) > 1 for text in texts for word in text.split())
)


def vectors(stage: Any, texts: Sequence[str | None], new: Sequence[str | None] | None = None) -> csr_matrix:
    fitted = Preprocessor([("text", stage)]).fit(pl.DataFrame({"t": texts}, schema={"t": pl.String}))
    column = fitted.transform(pl.DataFrame({"t": texts if new is None else new}, schema={"t": pl.String}))["t"]
    assert column.dtype == SPARSE
    rows = column.to_list()
    indptr = np.cumsum([0, *(len(row["indices"]) for row in rows)])
    indices, values = ([x for row in rows for x in row[key]] for key in ("indices", "values"))
    assert len({row["size"] for row in rows}) == 1
    return csr_matrix((np.array(values, float), np.array(indices, int), indptr), shape=(len(rows), rows[0]["size"]))


def products(rows: csr_matrix) -> Any:
    """The inner products of the rows; of the columns that are used, as millions of empty ones cost time."""
    used, indices = np.unique(rows.indices, return_inverse=True)
    small = csr_matrix((rows.data, indices, rows.indptr), shape=(rows.shape[0], len(used)))
    return (small @ small.T).toarray()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"ngram_range": (1, 2)},
        {"ngram_range": (2, 3)},
        {"min_df": 2},
        {"max_df": 0.5},
        {"max_features": 3},
        {"binary": True},
        {"lowercase": False},
    ],
)
@given(texts=documents, new=documents)
def test_count_vectorizer(how: dict[str, Any], texts: list[str], new: list[str]) -> None:
    theirs = sk.CountVectorizer(**how)
    try:
        theirs.fit(texts)
    except ValueError:
        with pytest.raises(DataError, match="no grams"):
            vectors(CountVectorizer(["t"], **how), texts)
        return
    if (
        "max_features" in how
    ):  # of grams that are as frequent they take the first by place, we by the alphabet (see below)
        ours = vectors(CountVectorizer(["t"], **how), texts).toarray()
        assert sorted(ours.sum(axis=0)) == sorted(theirs.transform(texts).toarray().sum(axis=0))
        return
    np.testing.assert_array_equal(
        vectors(CountVectorizer(["t"], **how), texts, new).toarray(), theirs.transform(new).toarray()
    )


def test_max_features_takes_the_most_frequent() -> None:
    texts = ["snow snow gate", "gate late", "snow no"]
    theirs = sk.CountVectorizer(max_features=2)
    np.testing.assert_array_equal(
        vectors(CountVectorizer(["t"], max_features=2), texts).toarray(), theirs.fit_transform(texts).toarray()
    )


@pytest.mark.parametrize(
    "how", [{}, {"norm": "l1"}, {"norm": None}, {"sublinear_tf": True}, {"use_idf": False}, {"ngram_range": (1, 2)}]
)
@given(texts=documents, new=documents)
def test_tfidf_vectorizer(how: dict[str, Any], texts: list[str], new: list[str]) -> None:
    expected = sk.TfidfVectorizer(**how).fit(texts).transform(new)
    np.testing.assert_allclose(
        vectors(TfidfVectorizer(["t"], **how), texts, new).toarray(), expected.toarray(), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("how", [{}, {"sublinear_tf": True, "norm": "l1"}, {"ngram_range": (1, 3)}])
@given(texts=documents)
def test_hashed_tfidf_has_the_same_geometry(how: dict[str, Any], texts: list[str]) -> None:
    theirs = sk.TfidfVectorizer(**how).fit_transform(texts)
    ours = vectors(Vectorizer(["t"], n_features=1 << 26, **how), texts)  # so many buckets that none is shared
    np.testing.assert_allclose(products(ours), products(theirs), rtol=1e-9, atol=1e-12)


@given(texts=documents)
def test_hashed_counts_have_the_same_geometry(texts: list[str]) -> None:
    theirs = sk.HashingVectorizer(alternate_sign=False, n_features=1 << 26).transform(texts)
    ours = vectors(HashingVectorizer(["t"], n_features=1 << 26), texts)
    np.testing.assert_allclose(products(ours), products(theirs), rtol=1e-9, atol=1e-12)


def test_keys_are_the_same_in_every_process() -> None:
    assert key_of("snow") == 0x2A1FC81074CDA2D6
    code = "from rayline.core.text_analysis import Analyzer; print(Analyzer(ngram_range=(1, 3)).row_keys('late because of snow'))"
    seen = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert seen == {f"{Analyzer(ngram_range=(1, 3)).row_keys('late because of snow')}\n"}


def test_free_text_is_told_from_categories() -> None:
    table = pl.DataFrame(
        {"city": ["Oslo", "Rome"], "note": ["late because of much snow", "on time as it nearly always is"], "x": [1, 2]}
    )
    fitted = Preprocessor([("text", Vectorizer())]).fit(table)
    assert {name for name, dtype in fitted.output_schema.items() if dtype == SPARSE} == {"note"}


def test_missing_and_empty_texts_are_zeros() -> None:
    assert vectors(Vectorizer(["t"]), ["snow gate", None, "", "!"]).getnnz(axis=1).tolist() == [2, 0, 0, 0]


@pytest.mark.parametrize(
    "text", ["naïve Straße", "हिन्दी भाषा", "ΣΑΣ ΣΟΣ", "İstanbul", "a\u0301bc", "日本 語学", "x\x00yy"]
)
def test_single_rows_read_unicode_alike(text: str) -> None:
    fitted = Preprocessor([("text", Tokenizer(["t"]))]).fit(pl.DataFrame({"t": [text]}))
    check_single_rows(fitted, pl.DataFrame({"t": [text]}))


def test_wrong_parameters() -> None:
    for how in ({"ngram_range": (2, 1)}, {"token_pattern": "("}, {"n_features": 0}, {"norm": "l3"}):
        with pytest.raises(ParameterError):
            Vectorizer(**how)


@pytest.mark.parametrize("pattern", [".", r"\S+ ?", r"[a-z](?: [a-z])?", "(?s)."])
@pytest.mark.parametrize(
    "how", [{"ngram_range": (3, 3)}, {"ngram_range": (1, 2)}, {"ngram_range": (2, 3), "max_features": 4}]
)
def test_a_token_may_hold_any_character(pattern: str, how: dict[str, Any]) -> None:
    texts = ["a b c", "a b  c a b", "b\x00c", "x", "c a\nb"]
    how = {"token_pattern": pattern, **how}
    theirs = sk.CountVectorizer(**how).fit(texts)
    if how.get("max_features") is None:
        ours = vectors(CountVectorizer(["t"], **how), texts)
        np.testing.assert_array_equal(ours.toarray(), theirs.transform(texts).toarray())
    for stage in (CountVectorizer(["t"], **how), TfidfVectorizer(["t"], **how)):
        fitted = Preprocessor([("t", stage)]).fit(pl.DataFrame({"t": texts}))
        again = Preprocessor.from_json(json.loads(json.dumps(fitted.to_json())))
        table = again.transform(pl.DataFrame({"t": texts}))["t"].to_list()
        assert sum(len(row["indices"]) for row in table) > 0
        check_single_rows(again, pl.DataFrame({"t": texts}))


def test_a_vocabulary_saved_without_keys_reads_as_before() -> None:
    texts = ["snow on the way", "no snow"]
    fitted = Preprocessor([("t", CountVectorizer(["t"], ngram_range=(1, 2)))]).fit(pl.DataFrame({"t": texts}))
    saved = fitted.to_json()
    (own,) = (entry for entry in _dicts(saved) if "vocabulary" in entry)
    del own["keys"]
    table = pl.DataFrame({"t": texts})
    assert Preprocessor.from_json(saved).transform(table).equals(fitted.transform(table))


def _dicts(value: Any) -> Any:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _dicts(item)


@pytest.mark.parametrize("pattern", [r"(\w)\w+", r"#(\w+)", r"\B(\w\w)", r"(?:a|b)(\w*)", r"(\d)|x"])
def test_a_group_of_the_pattern_is_the_token(pattern: str) -> None:
    texts = ["#snow on #way", "abc bcd", "x 12 y3", "café"]
    theirs = [sk.CountVectorizer(token_pattern=pattern).build_tokenizer()(text) for text in texts]
    table = pl.DataFrame({"t": texts})
    assert Preprocessor([("t", Tokenizer(["t"], token_pattern=pattern))]).fit_transform(table)["t"].to_list() == theirs
    for stage, oracle in ((CountVectorizer, sk.CountVectorizer), (TfidfVectorizer, sk.TfidfVectorizer)):
        wanted = oracle(token_pattern=pattern).fit_transform(texts).toarray()
        np.testing.assert_allclose(vectors(stage(["t"], token_pattern=pattern), texts).toarray(), wanted)
    for stage in (Vectorizer, HashingVectorizer):  # type: ignore[assignment]
        ours = vectors(stage(["t"], token_pattern=pattern, norm=None, n_features=1 << 30), texts)  # type: ignore[call-arg]
        assert (ours.getnnz(axis=1) == [len(set(tokens)) for tokens in theirs]).all()


@pytest.mark.parametrize("stage", [Tokenizer, Vectorizer, HashingVectorizer, CountVectorizer, TfidfVectorizer])
def test_several_groups_are_refused(stage: Any) -> None:
    with pytest.raises(ParameterError, match="at most one capturing group"):
        Preprocessor([("t", stage(["t"], token_pattern=r"(a)(b)"))]).fit(pl.DataFrame({"t": ["ab"]}))
