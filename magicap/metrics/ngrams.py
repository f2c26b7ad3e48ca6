"""n-grams of many captions as integer arrays, so that counting and comparing them is array arithmetic.

:class:`Ngrams` numbers the n-grams of one corpus from 0. :func:`hash_ngrams` gives them 64-bit numbers that
need no vocabulary and stay the same from one corpus to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from magicap.arrays import BoolArray, IntArray

ORDERS = 4
"""BLEU and CIDEr-D look at n-grams of one to four words."""

WordHashes = NDArray[np.uint64]

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: no word is lost in products modulo 2**64


@dataclass(frozen=True, eq=False)
class Ngrams:
    """The distinct n-grams of one order in each of N captions, M of them in all."""

    starts: IntArray
    """(N + 1,) where each caption's n-grams begin; the last entry is M."""

    gram: IntArray
    """(M,) which n-gram, 0 to ``size`` - 1, rising within a caption."""

    count: IntArray
    """(M,) how often it stands in the caption."""

    first: IntArray
    """(size,) where each n-gram first begins in the running text of all captions' words."""

    @property
    def size(self) -> int:
        """How many different n-grams there are in all captions."""
        return len(self.first)

    @property
    def captions(self) -> IntArray:
        """(M,) the caption of each entry."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def entries(self, captions: IntArray) -> tuple[IntArray, IntArray]:
        """Rows of the table that belong to some captions, which may repeat.

        Args:
            captions: (P,) caption numbers.

        Returns:
            Positions (Q,) in :attr:`gram` and :attr:`count`, and which of the P each belongs to (Q,).
        """
        lengths = (self.starts[1:] - self.starts[:-1])[captions]
        query = np.repeat(np.arange(len(captions)), lengths)
        before = np.cumsum(lengths) - lengths
        return np.arange(len(query)) - before[query] + self.starts[captions][query], query


def words(tokens: Sequence[str]) -> list[str]:
    """Tokens as coco-caption counts them in n-grams: PTB's one token ``1 1/2`` falls apart again."""
    return " ".join(tokens).split()


def count_ngrams(captions: Sequence[Sequence[str]], orders: int = ORDERS) -> list[Ngrams]:
    """Tables for n = 1 to ``orders`` of tokenised captions."""
    ids_by_word: dict[str, int] = {}
    numbers = (ids_by_word.setdefault(word, len(ids_by_word)) for word in chain.from_iterable(captions))
    ids = np.fromiter(numbers, dtype=np.int64)
    vocabulary = max(len(ids_by_word), 1)
    lengths = np.array([len(caption) for caption in captions], dtype=np.int64)
    caption = np.repeat(np.arange(len(captions)), lengths)
    remaining = _remaining_words(lengths)

    tables = []
    gram, size = ids, len(ids_by_word)  # the n-gram that starts at each word
    for n in range(1, orders + 1):
        begins = np.flatnonzero(remaining >= n)
        if n > 1:  # an n-gram is its first n - 1 words and the n-th: a pair of numbers, numbered anew
            pairs = gram[begins] * vocabulary + ids[begins + n - 1]
            distinct, numbered = np.unique(pairs, return_inverse=True)
            gram, size = np.zeros_like(ids), len(distinct)
            gram[begins] = numbered
        keys, count = np.unique(caption[begins] * max(size, 1) + gram[begins], return_counts=True)
        first = np.zeros(size, dtype=np.int64)
        first[gram[begins][::-1]] = begins[::-1]  # of several, the last one written is the first in the text
        owner = keys // max(size, 1)
        starts = np.searchsorted(owner, np.arange(len(captions) + 1))
        tables.append(Ngrams(starts, keys - owner * max(size, 1), count.astype(np.int64), first))
    return tables


def look_up(keys: IntArray, wanted: IntArray) -> tuple[IntArray, BoolArray]:
    """Where wanted keys stand in a rising list without repeats, and whether they do.

    Returns:
        Positions (Q,), valid only where the second, (Q,) of truth, says so.
    """
    position = np.searchsorted(keys, wanted)
    position[position == len(keys)] = 0
    present = keys[position] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)
    return position, present


def hash_words(tokens: Iterable[str]) -> WordHashes:
    """(T,) 64 bits of each word."""
    return np.array([_hash_word(word) for word in tokens], dtype=np.uint64)


def hash_ngrams(text: WordHashes, begins: IntArray, order: int) -> IntArray:
    """(E,) numbers of the n-grams of ``order`` words that begin at some positions of a text.

    That two n-grams share a number is as good as impossible.

    Args:
        text: (T,) hashed words.
        begins: (E,) positions, at most T - ``order``.
    """
    numbers = np.zeros(len(begins), dtype=np.uint64)
    for offset in range(order):
        numbers = numbers * _BASE + text[begins + offset]
    return numbers.view(np.int64)


def list_ngrams(text: WordHashes, lengths: IntArray) -> tuple[IntArray, IntArray]:
    """Every n-gram of one to four words of some captions, as often as it stands there, E in all.

    They are listed order by order, and in an order by where they begin.

    Args:
        text: (T,) hashed words of all captions.
        lengths: (N,) words of each caption.

    Returns:
        Numbers of the n-grams and where in the text each begins; each (E,).
    """
    remaining = _remaining_words(lengths)
    begins = [np.flatnonzero(remaining > order) for order in range(ORDERS)]
    numbers = [hash_ngrams(text, positions, order) for order, positions in enumerate(begins, start=1)]
    return np.concatenate(numbers), np.concatenate(begins)


def _remaining_words(lengths: IntArray) -> IntArray:
    """(T,) how many words there are from each to its caption's end: lengths [2, 3] give [2, 1, 3, 2, 1]."""
    return np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())


@lru_cache(maxsize=2**16)
def _hash_word(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
