"""Words that a caption should have if it can: what it gains by them, and captions that would bring them.

Words of ``include`` leave nothing else to choose. Preferred ones are weighed against all that speaks for
other captions.

Shapes: B pictures, C captions, M neighbours, N captions of a memory, P preferred words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from magicap.arrays import FloatArray
from magicap.metrics.cider import DocumentFrequencies
from magicap.metrics.hashed_texts import HashedTexts
from magicap.metrics.ngrams import WordHashes, hash_ngrams, look_up
from magicap.results import Hypothesis
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.nearest import largest

MOST_BROUGHT = 20
"""Captions of the memory that preferred words bring into the competition of a picture."""


@dataclass(frozen=True, eq=False)
class PreferredWords:
    """P words, and how much of a caption's bonus each of them is worth."""

    words: WordHashes
    """(P,) different words, hashed."""

    weights: FloatArray
    """(P,) their inverse document frequencies, divided by the sum of these."""

    @classmethod
    def of(cls, texts: Sequence[str], frequencies: DocumentFrequencies) -> Self:
        """The words of some texts that stand in at least two documents; no caption would say the others.

        Args:
            frequencies: of captions, each a document.
        """
        words = np.unique(HashedTexts.of(texts).tokens)
        numbers = hash_ngrams(words, np.arange(len(words)), order=1)
        _, are_said = look_up(frequencies.numbers, numbers)
        idf = frequencies.idf(numbers[are_said])
        return cls(words[are_said], idf / max(float(idf.sum()), 1e-9))

    def shares(self, captions: HashedTexts) -> FloatArray:
        """(C,) the share of the words that each caption has, 0 to 1, rare words counting more."""
        owner = np.repeat(np.arange(len(captions.lengths)), captions.lengths)
        shares = np.zeros(len(captions.lengths))
        for word, weight in zip(self.words, self.weights, strict=True):
            shares[np.unique(owner[captions.tokens == word])] += weight
        return shares


def bring_captions(
    memory: CaptionMemory, texts: Sequence[str], image_vectors: Tensor, neighbours: Tensor
) -> list[list[Hypothesis]]:
    """For each picture the captions nearest to it that have a word of some texts, but for its neighbours.

    Args:
        image_vectors: (B, D) unit vectors of pictures.
        neighbours: (B, M) positions in the memory.

    Returns:
        B lists of at most :data:`MOST_BROUGHT` captions, the nearest first.
    """
    preferred = PreferredWords.of(texts, memory.document_frequencies)
    having = np.flatnonzero(preferred.shares(HashedTexts.of(memory.texts)))  # (H,) positions
    if not len(having):
        return [[] for _ in range(len(image_vectors))]
    cosines = memory.cosines(image_vectors.to(memory.device)).scatter(1, neighbours, -torch.inf)  # (B, N)
    best, columns = largest(cosines[:, torch.from_numpy(having).to(cosines.device)], MOST_BROUGHT)
    return [
        [
            Hypothesis(memory.texts[int(having[column])], cosine=cosine, source="memory")
            for cosine, column in zip(*row, strict=True)
            if math.isfinite(cosine)
        ]
        for row in zip(best.tolist(), columns.tolist(), strict=True)
    ]
