"""What a prompted language model is told of pictures.

Shapes: B pictures, D embedding width, W hidden width of the language model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.decoding.minimum_bayes_risk import softmax_in_deviations
from magicap.errors import BadSettings

if TYPE_CHECKING:
    from magicap.decoding.prefix_cache import Node, PrefixCache
    from magicap.decoding.settings import BeamMagicSearch, MagicSearch
    from magicap.models.language_model import LanguageModel
    from magicap.retrieval.caption_memory import CaptionMemory

_NEIGHBOURS = 200
_TEMPERATURE = 1.0  # in standard deviations of their cosines


def beginnings(
    trie: PrefixCache, images: Tensor, settings: MagicSearch | BeamMagicSearch, memory: CaptionMemory | None
) -> list[Node]:
    """Where captions of pictures, unit vectors (B, D), begin: at one node, or each told of its picture."""
    if not settings.prompted:
        return [trie.root(settings.top_k)] * len(images)
    return trie.roots(settings.top_k, told(trie.language_model, images, memory))


@torch.inference_mode()
def told(language_model: LanguageModel, images: Tensor, memory: CaptionMemory | None) -> Tensor:
    """(B, W) what a language model is told of pictures, unit vectors (B, D).

    Raises:
        BadSettings: it has not learned to be told, or by vectors of another width.
    """
    prompt = language_model.prompt
    if prompt is None:
        raise BadSettings(
            "this captioner's language model has not learned to be told of pictures; "
            "search without prompted, or tune it with recipes/tune_prompted.py"
        )
    prompt.require_scorer_width(images.shape[1])
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
    cosines, positions = memory.nearest(queries.to(memory.coordinates), _NEIGHBOURS)
    weights = torch.from_numpy(softmax_in_deviations(cosines.cpu().double().numpy(), _TEMPERATURE)).to(
        queries
    )
    if own is not None:
        weights = weights * (positions != own.to(positions)[:, None]).to(queries)
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return torch.einsum("bm,bmd->bd", weights, memory.vectors_at(positions).to(queries))
