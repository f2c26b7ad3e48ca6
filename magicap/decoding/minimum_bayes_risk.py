"""Captions that have a say in which caption a picture gets.

Shapes: B pictures, M captions of an electorate, C candidates, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from magicap.metrics.pairwise_cider import Rarity, expected_cider_d
from magicap.metrics.score import FloatArray

if TYPE_CHECKING:
    from magicap.retrieval.caption_memory import CaptionMemory

MIN_STD = 1e-6  # spread of cosines that are all the same


@dataclass(frozen=True)
class EvidenceSet:
    """Different captions, and how likely each is taken to be said of the picture."""

    texts: Sequence[str]
    """M captions."""

    weights: FloatArray
    """(M,) their probabilities, which add up to one."""

    rarity: Rarity
    """By which their n-grams are weighed."""

    cosines: FloatArray = field(default_factory=lambda: np.zeros(0))
    """(M,) to the picture; none where no picture was looked at."""

    @property
    def unit(self) -> float:
        """What cosines to the picture are measured in: their standard deviation."""
        return max(float(self.cosines.std()), MIN_STD)

    def agreement(self, more: Sequence[str]) -> FloatArray:
        """(M + C,) expected CIDEr-D, 0 to 10, of its own captions and of C others, none of them its own.

        Each of its own captions is judged by the others.
        """
        return expected_cider_d([*self.texts, *more], self.weights, self.rarity)


def retrieve_evidence(
    memory: CaptionMemory, images: Tensor, count: int, temperature: float
) -> list[EvidenceSet]:
    """Of each picture the captions of a memory that are nearest to it, weighed by a softmax of their cosines.

    Cosines are measured in their own spread, so one temperature suits any scorer and any memory.

    Args:
        images: (B, D) unit vectors.
        count: M, or as many as there are.
        temperature: in standard deviations of the M cosines.
    """
    cosines, positions = memory.nearest(images.to(memory.device), count)
    found = []
    for row, places in zip(cosines.double().cpu().numpy(), positions.tolist(), strict=True):
        texts = [memory.texts[place] for place in places]
        found.append(EvidenceSet(texts, softmax_in_deviations(row, temperature), memory.rarity, row))
    return found


def judged(alike: FloatArray, weights: FloatArray) -> FloatArray:
    """(C,) expected pairwise_cider_d of captions, the first M of which are the judges: each of these by the others.

    Args:
        alike: (C, M) pairwise_cider_d to each judge, 0 to itself.
        weights: (M,) of the judges.
    """
    agreed = alike @ weights
    agreed[: len(weights)] /= np.maximum(1 - weights, MIN_STD)
    return np.asarray(agreed)


def softmax_in_deviations(cosines: FloatArray, temperature: float) -> FloatArray:
    """(..., M) softmax of falling cosines, the temperature in standard deviations of them."""
    if not cosines.size:
        return cosines
    spread = np.maximum(cosines.std(axis=-1, keepdims=True), MIN_STD)
    weights = np.exp((cosines - cosines[..., :1]) / (temperature * spread))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def evidence_from_hypotheses(texts: Sequence[str], scores: Sequence[float]) -> EvidenceSet:
    """Captions that agree among themselves, weighed by their log-probabilities."""
    weights = np.exp(np.array(scores) - max(scores))
    return EvidenceSet(texts, weights / weights.sum(), Rarity.of(texts))
