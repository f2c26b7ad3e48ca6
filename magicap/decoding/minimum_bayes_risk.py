"""Minimum Bayes risk: of some hypotheses that with the largest expected utility, judged by weighed evidence.

The evidence are captions with probabilities, the utility is CIDEr-D (Kumar and Byrne 2004; as consensus
captioning takes it, Devlin et al. 2015, arXiv 1505.04467).

Shapes: B pictures, M evidence captions, C hypotheses, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np
from torch import Tensor

from magicap.arrays import BoolArray, FloatArray, IntArray
from magicap.decoding.preferred_words import PreferredWords
from magicap.metrics.cider import MIN_PROBABILITY, DocumentFrequencies, expected_cider_d
from magicap.metrics.hashed_texts import HashedTexts
from magicap.packed_texts import PackedTexts
from magicap.results import Hypothesis
from magicap.retrieval.caption_memory import MIN_STD, CaptionMemory

_DIGITS = 9  # of an expected utility; captions that say the same would else be told apart by rounding


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
        captions = HashedTexts.of(self.texts).and_also(HashedTexts.of(others))
        return expected_cider_d(captions, self.weights, self.document_frequencies)


@dataclass(frozen=True, eq=False)
class Ranking(Sequence[Hypothesis]):
    """C captions that competed, the best first. Kept as arrays: few of hundreds are ever looked at."""

    evidence: PackedTexts
    """M captions."""

    others: Sequence[str]
    """C - M captions, which stand behind the evidence's in all arrays but the order."""

    order: IntArray
    """(C,) positions of the captions, the best first."""

    expected_utility: FloatArray
    """(C,)"""

    cosine: FloatArray
    """(C,) NaN where it is not known."""

    log_probability: FloatArray
    """(C,) NaN where no beam wrote it."""

    from_memory: BoolArray
    """(C,) whether it is the memory's."""

    finished: BoolArray
    """(C,) whether it ended of itself."""

    score: FloatArray
    """(C,) what was compared."""

    behind: int = 0
    """How many, the last ones, stand behind all others whatever their score."""

    num_reranked: int | None = None
    """How many, the first ones, are re-ranked by the picture; None: as many as the settings say."""

    encoded: int = 0
    """Of how many, the first ones, the cosine is that of the encoded text; of the others it is
    that of the memory's vector, which is stored in few bits."""

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Hypothesis: ...
    @overload
    def __getitem__(self, index: slice) -> list[Hypothesis]: ...
    def __getitem__(self, index: int | slice) -> Hypothesis | list[Hypothesis]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        place = int(self.order[index])
        return Hypothesis(
            self.text(place),
            _known(self.expected_utility[place]),
            _known(self.cosine[place]),
            _known(self.log_probability[place]),
            "memory" if self.from_memory[place] else "beam",
            bool(self.finished[place]),
            float(self.score[place]),
        )

    def column(self, name: str) -> FloatArray:
        """(C,) one figure of the hypotheses, the best first; NaN where there is none."""
        return np.asarray(getattr(self, name)[self.order])

    def first(self, count: int | None) -> list[str]:
        """The texts of the first few, or of all, but for those that stand behind all others."""
        order = self.order[: len(self) - self.behind][:count]
        return [self.text(place) for place in order.tolist()]

    def without_last(self) -> Ranking:
        """The same without those that stand behind all others."""
        return replace(self, order=self.order[: len(self) - self.behind], behind=0)

    def text(self, place: int) -> str:
        """The caption at a position."""
        M = len(self.evidence)
        return self.evidence[place] if place < M else self.others[place - M]

    def preferring(self, words: PreferredWords, weight: float, top: int | None) -> Ranking:
        """All captions in a new order, in which it counts which words they have.

        Args:
            weight: what all of the words are worth in points of expected utility.
            top: how many are re-ranked then; None: all. The first so many of the order before are
                among these, so that a caption without the words gives way to none but one with them.
        """
        captions = HashedTexts.of(self.evidence).and_also(HashedTexts.of(self.others))
        score = self.score + weight * words.shares(captions)
        competing, behind = np.split(self.order, [len(self) - self.behind])
        steered = competing[by_utility(score[competing])]
        is_reranked = np.isin(steered, [*competing[:top], *steered[:top]])
        order = np.concatenate([steered[is_reranked], steered[~is_reranked], behind])
        return replace(self, order=order, score=score, num_reranked=int(is_reranked.sum()))

    def reranked(self, cosines: FloatArray, weight: float) -> Ranking:
        """The first few in a new order, in which the picture counts too; the rest behind them.

        What most of the evidence agrees on is true of many pictures. Among captions of about the same
        expected utility the one nearest to the picture says more of what is special about it.

        Args:
            cosines: of the picture and each of the first few.
            weight: what a cosine of one is worth in points of expected utility.
        """
        first, others = self.order[: len(cosines)], self.order[len(cosines) :]
        cosine, score = self.cosine.copy(), self.score.copy()
        cosine[first] = cosines
        score[first] += weight * cosines
        order = np.concatenate([first[np.argsort(-score[first], kind="stable")], others])
        return replace(self, order=order, cosine=cosine, score=score, encoded=len(cosines))


@dataclass(frozen=True)
class Competition:
    """Captions of one picture that competed, and what they were judged by."""

    hypotheses: Sequence[Hypothesis]
    """The chosen one first; at least one."""

    evidence: EvidenceSet
    """Captions with probabilities."""

    def column(self, name: str) -> FloatArray:
        """(C,) one figure of the hypotheses, the best first; NaN where there is none."""
        if isinstance(self.hypotheses, Ranking):
            return self.hypotheses.column(name)
        values = [getattr(hypothesis, name) for hypothesis in self.hypotheses]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


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
            memory.texts.select(row),
            softmax_in_deviations(own_cosines, temperature),
            memory.document_frequencies,
            own_cosines,
        )
        for own_cosines, row in zip(cosines.double().cpu().numpy(), positions.cpu().numpy(), strict=True)
    ]


def evidence_from_hypotheses(hypotheses: Sequence[Hypothesis]) -> EvidenceSet:
    """Hypotheses as their own evidence, weighed by a softmax of their scores, log-probabilities."""
    texts, scores = [h.text for h in hypotheses], np.array([h.score for h in hypotheses])
    weights = np.exp(scores - scores.max())
    return EvidenceSet(texts, weights / weights.sum(), DocumentFrequencies.of_texts(texts))


def rank_by_utility(
    written: Sequence[Hypothesis], evidence: EvidenceSet, behind: BoolArray | None = None
) -> Ranking:
    """The evidence's captions and what the beams wrote, by falling expected utility; of equals the earlier.

    The evidence's captions come first, in its order; where it has no cosines, it is what the beams wrote.

    Args:
        written: different captions, of the beams or of the memory beside the evidence.
        behind: (M,) captions of the evidence that stand behind all others, unless a beam wrote them too.
    """
    M = len(evidence.texts)
    remembers = len(evidence.cosines) > 0
    texts = PackedTexts.of(evidence.texts)
    places = texts.positions_of([hypothesis.text for hypothesis in written])
    others = [one.text for one, place in zip(written, places, strict=True) if place is None]
    C = M + len(others)
    log_probability, finished = np.full(C, np.nan), np.ones(C, dtype=bool)
    cosine, from_memory, last = np.full(C, np.nan), np.zeros(C, dtype=bool), np.zeros(C, dtype=bool)
    if remembers:
        cosine[:M], from_memory[:M] = evidence.cosines, True
    if behind is not None:
        last[:M] = behind
    behind_evidence = iter(range(M, C))
    for hypothesis, place in zip(written, places, strict=True):
        number = next(behind_evidence) if place is None else place
        log_probability[number] = np.nan if (lp := hypothesis.log_probability) is None else lp
        finished[number], last[number] = hypothesis.finished, False
        if place is None and hypothesis.source == "memory":
            cosine[number], from_memory[number] = hypothesis.cosine, True
    utility = evidence.expected_utility(others)
    order = by_utility(utility, last)
    return Ranking(
        texts,
        others,
        order,
        utility,
        cosine,
        log_probability,
        from_memory,
        finished,
        score=utility,
        behind=int(last.sum()),
    )


def by_utility(utility: FloatArray, behind: BoolArray | None = None) -> IntArray:
    """(C,) positions by falling utility; of equals the earlier, sums being equal to nine digits.

    Args:
        behind: (C,) what stands behind all others.
    """
    falling = -utility.round(_DIGITS)
    return np.lexsort((falling,) if behind is None else (falling, behind))


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
