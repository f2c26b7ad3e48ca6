"""n-grams of many captions as integer tables, so that counting and comparing them is array arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from magicap.arrays import IntArray

ORDERS = 4
"""BLEU and CIDEr-D look at n-grams of one to four words."""


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

    def entries(self, captions: IntArray) -> tuple[IntArray, IntArray]:
        """Rows of the table that belong to some captions, a caption may be asked for again.

        Args:
            captions: (P,) caption numbers.

        Returns:
            Positions (Q,) in :attr:`gram` and :attr:`count`, and which of the P each belongs to (Q,).
        """
        lengths = (self.starts[1:] - self.starts[:-1])[captions]
        asker = np.repeat(np.arange(len(captions)), lengths)
        before = np.cumsum(lengths) - lengths
        return np.arange(len(asker)) - before[asker] + self.starts[captions][asker], asker


def words(tokens: Sequence[str]) -> list[str]:
    """Tokens as coco-caption counts them in n-grams: PTB's one token ``1 1/2`` falls apart again."""
    return " ".join(tokens).split()


def count_ngrams(captions: Sequence[Sequence[str]], orders: int = ORDERS) -> list[Ngrams]:
    """Tables for n = 1 to ``orders`` of tokenized captions."""
    known: dict[str, int] = {}
    numbers = (known.setdefault(word, len(known)) for word in chain.from_iterable(captions))
    ids = np.fromiter(numbers, dtype=np.int64)
    lengths = np.array([len(caption) for caption in captions], dtype=np.int64)
    caption = np.repeat(np.arange(len(captions)), lengths)
    room = np.repeat(np.cumsum(lengths), lengths) - np.arange(
        len(ids)
    )  # words from here to the caption's end

    tables = []
    gram, size = ids, len(known)  # the n-gram that starts at each word
    for n in range(1, orders + 1):
        if n > 1:  # an n-gram is its first n - 1 words and the n-th: a pair of numbers, numbered anew
            fits = room >= n
            last = ids[np.flatnonzero(fits) + n - 1]
            distinct, numbered = np.unique(gram[fits] * max(len(known), 1) + last, return_inverse=True)
            gram, size = np.zeros_like(ids), len(distinct)
            gram[fits] = numbered
        begins = np.flatnonzero(room >= n)
        keys = caption[begins] * max(size, 1) + gram[begins]
        found, count = np.unique(keys, return_counts=True)
        first = np.zeros(size, dtype=np.int64)
        first[gram[begins][::-1]] = begins[::-1]  # of several, the last one written is the first in the text
        owner = found // max(size, 1)
        starts = np.searchsorted(owner, np.arange(len(captions) + 1))
        tables.append(Ngrams(starts, found - owner * max(size, 1), count.astype(np.int64), first))
    return tables


def look_up(keys: IntArray, wanted: IntArray) -> tuple[IntArray, NDArray[np.bool_]]:
    """Where wanted keys stand in a rising list without repeats, and whether they do.

    Returns:
        Positions (Q,), valid only where the second, (Q,) of truth, says so.
    """
    position = np.searchsorted(keys, wanted)
    position[position == len(keys)] = 0
    found = keys[position] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)
    return position, found
