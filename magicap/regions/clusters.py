"""Boxes around patches of an image tower that look alike: proposals without a detector.

Shapes: W width of the tower.
"""

from __future__ import annotations

import heapq

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image

from magicap.arrays import FloatArray
from magicap.images.region import outer_box
from magicap.images.transform import ImageTransform
from magicap.models.fine_grained.local_features import patch_states, require_patches
from magicap.models.scorer import ImageTextScorer
from magicap.regions.proposals import MIN_AREA, Proposal, without_overlaps

_DEPTH = 0.67  # which block's patches are clustered, as a share of all blocks
_MAX_AREA = 0.7  # of the picture that a box may cover: the whole has a caption anyway


class PatchClusters:
    """Boxes around clusters of neighbouring patches whose states in the scorer's image tower are alike.

    The patches of a picture are merged pair by pair, neighbours alone, by Ward's criterion (Ward 1963); every
    cluster on the way is a proposal, those that were merged last first, as in selective search (Uijlings et
    al. 2013), whose regions grow from colours.

    Args:
        scorer: whose image tower is read.

    Raises:
        BadModel: the tower does not show its patches.
    """

    def __init__(self, scorer: ImageTextScorer) -> None:
        self._visual = require_patches(scorer.model.visual)
        config = scorer.transform
        self._transform = ImageTransform(config.size, "squash", mean=config.mean, std=config.std)

    @torch.inference_mode()
    def propose(self, picture: Image, max_regions: int) -> list[Proposal]:
        """At most so many boxes of an RGB picture, the best first; none of nearly all or next to nothing."""
        weight = next(self._visual.parameters())
        pixels = self._transform.normalise(self._transform.resize(picture)[None].to(weight.device))
        states = patch_states(self._visual, pixels.to(weight.dtype), _DEPTH)[0].permute(1, 2, 0)
        vectors = F.normalize(states - states.mean(dim=(0, 1)), dim=-1).double().cpu().numpy()
        rows, columns = vectors.shape[:2]
        scale = np.array([picture.width / columns, picture.height / rows] * 2)
        boxes = [
            outer_box((box * scale).tolist(), picture.size)
            for box in reversed(merged_boxes(vectors))
            if MIN_AREA <= (box[2] - box[0]) * (box[3] - box[1]) / (rows * columns) <= _MAX_AREA
        ]
        kept = without_overlaps(boxes)[:max_regions]
        return [Proposal(box, 1 / rank) for rank, box in enumerate(kept, start=1)]


def merged_boxes(vectors: FloatArray) -> list[FloatArray]:
    """Boxes (left, top, right, bottom), in patches, of all clusters, in the order in which they are merged.

    Args:
        vectors: (rows, columns, W), one a patch.
    """
    rows, columns, _ = vectors.shape
    means = dict(enumerate(vectors.reshape(rows * columns, -1)))  # of the clusters that there are now
    sizes = dict.fromkeys(means, 1)
    boxes = {n: np.array([n % columns, n // columns, n % columns + 1, n // columns + 1]) for n in means}
    neighbours = {
        n: {
            *([n - 1] if n % columns else []),
            *([n + 1] if (n + 1) % columns else []),
            *(m for m in (n - columns, n + columns) if 0 <= m < rows * columns),
        }
        for n in means
    }

    def cost(one: int, other: int) -> tuple[float, int, int]:
        """By how much the squared distances to the means grow if the two become one."""
        weight = sizes[one] * sizes[other] / (sizes[one] + sizes[other])
        return weight * float(((means[one] - means[other]) ** 2).sum()), one, other

    pairs = [cost(one, other) for one, others in neighbours.items() for other in others if one < other]
    heapq.heapify(pairs)
    merged: list[FloatArray] = []
    new = len(means)
    while pairs:
        _, one, other = heapq.heappop(pairs)
        if one not in means or other not in means:
            continue
        merged += [boxes[one], boxes[other]]
        sizes[new] = sizes[one] + sizes[other]
        means[new] = (means.pop(one) * sizes[one] + means.pop(other) * sizes[other]) / sizes[new]
        boxes[new] = np.concatenate(
            [np.minimum(boxes[one], boxes[other])[:2], np.maximum(boxes[one], boxes[other])[2:]]
        )
        neighbours[new] = (neighbours.pop(one) | neighbours.pop(other)) - {one, other}
        for neighbour in neighbours[new]:
            neighbours[neighbour] = neighbours[neighbour] - {one, other} | {new}
            heapq.heappush(pairs, cost(neighbour, new))
        new += 1
    return merged
