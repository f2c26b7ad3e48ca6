"""From pictures' vectors, and a caption memory near them, to what conditions the language model.

Shapes: B pictures, M neighbours, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magicap.decoding.minimum_bayes_risk import softmax_in_deviations
from magicap.retrieval.caption_memory import CaptionMemory

NEIGHBOURS = 200
"""How many of the memory's captions a picture is projected on."""

_TEMPERATURE = 1.0  # in standard deviations of their cosines


def project_onto_memory(memory: CaptionMemory, queries: Tensor, excluded: Tensor | None = None) -> Tensor:
    """(B, D) mean vectors of the memory's captions near pictures, the nearer the heavier.

    A projection as in DeCap (Li et al. 2023, arXiv 2303.03032, eq. 3), onto the nearest captions alone. They
    are texts, so nothing is left of the modality gap.

    Args:
        queries: (B, D) unit vectors of pictures, or of what stands in their place.
        excluded: (B,) position of a caption that must not count for each, -1 for none: the one whose vector
            is in a picture's place, which no picture would find.
    """
    cosines, positions = memory.nearest(queries.float().to(memory.device), NEIGHBOURS)
    return weighted_mean(memory, cosines, positions, excluded).to(queries)


def weighted_mean(
    memory: CaptionMemory, cosines: Tensor, positions: Tensor, excluded: Tensor | None = None
) -> Tensor:
    """(B, D) of neighbours that were found before: cosines and positions, both (B, M)."""
    weights = torch.from_numpy(softmax_in_deviations(cosines.cpu().double().numpy(), _TEMPERATURE))
    weights = weights.float().to(memory.device)
    if excluded is not None:
        weights = weights * (positions != excluded.to(positions)[:, None]).to(weights)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return torch.einsum("bm,bmd->bd", weights, memory.vectors_at(positions))
