"""A corpus of captions as vectors, and the floor it gives: the caption nearest to the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.decoding.settings import Steps
from magicap.errors import BadSettings
from magicap.results import Step

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel
    from magicap.models.scorer import ImageTextScorer


class CaptionMemory:
    """Distinct captions with their unit vectors; every search looks at all of them."""

    def __init__(self, texts: Sequence[str], vectors: Tensor) -> None:
        """
        Args:
            texts: N captions.
            vectors: (N, D) unit vectors, in the same order.

        Raises:
            BadSettings: no captions, or not as many vectors.
        """
        if not texts or len(texts) != len(vectors):
            raise BadSettings(
                f"a memory needs one vector a caption; found {len(texts)} captions, {len(vectors)} vectors"
            )
        self.texts = list(texts)
        self.vectors = vectors

    @classmethod
    def from_texts(cls, scorer: ImageTextScorer, texts: Sequence[str]) -> CaptionMemory:
        """Encode captions with a scorer; a caption that stands twice is kept once."""
        distinct = list(dict.fromkeys(texts))
        return cls(distinct, scorer.encode_texts(distinct))

    def __len__(self) -> int:
        return len(self.texts)

    def nearest(self, queries: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """The captions most like each query, best first; of equals the earlier.

        Args:
            queries: (B, D) unit vectors of pictures or texts.

        Raises:
            BadSettings: the memory was encoded by a scorer of another width.

        Returns:
            Cosines (B, count) and positions in :attr:`texts` (B, count).
        """
        if queries.shape[1] != self.vectors.shape[1]:
            raise BadSettings(
                f"this memory holds vectors of width {self.vectors.shape[1]}, the pictures' are of width "
                f"{queries.shape[1]}: encode the memory with the captioner's own scorer"
            )
        cosine = queries @ self.vectors.T
        order = (
            cosine.sort(dim=1, descending=True, stable=True) if count > 1 else cosine.max(dim=1, keepdim=True)
        )
        return order.values[:, :count], order.indices[:, :count]


@dataclass(frozen=True)
class NearestCaption:
    """Retrieval: the memory's caption that fits the picture best, in one step (CLIPRe in Su et al. 2022)."""

    memory: CaptionMemory
    """Where captions are looked up; encoded by the captioner's own scorer."""

    def search(
        self, language_model: LanguageModel, scorer: ImageTextScorer, images: Tensor, seeds: list[int]
    ) -> Steps:
        cosine, position = self.memory.nearest(images.to(self.memory.vectors.device))
        texts = [self.memory.texts[i] for i in position.squeeze(1).tolist()]
        yield [
            (row, Step(text, text, -1, 0.0, 0.0, value, last=True))
            for row, (text, value) in enumerate(zip(texts, torch.squeeze(cosine, 1).tolist(), strict=True))
        ]
