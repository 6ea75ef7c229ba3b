"""From texts to grams: tokens, runs of tokens, and a 64-bit key for each that never changes.

A token's key is the first 8 bytes of its BLAKE2b digest; the key of a longer gram is mixed from the keys of its tokens,
so no string of a gram is ever built, and each distinct token is hashed once for a block. The arithmetic is spelled out
here, on 64-bit integers: the same key in every process and with every version of a library.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from rayline.core.schema import col

Integers = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]

WORDS = r"\w\w+"
"""Words of two or more letters, digits or underscores, as in scikit-learn."""

_FACTOR = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd
_MASK = (1 << 64) - 1


@functools.lru_cache(maxsize=1 << 16)
def key_of(text: str) -> int:
    """Return the key of a string."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def keys_of(texts: pl.Series) -> Keys:
    """Return the key of each string; 0 for a missing one."""
    distinct, places = _encoded(texts)
    known = hashed(distinct)
    return known[places] if len(known) else np.zeros(len(places), dtype=np.uint64)


_NO_KEY = bytes(8)


def hashed(texts: Iterable[str | None]) -> Keys:
    """Return the key of each of some distinct strings, which gain nothing from a cache; 0 for a missing one."""
    digest, size = hashlib.blake2b, 8
    joined = b"".join([_NO_KEY if text is None else digest(text.encode(), digest_size=size).digest() for text in texts])
    return np.frombuffer(joined, dtype="<u8").astype(np.uint64, copy=False)


def as_text(column: str) -> pl.Expr:
    """Return a category, boolean or integer as text, the same as `row_as_text` gives."""
    return col(column).cast(pl.String)


def row_as_text(value: Any) -> str | None:
    """One category, boolean or integer as text; None of a missing one."""
    return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def named_by(prefix: str, value: Any) -> str:
    """Return the name of the column that stands for one category. Arrow's names cannot hold NUL, so it is written as U+2400."""
    return f"{prefix}_{row_as_text(value)}".replace("\x00", "\u2400")


def _longer(key: int, token: int) -> int:
    """Return the key of a gram with one more token."""
    mixed = ((key * _FACTOR) & _MASK) ^ token
    mixed = ((mixed ^ (mixed >> 29)) * _FACTOR) & _MASK
    return mixed ^ (mixed >> 32)


def _all_longer(keys: Keys, tokens: Keys) -> Keys:
    """`_longer` of each."""
    factor = np.uint64(_FACTOR)
    mixed = (keys * factor) ^ tokens
    mixed = (mixed ^ (mixed >> np.uint64(29))) * factor
    mixed ^= mixed >> np.uint64(32)
    return mixed


def _encoded(texts: pl.Series) -> tuple[list[str | None], Integers]:
    """Return the distinct strings, and the place of each string among them."""
    arrow = texts.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).dictionary_encode(null_encoding="encode")
    return arrow.dictionary.to_pylist(), arrow.indices.to_numpy(zero_copy_only=False).astype(np.int64)


@dataclass(frozen=True)
class Grams:
    """All grams of some texts: the row and the key of each, and how to spell it."""

    rows: Integers
    keys: Keys
    starts: Integers  # the place of its first token
    sizes: Integers  # how many tokens it has
    tokens: Integers  # the place of each token in `words`
    words: list[str | None]

    def spell(self, which: Integers) -> pl.Series:
        """Return the texts of some grams."""
        words = pl.Series(self.words, dtype=pl.String)
        starts, sizes = self.starts[which], self.sizes[which]
        last = max(len(self.tokens) - 1, 0)
        columns = []
        for place in range(int(sizes.max(initial=0))):
            tokens = words.gather(self.tokens[np.minimum(starts + place, last)])
            columns.append(tokens.set(pl.Series(sizes <= place), None).alias(str(place)))
        if not columns:
            return pl.Series(dtype=pl.String)
        return pl.DataFrame(columns).select(pl.concat_str(pl.all(), separator=" ", ignore_nulls=True)).to_series()


def n_groups(pattern: str) -> int:
    """Return how many capturing groups a regular expression has."""
    return len(cast(pl.Struct, pl.select(pl.lit("").str.extract_groups(pattern)).to_series().dtype).fields)


@dataclass(frozen=True)
class Analyzer:
    """The tokenization of texts.

    With `group` a token is what the one capturing group of the pattern matches, otherwise the whole match.
    """

    lowercase: bool = True
    token_pattern: str = WORDS
    ngram_range: tuple[int, int] = (1, 1)
    stop_words: tuple[str, ...] = ()
    group: bool = False

    def split(self, texts: pl.Expr) -> pl.Expr:
        """Return the tokens of each text, in order; null of a missing text."""
        texts = texts.cast(pl.String)
        if self.lowercase:
            texts = texts.str.to_lowercase()
        if self.group:
            # Marked where it stands, and then taken out: a match alone has lost what the pattern may say of its surroundings.
            marked = texts.str.replace_all(f"[{_OPEN}{_CLOSE}]", "").str.replace_all(
                self.token_pattern, f"{_OPEN}${{1}}{_CLOSE}"
            )
            tokens = marked.str.extract_all(f"{_OPEN}[^{_CLOSE}]*").list.eval(pl.element().str.strip_prefix(_OPEN))
        else:
            tokens = texts.str.extract_all(self.token_pattern)
        if self.stop_words:
            stopped = pl.Series(self.stop_words, dtype=pl.String).implode()
            tokens = tokens.list.eval(pl.element().filter(~pl.element().is_in(stopped)))
        return tokens

    def tokens(self, texts: pl.Series) -> pl.Series:
        """Split a series, as `split` does for an expression."""
        return texts.to_frame("text").select(self.split(pl.col("text"))).to_series()

    def grams(self, texts: pl.Series) -> Grams:
        """Return the grams of all texts, grouped by row for each size."""
        lists = self.tokens(texts)
        lengths = lists.list.len().fill_null(0).cast(pl.Int64).to_numpy()
        words, tokens = _encoded(lists.explode().drop_nulls())
        token_keys = np.array([key_of(str(word)) for word in words], dtype=np.uint64)
        row_of = np.repeat(np.arange(len(lengths)), lengths)
        keys = token_keys[tokens] if len(words) else np.empty(0, dtype=np.uint64)
        first, last = self.ngram_range
        starts, current, single = np.arange(len(tokens)), keys, keys
        parts: list[tuple[Integers, Keys, Integers, int]] = []
        for size in range(1, last + 1):
            if size > 1:
                inside = starts + size - 1 < len(tokens)
                starts, current = starts[inside], current[inside]
                inside = row_of[starts] == row_of[starts + size - 1]
                starts, current = starts[inside], current[inside]
                current = _all_longer(current, single[starts + size - 1])
            if size >= first:
                parts.append((row_of[starts], current, starts, size))
        return Grams(
            np.concatenate([f[0] for f in parts]),
            np.concatenate([f[1] for f in parts]),
            np.concatenate([f[2] for f in parts]),
            np.concatenate([np.full(len(f[0]), f[3]) for f in parts]),
            tokens,
            words,
        )

    @functools.cached_property
    def _stopped(self) -> frozenset[str]:
        return frozenset(self.stop_words)

    def row_tokens(self, text: str) -> list[str]:
        """Return the tokens of one text. Python's and Polars' ideas of letters differ, so only ASCII is read by Python."""
        if text.isascii() and self.token_pattern == WORDS:
            tokens = _ASCII_WORDS.findall(text.lower() if self.lowercase else text)
            return [token for token in tokens if token not in self._stopped] if self.stop_words else tokens
        return list(self.tokens(pl.Series([text])).to_list()[0])

    def row_keys(self, text: str) -> list[int]:
        """Return the keys of the grams of one text."""
        single = [key_of(token) for token in self.row_tokens(text)]
        first, last = self.ngram_range
        keys = list(single) if first == 1 else []
        current = single
        for size in range(2, last + 1):
            current = [
                _longer(key, single[i + size - 1]) for i, key in enumerate(current[: max(len(single) - size + 1, 0)])
            ]
            if size >= first:
                keys += current
        return keys

    def spelled_key(self, gram: str) -> int:
        """Return the key of a gram that `Grams.spell` wrote, of tokens without a space: for saved vocabularies without keys."""
        keys = [key_of(token) for token in gram.split(" ")]
        return functools.reduce(_longer, keys[1:], keys[0])


_OPEN, _CLOSE = "\ufdd0", "\ufdd1"  # Unicode keeps them free for uses like this; no text should hold them
_ASCII_WORDS = re.compile(WORDS, re.ASCII)
