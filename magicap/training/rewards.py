"""The reward of self-critical training: CIDEr-D of the words sampled, their end included."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from magicap.arrays import FloatArray
from magicap.metrics.cider import DocumentFrequencies, TfIdf

END_WORD = "</s>"
"""Counted as a word, in captions and references alike: else nothing is lost by stopping at 'in a'."""


class CiderReward:
    """CIDEr-D with the document frequencies of the training captions.

    Args:
        references: the tokenized captions of every training image.
    """

    def __init__(self, references: Sequence[Sequence[Sequence[str]]]) -> None:
        self._frequencies = DocumentFrequencies.of([_ended(image) for image in references])

    def __call__(
        self, captions: Sequence[Sequence[Sequence[str]]], references: Sequence[Sequence[Sequence[str]]]
    ) -> FloatArray:
        """(B, C) rewards, 0 to 10, of C captions of each of B images.

        Args:
            captions: words of each caption, :data:`END_WORD` last where it has ended.
            references: words of each image's references.
        """
        samples = list(chain.from_iterable(captions))
        ended = [_ended(image) for image in references]
        vectors = TfIdf.of([*samples, *chain.from_iterable(ended)], self._frequencies)
        left: list[int] = []
        right: list[int] = []
        first = len(samples)
        for image, texts in enumerate(ended):
            count = len(captions[image])
            for caption in range(count):
                left += [image * count + caption] * len(texts)
                right += range(first, first + len(texts))
            first += len(texts)
        similarity = vectors.similarity(np.array(left), np.array(right))
        counts = np.repeat([len(texts) for texts in ended], [len(row) for row in captions])
        sums = np.bincount(np.array(left), weights=similarity, minlength=len(samples))
        return np.asarray(sums / counts, dtype=np.float64).reshape(len(captions), -1)


def _ended(captions: Sequence[Sequence[str]]) -> list[list[str]]:
    """Captions with their end as one more word."""
    return [[*words, END_WORD] for words in captions]
