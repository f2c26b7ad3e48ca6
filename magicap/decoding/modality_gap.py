"""What separates a picture's vector from those of what is said of it, and captions made to look as far away.

In the space of a CLIP-type scorer pictures vary along the same few directions as captions do. So noise that
is to stand for the gap is drawn with the captions' own covariance; noise that is alike in every direction
(CapDec, Nukrai et al. 2022) looks like no picture.

Shapes: B captions, C captions that say how captions vary, P pictures, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from magicap.decoding.memory import CaptionMemory

_ASKED = 1000


@dataclass(frozen=True)
class ModalityGap:
    """Noise and a shift that turn captions' vectors into what could be pictures'."""

    deviations: Tensor
    """(C, D) captions' deviations from their mean."""

    shift: Tensor
    """(D,) where pictures lie beside captions with noise, on average."""

    @classmethod
    def of(cls, memory: CaptionMemory, images: Tensor | None = None, *, seed: int = 0) -> ModalityGap:
        """The gap as a memory's captions show it, and pictures without captions where there are some.

        Args:
            images: (P, D) unit vectors.
            seed: of the captions that are asked.
        """
        dice = torch.Generator().manual_seed(seed)
        vectors = memory.vectors[torch.randperm(len(memory), generator=dice)[:_ASKED]]
        unshifted = cls(vectors - vectors.mean(dim=0), torch.zeros_like(vectors[0]))
        if images is None:
            return unshifted
        shift = images.to(vectors).mean(dim=0) - unshifted.crossed(vectors, 1.0, dice).mean(dim=0)
        return cls(unshifted.deviations, shift)

    def crossed(self, vectors: Tensor, length: Tensor | float, dice: torch.Generator | None = None) -> Tensor:
        """(B, D) unit vectors in place of pictures of which captions, unit vectors (B, D), would be said.

        Args:
            length: of the noise, (B, 1) or one for all, in standard deviations of captions: with 1 a picture
                differs from its caption as much as captions do from each other.
        """
        draws = torch.randn(len(vectors), len(self.deviations), generator=dice).to(vectors)
        noise = draws @ self.deviations.to(vectors) / max(1, len(self.deviations)) ** 0.5
        return F.normalize(F.normalize(vectors + length * noise, dim=1) + self.shift.to(vectors), dim=1)
