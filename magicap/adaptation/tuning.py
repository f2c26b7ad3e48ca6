"""How many of a memory's captions should have a say, and how evenly: found from its own captions.

A caption's vector, with noise, stands in for a picture that it would be said of (noise in place of the
modality gap as in CapDec, Nukrai et al. 2022): whatever settings bring the others' consensus nearest to that
caption suit this memory, this scorer and this domain. No picture need be seen; if some are, captioned or not,
they say how much noise stands for the gap.

Shapes: P pictures, S captions that stand in for pictures, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.decoding.minimum_bayes_risk import MIN_STD, judged, retrieve_evidence, softmax_in_deviations
from magicap.metrics.pairwise_cider import pairwise_cider_d
from magicap.retrieval.caption_memory import CaptionMemory

if TYPE_CHECKING:
    from magicap.decoding.settings import BeamMagicSearch

NEIGHBOURS = (10, 20, 50, 100, 200, 400)
TEMPERATURES = (1.0, 2.0)
_STAND_INS = 200
_NOISE = 3.5  # length beside a caption's vector of length 1; pictures of two domains gave 2.6 and 4.5
_MOST_NOISE = 10.0
_HALVINGS = 20


def tune_decoding(
    settings: BeamMagicSearch, memory: CaptionMemory, images: Tensor | None = None, *, seed: int = 0
) -> BeamMagicSearch:
    """The settings with ``neighbours`` and ``temperature`` that suit a memory.

    Args:
        images: (P, D) unit vectors of pictures of the domain, without captions.
        seed: of the captions that stand in for pictures, and of the noise.
    """
    dice = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(memory), generator=dice)[:_STAND_INS]
    texts, vectors = [memory.texts[place] for place in chosen.tolist()], memory.vectors_at(chosen)
    gains = expected_utilities(memory, pseudo_images(vectors, memory, images, seed=seed), texts)
    neighbours, temperature = max(gains, key=lambda tried: gains[tried])
    return replace(settings, neighbours=neighbours, temperature=temperature)


def pseudo_images(
    vectors: Tensor, memory: CaptionMemory, images: Tensor | None = None, *, seed: int = 0
) -> Tensor:
    """(S, D) unit vectors of captions with noise, in place of pictures that they would be said of.

    Args:
        vectors: (S, D) of the captions.
        images: (P, D) pictures' vectors; the noise is such that captions stand out of the memory as these do.
    """
    dice = torch.Generator().manual_seed(seed)
    noise = F.normalize(torch.randn(vectors.shape, generator=dice), dim=1).to(vectors)
    length = _NOISE if images is None else _noise_like(images.to(vectors), vectors, noise, memory)
    return F.normalize(vectors + length * noise, dim=1)


def expected_utilities(
    memory: CaptionMemory,
    queries: Tensor,
    texts: Sequence[str],
    neighbours: Sequence[int] = NEIGHBOURS,
    temperatures: Sequence[float] = TEMPERATURES,
) -> dict[tuple[int, float], float]:
    """Mean CIDEr-D, 0 to 10, of what a memory elects for vectors (S, D), held against their S captions.

    Returns:
        By number of neighbours and temperature.
    """
    gains: dict[tuple[int, float], list[float]] = {each: [] for each in product(neighbours, temperatures)}
    for text, near in zip(texts, retrieve_evidence(memory, queries, max(neighbours), 1.0), strict=True):
        others = [each for each in near.texts if each != text]
        cosines = np.array([c for c, each in zip(near.cosines, near.texts, strict=True) if each != text])
        alike = pairwise_cider_d([*others, text], len(others) + 1, memory.rarity)
        np.fill_diagonal(alike, 0.0)
        for (count, temperature), found in gains.items():
            weights = softmax_in_deviations(cosines[:count], temperature)
            M = len(weights)
            found.append(float(alike[judged(alike[:M, :M], weights).argmax(), -1]) if M else 0.0)
    return {each: float(np.mean(found)) for each, found in gains.items()}


def _noise_like(images: Tensor, vectors: Tensor, noise: Tensor, memory: CaptionMemory) -> float:
    """The length of noise at which captions' vectors stand out of a memory as far as pictures' do."""
    wanted = _standing_out(images, memory)
    low, high = 0.0, _MOST_NOISE
    for _ in range(_HALVINGS):
        length = (low + high) / 2
        further = _standing_out(F.normalize(vectors + length * noise, dim=1), memory) > wanted
        low, high = (length, high) if further else (low, length)
    return low


def _standing_out(queries: Tensor, memory: CaptionMemory) -> float:
    """By how many standard deviations the nearest caption is nearer than the mean one, on average."""
    cosine = memory.cosines(queries)
    spread = cosine.std(dim=1).clamp_min(MIN_STD)
    return float(((cosine.max(dim=1).values - cosine.mean(dim=1)) / spread).mean())
