"""How much evidence suits a memory, and at what temperature: measured on its own captions.

A caption's vector, with noise in place of the modality gap, stands for a picture that it might belong to: the
settings under which the selected caption is most like it suit this memory, this scorer and this domain. No
picture is needed; the vectors of some, captioned or not, set the length of the noise.

Shapes: P pictures, S captions in place of pictures, M evidence captions, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from magicap.decoding.minimum_bayes_risk import (
    evidence_from_neighbours,
    leave_one_out,
    softmax_in_deviations,
)
from magicap.decoding.settings import BeamMagicSearch
from magicap.metrics.cider import pairwise_cider_d
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.modality_gap import pseudo_images

NEIGHBOURS = (10, 20, 50, 100, 200, 400)
TEMPERATURES = (1.0, 2.0)
_CAPTIONS = 200


def tune_decoding(
    settings: BeamMagicSearch, memory: CaptionMemory, images: Tensor | None = None, *, seed: int = 0
) -> BeamMagicSearch:
    """The settings with ``neighbours`` and ``temperature`` that suit a memory.

    Args:
        settings: the others stay as they are here.
        memory: captions of the domain; a sample of them is in place of pictures with captions.
        images: (P, D) unit vectors of pictures of the domain, without captions.
        seed: of the captions that are in place of pictures, and of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(memory), generator=generator)[:_CAPTIONS]
    texts = [memory.texts[position] for position in chosen.tolist()]
    queries = pseudo_images(memory.vectors_at(chosen), memory, images, seed=seed)
    utilities = expected_utilities(memory, queries, texts)
    neighbours, temperature = max(utilities, key=lambda setting: utilities[setting])
    return replace(settings, neighbours=neighbours, temperature=temperature)


def expected_utilities(
    memory: CaptionMemory,
    queries: Tensor,
    texts: Sequence[str],
    neighbours: Sequence[int] = NEIGHBOURS,
    temperatures: Sequence[float] = TEMPERATURES,
) -> dict[tuple[int, float], float]:
    """Mean CIDEr-D, 0 to 10, of what is selected from a memory for vectors (S, D), against their S captions.

    Returns:
        By number of neighbours and temperature.
    """
    utilities: dict[tuple[int, float], list[float]] = {
        setting: [] for setting in product(neighbours, temperatures)
    }
    nearest = memory.nearest(queries.to(memory.device), max(neighbours))
    for text, evidence in zip(texts, evidence_from_neighbours(memory, *nearest, 1.0), strict=True):
        pairs = zip(evidence.texts, evidence.cosines, strict=True)
        others = [(other, cosine) for other, cosine in pairs if other != text]
        cosines = np.array([cosine for _, cosine in others])
        captions = [*(other for other, _ in others), text]
        pairwise = pairwise_cider_d(captions, len(captions), memory.document_frequencies)
        np.fill_diagonal(pairwise, 0.0)
        for (count, temperature), values in utilities.items():
            weights = softmax_in_deviations(cosines[:count], temperature)
            M = len(weights)
            selected = leave_one_out(pairwise[:M, :M], weights).argmax() if M else None
            values.append(0.0 if selected is None else float(pairwise[selected, -1]))
    return {setting: float(np.mean(values)) for setting, values in utilities.items()}
