"""CIDEr-D (Vedantam et al. 2015), which coco-caption prints as CIDEr: similarity of captions in rare n-grams.

:func:`cider_d` is the metric of a corpus. :class:`TfIdf` compares single pairs, as rewards need them.
:func:`pairwise_cider_d` and :func:`expected_cider_d` compare captions with one another, fast enough for
minimum Bayes risk at every picture.

Shapes: C captions, M of them references, P pairs, E n-grams of all captions one behind the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np

from magicap.arrays import BoolArray, FloatArray, IntArray, distinct
from magicap.errors import MetricUnavailable
from magicap.metrics.hashed_texts import HashedTexts
from magicap.metrics.ngrams import (
    ORDERS,
    Ngrams,
    count_ngrams,
    hash_ngrams,
    hash_words,
    list_ngrams,
    look_up,
    words,
)
from magicap.metrics.score import Score, Tokenizer, require_pairs, sign
from magicap.metrics.tokenizer import PTB

SIGMA = 6.0
"""Captions that differ by this many words lose 39 % of their similarity."""

_PAIRS_AT_A_TIME = 100_000  # bounds memory
_SHORT = 64  # words of captions whose words are compared pair by pair, which is faster than sorting them
_ONE_THREAD = 1 << 18  # multiplications and additions of a product for which OpenBLAS takes one thread
MIN_PROBABILITY = 1e-6
"""Of the other references that a reference is compared with."""


@dataclass(frozen=True, eq=False)
class DocumentFrequencies:
    """In how many documents each n-gram stands: images with their references, or single captions."""

    documents: int
    """How many documents there are."""

    numbers: IntArray
    """(F,) n-grams that stand in at least two of them, rising; numbers of :func:`~.ngrams.hash_ngrams`."""

    counts: IntArray
    """(F,) in how many."""

    @classmethod
    def of(cls, documents: Sequence[Sequence[Sequence[str]]]) -> Self:
        """Count documents, each a group of tokenised captions."""
        sizes = np.array([len(captions) for captions in documents], dtype=np.int64)
        captions = list(chain.from_iterable(documents))
        lengths = np.array([len(tokens) for tokens in captions], dtype=np.int64)
        hashed = HashedTexts(hash_words(chain.from_iterable(captions)), lengths)
        return cls._count(hashed, np.repeat(np.arange(len(documents)), sizes), len(documents))

    @classmethod
    def of_texts(cls, texts: Sequence[str]) -> Self:
        """Count captions, each a document."""
        return cls._count(HashedTexts.of(texts), np.arange(len(texts)), len(texts))

    @classmethod
    def _count(cls, captions: HashedTexts, document: IntArray, documents: int) -> Self:
        numbers, begins = list_ngrams(captions.tokens, captions.lengths)
        owner = np.repeat(document, captions.lengths)[begins]
        order = np.lexsort((owner, numbers))
        numbers, owner = numbers[order], owner[order]
        first = np.ones(len(numbers), dtype=bool)  # where a document holds an n-gram for the first time
        first[1:] = (numbers[1:] != numbers[:-1]) | (owner[1:] != owner[:-1])
        numbers, counts = np.unique(numbers[first], return_counts=True)
        often = counts > 1
        return cls(documents, numbers[often], counts[often])

    def idf(self, numbers: IntArray) -> FloatArray:
        """(E,) inverse document frequencies: log of documents over those with the n-gram, at least one."""
        position, present = look_up(self.numbers, numbers)
        counts = np.where(present, self.counts[position], 1) if len(self.counts) else np.ones(len(numbers))
        return np.asarray(np.log(max(self.documents, 1)) - np.log(counts))


@dataclass(frozen=True, eq=False)
class TfIdf:
    """C captions as vectors of n-gram weights (term frequency times inverse document frequency), sparse."""

    tables: list[Ngrams]
    """n-grams of the captions for each order."""

    weights: list[FloatArray]
    """The weight of each entry of the table of that order."""

    norms: FloatArray
    """(orders, C) lengths of the vectors."""

    sizes: FloatArray
    """(C,) what the length penalty compares: the number of a caption's bigrams, as in coco-caption."""

    @classmethod
    def of(cls, captions: Sequence[Sequence[str]], frequencies: DocumentFrequencies) -> Self:
        """Weigh the n-grams of tokenised captions.

        Args:
            captions: C lists of words.
            frequencies: of the documents that say how rare an n-gram is.
        """
        tables = count_ngrams(captions)
        text = hash_words(chain.from_iterable(captions))
        idf = (frequencies.idf(hash_ngrams(text, table.first, n)) for n, table in enumerate(tables, start=1))
        weights = [table.count * values[table.gram] for table, values in zip(tables, idf, strict=True)]
        norms = [
            np.sqrt(np.bincount(table.captions, weights=weight**2, minlength=len(captions)))
            for table, weight in zip(tables, weights, strict=True)
        ]
        # coco-caption takes the candidate's length where it counts bigrams, which is one less than its words.
        sizes = np.maximum(np.array([len(tokens) for tokens in captions]) - 1.0, 0.0)
        return cls(tables, weights, np.stack(norms), sizes)

    def similarity(self, left: IntArray, right: IntArray) -> FloatArray:
        """(P,) CIDEr-D of pairs of captions, 0 to 10: candidates on the left, references on the right.

        Args:
            left, right: (P,) caption numbers.
        """
        parts = range(0, len(left), _PAIRS_AT_A_TIME)
        return np.concatenate(
            [np.zeros(0)]
            + [self._similarity(left[i:][:_PAIRS_AT_A_TIME], right[i:][:_PAIRS_AT_A_TIME]) for i in parts]
        )

    def _similarity(self, left: IntArray, right: IntArray) -> FloatArray:
        total = np.zeros(len(left))
        for table, weight, norm in zip(self.tables, self.weights, self.norms, strict=True):
            left_entry, left_pair = table.entries(left)
            right_entry, right_pair = table.entries(right)
            size = max(table.size, 1)
            left_keys = left_pair * size + table.gram[left_entry]
            where, shared = look_up(left_keys, right_pair * size + table.gram[right_entry])
            candidate, reference = weight[left_entry][where[shared]], weight[right_entry][shared]
            # The candidate's weight is clipped at the reference's, so that repeating a word gains nothing.
            clipped = np.minimum(candidate, reference) * reference
            products = np.bincount(right_pair[shared], weights=clipped, minlength=len(left))
            length = norm[left] * norm[right]
            total += np.divide(products, length, out=np.zeros(len(left)), where=length > 0)
        return 10 * total / len(self.tables) * _length_penalty(self.sizes[left] - self.sizes[right])


def cider_d(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = PTB
) -> dict[str, Score]:
    """CIDEr-D, 0 to 10; the corpus score is the mean of images.

    How rare an n-gram is, is counted over these very references: scores of different sets of images do not
    compare, and one image alone has none.

    Args:
        candidates: N captions, N at least 2.
        references: N lists of one or more captions.

    Raises:
        BadSettings: not one list of references a candidate, or no image.
        MetricUnavailable: one image only.
    """
    require_pairs(candidates, references, "CIDEr-D")
    N = len(candidates)
    if N < 2:
        raise MetricUnavailable(
            "CIDEr-D weighs words by how few images they stand with: expected at least two images, found one"
        )
    candidate_tokens = [words(tokenizer(text)) for text in candidates]
    reference_tokens = [[words(tokenizer(text)) for text in texts] for texts in references]
    vectors = TfIdf.of(
        [*candidate_tokens, *chain.from_iterable(reference_tokens)], DocumentFrequencies.of(reference_tokens)
    )
    counts = np.array([len(texts) for texts in references])
    image = np.repeat(np.arange(N), counts)
    similarity = vectors.similarity(image, np.arange(N, N + len(image)))
    per_image = np.bincount(image, weights=similarity, minlength=N) / counts
    signature = sign(
        "CIDEr-D", candidates, references, df="references", sigma=f"{SIGMA:g}", tok=tokenizer.name
    )
    return {"CIDEr-D": Score.mean("CIDEr-D", per_image, signature)}


@dataclass(frozen=True, eq=False)
class _CaptionNgrams:
    """Every n-gram of C captions, E in all: order by order, and in an order caption by caption."""

    ngram: IntArray
    """(E,) which n-gram it is, 0 to ``size`` - 1."""

    owner: IntArray
    """(E,) its caption."""

    count: IntArray
    """(E,) how often it stands in its caption."""

    occurrence: IntArray
    """(E,) which of these it is, from 0."""

    unit: FloatArray
    """(E,) its weight, those of one order of one caption made a unit vector."""

    sizes: IntArray
    """(C,) bigrams of each caption, at least 0: what CIDEr-D's length penalty compares."""

    size: int
    """How many different n-grams there are."""

    @classmethod
    def of(cls, captions: HashedTexts, document_frequencies: DocumentFrequencies) -> Self:
        number, begins = list_ngrams(captions.tokens, captions.lengths)
        C = len(captions.lengths)
        caption = np.repeat(np.arange(C), captions.lengths)
        owner = caption[begins]
        numbers, ngram = distinct(number)
        repeated = _are_repeated(ngram[: len(caption)], caption, int(captions.lengths.max(initial=0)))
        count, occurrence = _occurrences(ngram, owner, np.flatnonzero(repeated[begins]))
        idf = document_frequencies.idf(numbers)[ngram]
        order = np.repeat(
            np.arange(ORDERS), [np.maximum(captions.lengths - n, 0).sum() for n in range(ORDERS)]
        )
        place = order * C + owner
        length = np.sqrt(np.bincount(place, weights=count * idf**2, minlength=ORDERS * C))[place]
        unit = np.divide(idf, length, out=np.zeros_like(idf), where=length > 0)
        bigrams = np.maximum(captions.lengths - 1, 0)
        return cls(ngram, owner, count, occurrence, unit, bigrams, len(numbers))

    @property
    def coordinate(self) -> IntArray:
        """(E,) an n-gram's coordinate: the k-th of equal n-grams of a caption is one of its own.

        Then a product of vectors holds the smaller of two counts, so that repeating a word gains nothing.
        """
        again = np.flatnonzero(self.occurrence)
        key = self.occurrence[again] * self.size + self.ngram[again]
        coordinate = self.ngram.copy()
        coordinate[again] = self.size + np.unique(key, return_inverse=True)[1]
        return coordinate


def _are_repeated(word: IntArray, caption: IntArray, longest: int) -> BoolArray:
    """(T,) which words stand more than once in their caption: only n-grams that begin with one may do so.

    Args:
        longest: how many words the longest caption has.
    """
    key = caption * (int(word.max(initial=0)) + 1) + word
    if longest > _SHORT:
        _, place = distinct(key)
        return np.asarray((np.bincount(place) > 1)[place])
    repeated = np.zeros(len(key), dtype=bool)
    for distance in range(1, longest):
        again = key[distance:] == key[:-distance]
        repeated[distance:] |= again
        repeated[:-distance] |= again
    return repeated


def _occurrences(ngram: IntArray, owner: IntArray, subset: IntArray) -> tuple[IntArray, IntArray]:
    """(E,) how often each n-gram stands in its caption, and (E,) which of these it is, from 0.

    Args:
        subset: positions in E of n-grams that may stand there more than once; all others stand there once.
    """
    count, occurrence = np.ones(len(ngram), dtype=np.int64), np.zeros(len(ngram), dtype=np.int64)
    key = owner[subset] * (int(ngram.max(initial=0)) + 1) + ngram[subset]
    order = np.argsort(key, kind="stable")
    new = np.ones(len(key), dtype=bool)
    new[1:] = key[order[1:]] != key[order[:-1]]
    starts = np.flatnonzero(new)
    counts = np.diff(np.append(starts, len(key)))
    count[subset[order]] = np.repeat(counts, counts)
    occurrence[subset[order]] = np.arange(len(key)) - np.repeat(starts, counts)
    return count, occurrence


def pairwise_cider_d(
    texts: Sequence[str], num_references: int, document_frequencies: DocumentFrequencies
) -> FloatArray:
    """(C, M) CIDEr-D of captions, 0 to 10, each against one reference; float32.

    Three captions, the first two of which are references, weighed by the documents of a corpus of five:

        >>> texts = ["a dog runs on grass", "a dog sits", "a dog runs"]
        >>> frequencies = DocumentFrequencies.of_texts([*texts, "two men sit", "a red car"])
        >>> pairwise_cider_d(texts, 2, frequencies).round(2)
        array([[1.24, 0.32],
               [0.32, 0.5 ],
               [2.88, 0.79]], dtype=float32)

    A caption against itself counts only n-grams that others hold too: its entry is not its CIDEr-D.

    Args:
        texts: C captions.
        num_references: M, how many of them, the first, are the references.
        document_frequencies: of the corpus.
    """
    ngrams = _CaptionNgrams.of(HashedTexts.of(texts), document_frequencies)
    # What stands in one caption alone is like nothing, and gets no column.
    _, coordinate, holders = np.unique(ngrams.coordinate, return_inverse=True, return_counts=True)
    shared = holders > 1
    kept = shared[coordinate]
    column = (np.cumsum(shared) - 1)[coordinate][kept]
    owner = ngrams.owner[kept]
    candidate = np.zeros((len(texts), int(shared.sum())), dtype=np.float32)
    candidate[owner, column] = ngrams.unit[kept]
    reference = candidate[:num_references].copy()
    in_reference = owner < num_references
    reference[owner[in_reference], column[in_reference]] *= ngrams.count[kept][in_reference]
    penalty = _length_penalty(ngrams.sizes[:, None] - ngrams.sizes[None, :num_references])
    return np.asarray(10 / ORDERS * (candidate @ reference.T) * penalty.astype(np.float32))


def expected_cider_d(
    texts: Sequence[str] | HashedTexts, weights: FloatArray, document_frequencies: DocumentFrequencies
) -> FloatArray:
    """(C,) expected CIDEr-D of captions, 0 to 10, the first M of which are the references, by probability.

    Each of the references is compared with the others. The same as :func:`pairwise_cider_d` times the
    weights, without the matrix between: for one length of references the expectation is one product with
    their weighed sum.

    Args:
        texts: C captions.
        weights: (M,) probabilities of the references, together 1.
        document_frequencies: of the corpus.
    """
    M = len(weights)
    hashed = texts if isinstance(texts, HashedTexts) else HashedTexts.of(texts)
    ngrams = _CaptionNgrams.of(hashed, document_frequencies)
    # What stands in one caption alone is like nothing.
    coordinate = ngrams.coordinate
    held = np.bincount(coordinate) > 1
    kept = held[coordinate]
    column, width = (np.cumsum(held) - 1)[coordinate][kept], int(held.sum())
    unit, owner, count = ngrams.unit[kept], ngrams.owner[kept], ngrams.count[kept]

    # (S, width) weighed sums of the references of each length, S different lengths of captions
    sizes, size = np.unique(ngrams.sizes, return_inverse=True)
    in_reference = np.flatnonzero(owner < M)
    reference, own = owner[in_reference], unit[in_reference]
    weighed = weights[reference] * (own * count[in_reference])
    place = size[reference] * width + column[in_reference]
    sums = np.asarray(np.bincount(place, weights=weighed, minlength=len(sizes) * width), dtype=np.float64)
    penalty = _length_penalty(sizes[:, None] - sizes)  # (S, S)
    # What a caption of each length is compared with.
    penalised = _product_in_parts(penalty, sums.reshape(len(sizes), width)).reshape(-1)
    shared = unit * penalised[size[owner] * width + column]
    expected = 10 / ORDERS * np.bincount(owner, weights=shared, minlength=len(hashed.lengths))

    squares = np.bincount(reference, weights=count[in_reference] * own**2, minlength=M)
    with_itself = weights * (10 / ORDERS * squares)
    expected[:M] = np.maximum(expected[:M] - with_itself, 0) / np.maximum(1 - weights, MIN_PROBABILITY)
    return np.asarray(expected)


def _product_in_parts(left: FloatArray, right: FloatArray) -> FloatArray:
    """(S, N) of (S, S) and (S, N), in parts that OpenBLAS does not share among threads.

    Its threads go on asking for work for a tenth of a second, on cores that the models need.
    """
    columns = max(1, _ONE_THREAD // max(1, left.size))
    product = np.empty_like(right)
    for start in range(0, right.shape[1], columns):
        part = slice(start, start + columns)
        product[:, part] = left @ right[:, part]
    return product


def _length_penalty(difference: FloatArray | IntArray) -> FloatArray:
    """1 for captions of one length, less the more bigrams one has than the other; any shape."""
    return np.asarray(np.exp(-(difference**2) / (2 * SIGMA**2)))
