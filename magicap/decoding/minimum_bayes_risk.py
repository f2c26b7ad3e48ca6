"""Minimum Bayes risk: of some hypotheses that with the largest expected utility, judged by weighed evidence.

The evidence are captions with probabilities, the utility is CIDEr-D (Kumar and Byrne 2004; as consensus
captioning takes it, Devlin et al. 2015, arXiv 1505.04467).

Shapes: B pictures, M evidence captions, C hypotheses, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from magicap.arrays import FloatArray
from magicap.metrics.cider import MIN_PROBABILITY, DocumentFrequencies, expected_cider_d
from magicap.results import Hypothesis
from magicap.retrieval.caption_memory import MIN_STD, CaptionMemory


@dataclass(frozen=True)
class EvidenceSet:
    """Different captions, and how likely each is taken to be said of the picture."""

    texts: Sequence[str]
    """M captions."""

    weights: FloatArray
    """(M,) their probabilities, which add up to one."""

    document_frequencies: DocumentFrequencies
    """By which their n-grams are weighed."""

    cosines: FloatArray = field(default_factory=lambda: np.zeros(0))
    """(M,) to the picture; none where no picture was looked at."""

    @property
    def cosine_std(self) -> float:
        """Standard deviation of the cosines, what differences of cosines are measured in."""
        return max(float(self.cosines.std()), MIN_STD)

    def expected_utility(self, others: Sequence[str]) -> FloatArray:
        """(M + C,) expected CIDEr-D, 0 to 10, of its own captions and of C others, none of them its own.

        Each of its own captions is compared with the rest of the evidence.
        """
        return expected_cider_d([*self.texts, *others], self.weights, self.document_frequencies)


@dataclass(frozen=True)
class Competition:
    """Captions of one picture that competed, and what they were judged by."""

    hypotheses: Sequence[Hypothesis]
    """The chosen one first; at least one."""

    evidence: EvidenceSet
    """Captions with probabilities."""


def evidence_from_neighbours(
    memory: CaptionMemory, cosines: Tensor, positions: Tensor, temperature: float
) -> list[EvidenceSet]:
    """For each picture the memory's captions nearest to it, weighed by a softmax of their cosines.

    Cosines are measured in their own standard deviation, so one temperature suits any scorer and any memory.

    Args:
        cosines, positions: (B, M) as :meth:`CaptionMemory.nearest` gives them.
        temperature: in standard deviations of the M cosines.
    """
    return [
        EvidenceSet(
            [memory.texts[position] for position in row],
            softmax_in_deviations(own_cosines, temperature),
            memory.document_frequencies,
            own_cosines,
        )
        for own_cosines, row in zip(cosines.double().cpu().numpy(), positions.tolist(), strict=True)
    ]


def evidence_from_hypotheses(hypotheses: Sequence[Hypothesis]) -> EvidenceSet:
    """Hypotheses as their own evidence, weighed by a softmax of their scores, log-probabilities."""
    texts, scores = [h.text for h in hypotheses], np.array([h.score for h in hypotheses])
    weights = np.exp(scores - scores.max())
    return EvidenceSet(texts, weights / weights.sum(), DocumentFrequencies.of_texts(texts))


def select_hypothesis(hypotheses: Sequence[Hypothesis], evidence: EvidenceSet) -> list[Hypothesis]:
    """Hypotheses with their expected utilities, the best first; of equals the earlier.

    Args:
        hypotheses: the evidence's own M captions in its order, then C others.
    """
    utilities = evidence.expected_utility([h.text for h in hypotheses[len(evidence.texts) :]])
    scored = [
        replace(hypothesis, expected_utility=float(utility), score=float(utility))
        for hypothesis, utility in zip(hypotheses, utilities, strict=True)
    ]
    return _best_first(scored)


def rerank_hypotheses(
    hypotheses: Sequence[Hypothesis], cosines: Sequence[float], weight: float
) -> list[Hypothesis]:
    """The first few of some hypotheses in a new order, in which the picture counts too; the rest behind them.

    What most of the evidence agrees on is true of many pictures. Among captions of about the same expected
    utility the one nearest to the picture says more of what is special about it.

    Args:
        hypotheses: the best first, as :func:`select_hypothesis` gives them.
        cosines: of the picture and each of the first few.
        weight: what a cosine of one is worth in points of expected utility.
    """
    first = [
        replace(hypothesis, cosine=cosine, score=hypothesis.score + weight * cosine)
        for hypothesis, cosine in zip(hypotheses, cosines, strict=False)
    ]
    return [*_best_first(first), *hypotheses[len(first) :]]


def _best_first(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)


def leave_one_out(utilities: FloatArray, weights: FloatArray) -> FloatArray:
    """(C,) expected utility of captions, the first M of which are the evidence: each against the rest of it.

    Args:
        utilities: (C, M) of each against each piece of evidence, 0 against itself.
        weights: (M,) of the evidence.
    """
    expected = utilities @ weights
    expected[: len(weights)] /= np.maximum(1 - weights, MIN_PROBABILITY)
    return np.asarray(expected)


def softmax_in_deviations(cosines: FloatArray, temperature: float) -> FloatArray:
    """(..., M) softmax of falling cosines, the temperature in standard deviations of them."""
    if not cosines.size:
        return cosines
    std = np.maximum(cosines.std(axis=-1, keepdims=True), MIN_STD)
    weights = np.exp((cosines - cosines[..., :1]) / (temperature * std))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
