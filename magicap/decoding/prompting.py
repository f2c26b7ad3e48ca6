"""What a prompted language model is told of pictures.

Shapes: B pictures, D embedding width, W hidden width of the language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.decoding.electorate import softmax_in_spreads

if TYPE_CHECKING:
    from magicap.decoding.memory import CaptionMemory
    from magicap.models.language_model import LanguageModel

_NEIGHBOURS = 200
_TEMPERATURE = 1.0  # in standard deviations of their cosines


def told(language_model: LanguageModel, images: Tensor, memory: CaptionMemory | None) -> Tensor | None:
    """(B, W) prompts of pictures, unit vectors (B, D); None where the language model takes none."""
    prompt = language_model.prompt
    if prompt is None:
        return None
    with torch.inference_mode():
        told: Tensor = prompt(images, None if memory is None else remembered(memory, images))
        return told


def remembered(memory: CaptionMemory, queries: Tensor, own: Tensor | None = None) -> Tensor:
    """(B, D) what a memory holds near pictures: the mean of nearby captions' vectors, the nearer the heavier.

    A projection onto the memory as in DeCap (Li et al. 2023, eq. 3), of the nearest alone. Text speaks of
    the picture, so nothing is left of the gap between the modalities.

    Args:
        queries: (B, D) unit vectors of pictures, or what stands in for them.
        own: (B,) a caption of the memory for each that must not count, -1 for none: that whose vector stands
            in for a picture, which no picture would find.
    """
    cosines, positions = memory.nearest(queries.to(memory.vectors), _NEIGHBOURS)
    weights = torch.from_numpy(softmax_in_spreads(cosines.double().cpu().numpy(), _TEMPERATURE)).to(queries)
    if own is not None:
        weights = weights * (positions != own[:, None])
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return torch.einsum("bm,bmd->bd", weights, memory.vectors[positions].to(queries))
