"""Mutual nearest neighbours between two grids of local features, with Lowe's ratio test.

Shapes: M matches, L and K places that are seen in the one and in the other picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from magicap.matching.features import DenseFeatures


@dataclass(frozen=True, eq=False)
class Pairs:
    """M places of one picture beside those of another, the surest first."""

    first: NDArray[np.float64]
    """(M, 2) x and y in pixels."""

    second: NDArray[np.float64]
    """(M, 2) likewise in the other picture."""

    scores: NDArray[np.float64]
    """(M,) cosines of their features, -1 to 1."""


@torch.inference_mode()
def mutual_nearest(first: DenseFeatures, second: DenseFeatures, ratio: float, apart: int) -> Pairs:
    """Places that are each other's nearest by the cosine of their features, and clearly nearer than others.

    The place in the second picture is refined to a part of the grid's step: the top of a parabola through the
    cosines of its neighbours.

    Args:
        ratio: largest distance to the nearest as a share of the distance to the second nearest (Lowe 2004,
            "Distinctive Image Features from Scale-Invariant Keypoints"); 1 accepts all.
        apart: neighbours on the grid up to so many steps away do not count as second nearest.
    """
    own, other = first.seen.flatten().nonzero()[:, 0], second.seen
    if len(own) == 0 or not other.any():
        return Pairs(np.empty((0, 2)), np.empty((0, 2)), np.empty(0))
    grid = other.shape
    cosines = first.vectors.flatten(0, 1)[own] @ second.vectors.flatten(0, 1).T
    cosines[:, ~other.flatten()] = -1
    best, nearest = cosines.max(dim=1)
    mutual = cosines.argmax(dim=0)[nearest] == torch.arange(len(own), device=own.device)
    own, best, nearest, cosines = own[mutual], best[mutual], nearest[mutual], cosines[mutual]
    window = _window(nearest, grid, apart)
    distances = [
        (2 - 2 * cosine).clamp_min(0).sqrt()
        for cosine in (best, cosines.scatter(1, window, -1.0).max(dim=1).values)
    ]
    kept = (distances[0] <= ratio * distances[1]).nonzero()[:, 0]
    kept = kept[best[kept].argsort(descending=True, stable=True)]
    moves = _refined(cosines[kept].unflatten(1, grid), nearest[kept])
    places = second.places[nearest[kept].cpu().numpy()] + moves * _step(second)
    return Pairs(first.places[own[kept].cpu().numpy()], places, best[kept].double().cpu().numpy())


def _window(middles: Tensor, grid: torch.Size, radius: int) -> Tensor:
    """(M, (2 radius + 1)²) the places around some places (M,), as indices; at an edge some stand twice."""
    steps = torch.arange(-radius, radius + 1, device=middles.device)
    rows = (middles[:, None] // grid[1] + steps).clamp(0, grid[0] - 1)
    columns = (middles[:, None] % grid[1] + steps).clamp(0, grid[1] - 1)
    return (rows[:, :, None] * grid[1] + columns[:, None, :]).flatten(1)


def _refined(cosines: Tensor, nearest: Tensor) -> NDArray[np.float64]:
    """(M, 2) how far the top lies right of and below the best place, -0.5 to 0.5 steps.

    Args:
        cosines: (M, rows, columns).
        nearest: (M,) indices of the best places.
    """
    around = F.pad(cosines[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    pair = torch.arange(len(nearest), device=nearest.device)
    row, column = nearest // cosines.shape[2] + 1, nearest % cosines.shape[2] + 1
    top = around[pair, row, column]
    moves = []
    for down, right in ((0, 1), (1, 0)):
        before, behind = around[pair, row - down, column - right], around[pair, row + down, column + right]
        bend = before - 2 * top + behind
        move = torch.where(bend < -1e-6, (before - behind) / (2 * bend), torch.zeros_like(bend))
        moves.append(move.clamp(-0.5, 0.5))
    return torch.stack(moves, dim=1).double().cpu().numpy()


def _step(features: DenseFeatures) -> NDArray[np.float64]:
    """(2,) pixels between neighbouring places, to the right and down."""
    return np.array([np.ptp(axis) / max(1, len(axis) - 1) for axis in (features.x, features.y)])
