"""Rewards of self-critical training: CIDEr-D of the words sampled, end included; cosines of a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from magicap.arrays import FloatArray
from magicap.metrics.cider import DocumentFrequencies, TfIdf
from magicap.models.scorer import ImageTextScorer

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


@dataclass(frozen=True)
class ScorerReward:
    """How near captions are to their pictures, without a reference (Yu et al. 2023, arXiv 2308.12045).

    Cosines of a caption's vector with its picture's (CLIP-cos there), and with the mean of captions near the
    picture (CLIP-agg), each as a multiple of the standard deviation over pictures and sentences that do not
    belong together.
    """

    scorer: ImageTextScorer
    image_weight: float
    """Of the cosine with the picture."""

    aggregate_weight: float
    """Of the cosine with the memory near the picture."""

    image_std: float
    """Standard deviation of the former."""

    memory_std: float
    """Standard deviation of the latter."""

    def __call__(self, texts: Sequence[str], images: Tensor, projected: Tensor) -> Tensor:
        """(N,) rewards of N captions.

        Args:
            texts: the captions.
            images: (N, D) unit vectors of their pictures.
            projected: (N, D) the same projected onto a memory, of any length.
        """
        different = list(dict.fromkeys(texts))
        places = {text: place for place, text in enumerate(different)}
        vectors = self.scorer.encode_texts(different).float()[[places[text] for text in texts]].to(images)
        image_cosines = torch.cosine_similarity(vectors, images)
        memory_cosines = torch.cosine_similarity(vectors, projected)
        return (
            self.image_weight * image_cosines / self.image_std
            + self.aggregate_weight * memory_cosines / self.memory_std
        )


def _ended(captions: Sequence[Sequence[str]]) -> list[list[str]]:
    """Captions with their end as one more word."""
    return [[*words, END_WORD] for words in captions]
