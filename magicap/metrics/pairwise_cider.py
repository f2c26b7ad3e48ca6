"""CIDEr-D of captions with one another, fast enough to be asked at every picture: what a consensus is.

n-grams are weighed by how few captions of a corpus hold them, as CIDEr-D weighs them by images. They are
known by numbers that need no vocabulary, so what is known of a corpus is two arrays.

Shapes: C captions, R of them references, E n-grams of all of them one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Self

import numpy as np

from magicap.arrays import FloatArray, IntArray
from magicap.metrics.cider import SIGMA
from magicap.metrics.ngrams import ORDERS, look_up, words
from magicap.metrics.tokenizer import PTB

_SMALLEST = 1e-6  # probability of the others that a caption is held against
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: no word is lost in products modulo 2**64


@dataclass(frozen=True, eq=False)
class DocumentFrequencies:
    """In how many captions of a corpus each n-gram stands."""

    captions: int
    """How many captions there are."""

    numbers: IntArray
    """n-grams that stand in at least two of them, rising."""

    counts: IntArray
    """In how many."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """Count a corpus of captions."""
        grams = _Ngrams.of(texts)
        numbers, counts = np.unique(grams.number[grams.occurrence == 0], return_counts=True)
        often = counts > 1
        return cls(len(texts), numbers[often], counts[often])

    def __call__(self, numbers: IntArray) -> FloatArray:
        """Log of captions over those that each n-gram stands in, at least one."""
        position, found = look_up(self.numbers, numbers)
        counts = np.where(found, self.counts[position], 1) if len(self.counts) else np.ones(len(numbers))
        return np.asarray(np.log(max(self.captions, 1)) - np.log(counts))


def pairwise_cider_d(
    texts: Sequence[str], references: int, document_frequencies: DocumentFrequencies
) -> FloatArray:
    """(C, R) CIDEr-D of captions, 0 to 10, each held against one reference; float32.

    Args:
        texts: C captions.
        references: how many of them, the first, are the references.
        document_frequencies: of the corpus.
    """
    grams = _Ngrams.of(texts)
    unit = grams.units(document_frequencies)
    # What stands in one caption alone is like nothing. The k-th of equal n-grams is a coordinate of its own:
    # then the product holds the smaller of two counts, so that repeating a word gains nothing.
    _, coordinate, holders = np.unique(
        grams.number * 31 + grams.occurrence, return_inverse=True, return_counts=True
    )
    shared = holders > 1
    column = (np.cumsum(shared) - 1)[coordinate]
    kept = shared[coordinate]
    owner, column = grams.place[kept] % len(texts), column[kept]
    candidate = np.zeros((len(texts), int(shared.sum())), dtype=np.float32)
    candidate[owner, column] = unit[kept]
    reference = candidate[:references].copy()
    given = owner < references
    reference[owner[given], column[given]] *= grams.count[kept][given]
    apart = grams.sizes[:, None] - grams.sizes[None, :references]
    nearness = np.exp(-(apart**2) / (2 * SIGMA**2)).astype(np.float32)
    return np.asarray(10 / ORDERS * (candidate @ reference.T) * nearness)


def expected_cider_d(
    texts: Sequence[str], weights: FloatArray, document_frequencies: DocumentFrequencies
) -> FloatArray:
    """(C,) expected CIDEr-D of captions, 0 to 10, the first M of which are the references, by probability.

    Each of the references is held against the others. The same as :func:`pairwise_cider_d` times the weights, without
    the matrix between: for one length of references the expectation is one product with their weighed sum.

    Args:
        texts: C captions.
        weights: (M,) probabilities of the references, together 1.
        document_frequencies: of the corpus.
    """
    M = len(weights)
    grams = _Ngrams.of(texts)
    unit, owner = grams.units(document_frequencies), grams.place % len(texts)
    # The k-th of equal n-grams is a coordinate of its own, as in pairwise_cider_d.
    coordinates, coordinate = np.unique(grams.number * 31 + grams.occurrence, return_inverse=True)

    sizes, size = np.unique(grams.sizes[:M], return_inverse=True)  # S different lengths of references
    given = owner < M
    place = size[owner[given]] * len(coordinates) + coordinate[given]
    weighed = weights[owner[given]] * (unit * grams.count)[given]
    sums = np.bincount(place, weights=weighed, minlength=len(sizes) * len(coordinates))
    apart = grams.sizes[:, None] - sizes[None]
    nearness = np.exp(-(apart**2) / (2 * SIGMA**2))  # (C, S)
    by_size = sums.reshape(len(sizes), -1).T[coordinate]  # (E, S)
    shared = unit * np.einsum("es,es->e", by_size, nearness[owner])
    expected = 10 / ORDERS * np.bincount(owner, weights=shared, minlength=len(texts))

    own = 10 / ORDERS * np.bincount(owner, weights=grams.count * unit**2, minlength=len(texts))[:M]
    expected[:M] = np.maximum(expected[:M] - weights * own, 0) / np.maximum(1 - weights, _SMALLEST)
    return np.asarray(expected)


@dataclass(frozen=True, eq=False)
class _Ngrams:
    """Every n-gram of some captions."""

    number: IntArray
    """(E,) which n-gram it is."""

    place: IntArray
    """(E,) its order, from 0, times C, and its caption."""

    count: IntArray
    """(E,) how often it stands in its caption."""

    occurrence: IntArray
    """(E,) which of these it is, from 0."""

    sizes: IntArray
    """(C,) bigrams of each caption, at least 0: what CIDEr-D's length penalty compares."""

    def units(self, document_frequencies: DocumentFrequencies) -> FloatArray:
        """(E,) weights of the n-grams, those of one order of one caption made a unit vector."""
        rare = document_frequencies(self.number)
        total = np.bincount(self.place, weights=self.count * rare**2, minlength=ORDERS * len(self.sizes))
        length = np.sqrt(total)[self.place]
        return np.divide(rare, length, out=np.zeros_like(rare), where=length > 0)

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        rows = [_digests(text) for text in texts]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        digests = np.concatenate([*rows, np.zeros(0, dtype=np.uint64)])
        caption = np.repeat(np.arange(len(rows)), lengths)
        room = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(digests))  # words to the caption's end
        numbers, places = [], []
        gram = np.zeros_like(digests)
        for order in range(ORDERS):
            begins = np.flatnonzero(room > order)
            gram[begins] = gram[begins] * _BASE + digests[begins + order]
            numbers.append(gram[begins].view(np.int64))
            places.append(order * len(rows) + caption[begins])
        number, place = np.concatenate(numbers), np.concatenate(places)
        order_of = np.lexsort((number, place))
        number, place = number[order_of], place[order_of]
        new = np.ones(len(number), dtype=bool)
        new[1:] = (number[1:] != number[:-1]) | (place[1:] != place[:-1])
        starts = np.flatnonzero(new)
        counts = np.diff(np.append(starts, len(number)))
        occurrence = np.arange(len(number)) - np.repeat(starts, counts)
        return cls(number, place, np.repeat(counts, counts), occurrence, np.maximum(lengths - 1, 0))


@lru_cache(maxsize=2**17)
def _digests(text: str) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    """64 bits a word; that two n-grams share a number is as good as impossible."""
    return np.array([_digest(word) for word in words(PTB(text))], dtype=np.uint64)


@lru_cache(maxsize=2**16)
def _digest(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(errors="surrogatepass"), digest_size=8).digest(), "little")
