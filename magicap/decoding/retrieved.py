"""The floors that a memory of captions gives: the nearest caption, and consensus among the nearest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from magicap.decoding.minimum_bayes_risk import retrieve_evidence
from magicap.decoding.settings import Steps
from magicap.errors import BadSettings
from magicap.results import Step

if TYPE_CHECKING:
    from magicap.decoding.prefix_cache import PrefixCache
    from magicap.retrieval.caption_memory import CaptionMemory


@dataclass(frozen=True)
class NearestCaption:
    """Retrieval: the memory's caption that fits the picture best, in one step (CLIPRe in Su et al. 2022)."""

    memory: CaptionMemory
    """Where captions are looked up; encoded by the captioner's own scorer."""

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        cosine, position = self.memory.nearest(images.to(self.memory.device))
        found = zip(position[:, 0].tolist(), cosine[:, 0].tolist(), strict=True)
        yield [(row, _retrieved(self.memory.texts[i], value)) for row, (i, value) in enumerate(found)]


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
        if self.count < 1:
            raise BadSettings(f"count must be at least 1, found {self.count}")

    def search(
        self, trie: PrefixCache, images: Tensor, seeds: list[int], memory: CaptionMemory | None = None
    ) -> Steps:
        near = retrieve_evidence(self.memory, images, self.count, temperature=math.inf)
        chosen = [int(each.agreement([]).argmax()) for each in near]  # of equals the nearest
        yield [
            (row, _retrieved(each.texts[best], float(each.cosines[best])))
            for row, (each, best) in enumerate(zip(near, chosen, strict=True))
        ]


def _retrieved(text: str, cosine: float) -> Step:
    return Step(text, text, -1, 0.0, 0.0, cosine, last=True)
