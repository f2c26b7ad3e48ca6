"""CIDEr-D (Vedantam et al. 2015), which coco-caption prints as CIDEr: pairwise_cider_d in rare n-grams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import numpy as np

from magicap.arrays import FloatArray, IntArray
from magicap.errors import MetricUnavailable
from magicap.metrics.ngrams import ORDERS, Ngrams, count_ngrams, look_up, words
from magicap.metrics.score import Score, Tokenizer, check_pairs, sign
from magicap.metrics.tokenizer import PTB

SIGMA = 6.0
"""Captions that differ by this many words lose 39 % of their similarity."""

_PAIRS_AT_A_TIME = 100_000  # bounds memory


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
    check_pairs(candidates, references, "CIDEr-D")
    N = len(candidates)
    if N < 2:
        raise MetricUnavailable(
            "CIDEr-D weighs words by how few images they stand with: expected at least two images, found one"
        )
    counts = np.array([len(texts) for texts in references])
    image = np.repeat(np.arange(N), counts)
    vectors = TfIdf.of(
        [words(tokenizer(text)) for text in chain(candidates, chain.from_iterable(references))],
        document=np.concatenate([np.full(N, -1), image]),
    )
    similarity = vectors.similarity(image, np.arange(N, N + len(image)))
    per_image = np.bincount(image, weights=similarity, minlength=N) / counts
    signature = sign(
        "CIDEr-D", candidates, references, df="references", sigma=f"{SIGMA:g}", tok=tokenizer.name
    )
    return {"CIDEr-D": Score.mean("CIDEr-D", per_image, signature)}


@dataclass(frozen=True, eq=False)
class DocumentFrequencies:
    """In how many images each n-gram stands, so that captions of a few are weighed as those of all."""

    images: int
    """How many images were counted."""

    counts: dict[tuple[str, ...], int]
    """Of n-grams of one to four words; others stand in none."""

    @classmethod
    def of(cls, captions: Sequence[Sequence[Sequence[str]]]) -> Self:
        """Count the tokenized captions of N images."""
        counts: Counter[tuple[str, ...]] = Counter()
        for image in captions:
            counts.update(
                {
                    tuple(words[i : i + n])
                    for words in image
                    for n in range(1, ORDERS + 1)
                    for i in range(len(words) - n + 1)
                }
            )
        return cls(len(captions), dict(counts))

    def rarity(self, grams: Iterable[tuple[str, ...]]) -> FloatArray:
        """Log of images over those that each n-gram stands in, at least one."""
        found = np.array([self.counts.get(gram, 0) for gram in grams], dtype=float)
        return np.asarray(np.log(self.images) - np.log(np.maximum(found, 1)))


@dataclass(frozen=True, eq=False)
class TfIdf:
    """Captions as vectors of n-gram weights (term frequency times inverse document frequency), sparse."""

    tables: list[Ngrams]
    """n-grams of N captions for each order."""

    weights: list[FloatArray]
    """The weight of each entry of the table of that order."""

    norms: FloatArray
    """(orders, N) lengths of the vectors."""

    sizes: FloatArray
    """(N,) what the length penalty compares: the number of a caption's bigrams, as in coco-caption."""

    @classmethod
    def of(
        cls,
        captions: Sequence[Sequence[str]],
        document: IntArray,
        frequencies: DocumentFrequencies | None = None,
    ) -> Self:
        """Weigh the n-grams of tokenized captions.

        Args:
            captions: N lists of words.
            document: (N,) the document (image) that a caption belongs to; captions with -1 are
                weighed, but do not count in saying how many documents an n-gram stands in.
            frequencies: what to weigh by instead of counting over these captions.
        """
        tables = count_ngrams(captions)
        if frequencies is None:
            weights = [table.count * _rarity(table, document) for table in tables]
        else:
            text = list(chain.from_iterable(captions))
            grams = [
                [tuple(text[i : i + n]) for i in table.first.tolist()]
                for n, table in enumerate(tables, start=1)
            ]
            rarities = map(frequencies.document_frequencies, grams)
            weights = [
                table.count * rarity[table.gram] for table, rarity in zip(tables, rarities, strict=True)
            ]
        norms = [
            np.sqrt(np.bincount(_captions(table), weights=weight**2, minlength=len(captions)))
            for table, weight in zip(tables, weights, strict=True)
        ]
        # coco-caption takes the candidate's length where it counts bigrams, which is one less than its words.
        sizes = np.maximum(np.array([len(words) for words in captions]) - 1.0, 0.0)
        return cls(tables, weights, np.stack(norms), sizes)

    def similarity(self, left: IntArray, right: IntArray) -> FloatArray:
        """CIDEr-D of P pairs of captions, 0 to 10: candidates on the left, references on the right.

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
            own, pair = table.entries(left)
            other, its_pair = table.entries(right)
            size = max(table.size, 1)
            where, found = look_up(pair * size + table.gram[own], its_pair * size + table.gram[other])
            candidate, reference = weight[own][where[found]], weight[other][found]
            # The candidate's weight is clipped at the reference's, so that repeating a word gains nothing.
            products = np.bincount(
                its_pair[found], weights=np.minimum(candidate, reference) * reference, minlength=len(left)
            )
            length = norm[left] * norm[right]
            total += np.divide(products, length, out=np.zeros(len(left)), where=length > 0)
        apart = self.sizes[left] - self.sizes[right]
        return np.asarray(10 * total / len(self.tables) * np.exp(-(apart**2) / (2 * SIGMA**2)))


def _captions(table: Ngrams) -> IntArray:
    """(M,) the caption of each entry."""
    return np.repeat(np.arange(len(table.starts) - 1), np.diff(table.starts))


def _rarity(table: Ngrams, document: IntArray) -> FloatArray:
    """(M,) log of documents over those the n-gram stands in, at least one."""
    owner = document[_captions(table)]
    counted = owner >= 0
    pairs = np.unique(owner[counted] * max(table.size, 1) + table.gram[counted])
    frequency = np.bincount(pairs % max(table.size, 1), minlength=table.size)
    documents = len(np.unique(document[document >= 0]))
    return np.asarray(np.log(documents) - np.log(np.maximum(frequency, 1))[table.gram])
