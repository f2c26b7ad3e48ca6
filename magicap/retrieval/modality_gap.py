"""Noise that stands for what separates a picture's vector from those of what is said of it.

In the space of a CLIP-type scorer pictures vary along the same few directions as captions do, so the noise is
drawn with the captions' own covariance; noise that is alike in every direction (CapDec, Nukrai et al. 2022)
looks like no picture.

Shapes: B captions, C captions that say how captions vary, D embedding width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from magicap.retrieval.caption_memory import CaptionMemory

_ASKED = 1000


class ModalityGap:
    """Noise with the covariance of a memory's captions."""

    def __init__(self, memory: CaptionMemory, *, seed: int = 0) -> None:
        """
        Args:
            seed: of the captions that are asked how captions vary.
        """
        dice = torch.Generator().manual_seed(seed)
        vectors = memory.vectors_at(torch.randperm(len(memory), generator=dice)[:_ASKED])
        self._deviations = vectors - vectors.mean(dim=0)

    def add_noise(
        self, vectors: Tensor, length: Tensor | float, dice: torch.Generator | None = None
    ) -> Tensor:
        """(B, D) unit vectors in place of pictures of which captions, unit vectors (B, D), would be said.

        Args:
            length: of the noise, (B, 1) or one for all, in standard deviations of captions: with 1 a picture
                differs from its caption as much as captions do from their mean.
        """
        draws = torch.randn(len(vectors), len(self._deviations), generator=dice).to(vectors)
        noise = draws @ self._deviations.to(vectors) / len(self._deviations) ** 0.5
        return F.normalize(vectors + length * noise, dim=1)
