"""What a scorer learns from pairs with: vectors of texts, the temperature, and the loss of a batch.

Shapes: B pictures, N texts, D the shared space.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.errors import BadModel
from magicap.models.scorer import ImageTextScorer
from magicap.training.losses import hardest_negative_hinge, info_nce

_LARGEST_LOGIT_SCALE = math.log(100)  # CLIP's own bound (Radford et al. 2021)


def text_vectors(scorer: ImageTextScorer, texts: Sequence[str]) -> Tensor:
    """Unit vectors (N, D) of texts by a causal text tower, differentiable.

    Raises:
        BadModel: the scorer's text tower is not causal.
    """
    tower = scorer.text_tower
    if tower is None:
        raise BadModel("only causal text towers can be trained here; choose a base with one")
    return tower.encode([tower.cut(row) for row in scorer.tokenize(texts)])


def inverse_temperature(scorer: ImageTextScorer) -> Tensor:
    """The trained factor on cosines, its parameter brought back to CLIP's bound where a step went beyond."""
    with torch.no_grad():
        scorer.model.logit_scale.clamp_(max=_LARGEST_LOGIT_SCALE)
    scale: Tensor = scorer.model.logit_scale.exp()
    return scale


def pair_loss(
    scorer: ImageTextScorer, vectors: Tensor, texts: Tensor, owner: Tensor, loss: str = "infonce"
) -> Tensor:
    """Contrastive loss of pictures and their captions.

    Args:
        vectors: (B, D) of the pictures, before normalisation.
        texts: (N, D) unit vectors of the captions.
        owner: (N,) the picture that each caption belongs to.
        loss: ``infonce``, or ``vse++`` for the hardest-negative hinge.
    """
    images = F.normalize(vectors.float(), dim=-1)
    scale = inverse_temperature(scorer)
    if loss == "vse++":
        # The hinge knows no temperature, but magic search's softmax needs one: it alone learns from InfoNCE.
        of_temperature = info_nce(images.detach(), texts.detach(), owner, scale)
        return hardest_negative_hinge(images, texts, owner) + of_temperature
    return info_nce(images, texts, owner, scale)
