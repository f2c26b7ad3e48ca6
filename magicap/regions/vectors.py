"""The vector of a region in its surroundings.

Shapes: B regions, D width of the scorer's space.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SURROUNDINGS = 0.25
"""How much the whole picture counts beside the crop: chosen on dev. docs/experiments.md has other weights,
margins, and patches of the image tower pooled over the box."""


def region_vectors(crops: Tensor, pictures: Tensor, surroundings: float = SURROUNDINGS) -> Tensor:
    """(B, D) unit vectors: the weighted mean of those of the crop and of the whole picture.

    Args:
        crops: (B, D) unit vectors of what lies in the boxes.
        pictures: (B, D) unit vectors of the pictures that they lie in.
        surroundings: weight of the picture, 0 to 1; that of the crop is the rest.
    """
    return F.normalize((1 - surroundings) * crops + surroundings * pictures, dim=-1)
