"""Noise in place of the modality gap: what separates a picture's vector from those of its captions.

Two noises have their home here. Training adds noise with the captions' own covariance: in the space of a
CLIP-type scorer pictures vary along the same few directions as captions do. The tuning of a decoding adds
isotropic noise (CapDec, Nukrai et al. 2022, arXiv 2211.00575). Neither has been measured to serve both.

Shapes: B captions, P pictures, C captions that say how captions vary, D embedding width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.retrieval.caption_memory import MIN_STD, CaptionMemory

_COVARIANCE_FROM = 1000  # captions
_ISOTROPIC_LENGTH = 3.5  # beside a caption's vector of length 1; pictures of two domains gave 2.6 and 4.5
_LONGEST = 10.0
_HALVINGS = 20


class ModalityGap:
    """Noise with the covariance of a memory's captions.

    Args:
        memory: its captions' vectors; 1,000 of them, or all of fewer, give the covariance.
        seed: of the captions that the covariance is taken from.
    """

    def __init__(self, memory: CaptionMemory, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        vectors = memory.vectors_at(torch.randperm(len(memory), generator=generator)[:_COVARIANCE_FROM])
        self._deviations = vectors - vectors.mean(dim=0)

    def add_noise(
        self, vectors: Tensor, length: Tensor | float, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, D) unit vectors in place of the pictures that captions, unit vectors (B, D), might belong to.

        Args:
            vectors: (B, D) unit vectors of captions.
            length: of the noise, (B, 1) or one for all, in standard deviations of captions: with 1 a picture
                differs from its caption as much as captions do from their mean.
            generator: of the noise, on the CPU; None: torch's own.
        """
        weights = torch.randn(len(vectors), len(self._deviations), generator=generator).to(vectors)
        noise = weights @ self._deviations.to(vectors) / len(self._deviations) ** 0.5
        return F.normalize(vectors + length * noise, dim=1)


def pseudo_images(
    vectors: Tensor, memory: CaptionMemory, images: Tensor | None = None, *, seed: int = 0
) -> Tensor:
    """(B, D) unit vectors of captions with isotropic noise, in place of pictures that they might belong to.

    Args:
        vectors: (B, D) of the captions.
        memory: whose nearest and mean caption fit the noise to ``images``.
        images: (P, D) pictures' vectors; the noise is such that the memory's nearest caption is nearer than
            its mean one by as much as it is for these.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = F.normalize(torch.randn(vectors.shape, generator=generator), dim=1).to(vectors)
    length = _ISOTROPIC_LENGTH
    if images is not None:
        length = _length_like(images.to(vectors), vectors, noise, memory)
    return F.normalize(vectors + length * noise, dim=1)


def _length_like(images: Tensor, vectors: Tensor, noise: Tensor, memory: CaptionMemory) -> float:
    """The length of noise at which captions' vectors have the prominence of pictures' vectors."""
    target = _prominence(images, memory)
    low, high = 0.0, _LONGEST
    for _ in range(_HALVINGS):
        length = (low + high) / 2
        too_prominent = _prominence(F.normalize(vectors + length * noise, dim=1), memory) > target
        low, high = (length, high) if too_prominent else (low, length)
    return low


def _prominence(queries: Tensor, memory: CaptionMemory) -> float:
    """By how many standard deviations the nearest caption is nearer than the mean one, on average."""
    cosines = memory.cosines(queries)
    std = cosines.std(dim=1).clamp_min(MIN_STD)
    return float(((cosines.max(dim=1).values - cosines.mean(dim=1)) / std).mean())
