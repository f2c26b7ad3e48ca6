"""What a memory of captions gives without a language model: the nearest caption, and their consensus.

Both are decodings of the kind that users can write: objects with their own ``search(context)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from magicap.checks import require_int
from magicap.decoding.minimum_bayes_risk import by_utility, evidence_from_neighbours
from magicap.results import Hypothesis

if TYPE_CHECKING:
    from magicap.decoding.context import DecodingContext
    from magicap.retrieval.caption_memory import CaptionMemory


@dataclass(frozen=True)
class NearestCaption:
    """Retrieval: the memory's caption nearest to the picture (CLIPRe in Su et al. 2022)."""

    memory: CaptionMemory
    """Where captions are looked up; encoded by the captioner's own scorer."""

    def search(self, context: DecodingContext) -> list[list[Hypothesis]]:
        """For each picture the one caption.

        Args:
            context: the pictures, and the captioner's models.
        """
        cosines, positions = self.memory.nearest(context.image_vectors.to(self.memory.device))
        return [
            [Hypothesis(self.memory.texts[position], cosine=cosine, source="memory", score=cosine)]
            for position, cosine in zip(positions[:, 0].tolist(), cosines[:, 0].tolist(), strict=True)
        ]


@dataclass(frozen=True)
class ConsensusCaption:
    """Retrieval by consensus: of the captions nearest to the picture the one most like the others.

    "Like" is CIDEr-D, n-grams being weighed by how few captions of the memory hold them (Devlin et al. 2015,
    "Exploring Nearest Neighbor Approaches for Image Captioning").
    """

    memory: CaptionMemory
    """Where captions are looked up; encoded by the captioner's own scorer."""

    count: int = 30
    """How many of the nearest captions take part."""

    def __post_init__(self) -> None:
        require_int("count", self.count)

    def search(self, context: DecodingContext) -> list[list[Hypothesis]]:
        """For each picture the nearest captions, that with the largest expected utility first.

        Args:
            context: the pictures, and the captioner's models.
        """
        neighbours = self.memory.nearest(context.image_vectors.to(self.memory.device), self.count)
        rows = []
        for evidence in evidence_from_neighbours(self.memory, *neighbours, temperature=math.inf):
            utilities = evidence.expected_utility([])
            rows.append(
                [
                    Hypothesis(
                        evidence.texts[number],
                        expected_utility=float(utilities[number]),
                        cosine=float(evidence.cosines[number]),
                        source="memory",
                        score=float(utilities[number]),
                    )
                    for number in by_utility(utilities)  # of equals the nearest
                ]
            )
        return rows
