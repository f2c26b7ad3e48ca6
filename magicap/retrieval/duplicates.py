"""Groups of near-duplicates: what is linked by pairs whose cosine reaches a threshold.

Every pair is compared, a block of rows at a time, and a group is a connected component of the graph of such
pairs: a picture, its copy and the copy's copy are one group, though the first and the last may be less alike.

Shapes: N items, D embedding width, P pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magicap.retrieval.nearest import rounding

MOST_PAIRS = 1 << 22
"""Cosines held at a time, 16 MiB, and so at most as many pairs, 64 MiB."""


@torch.inference_mode()
def near_duplicates(vectors: Tensor, threshold: float, sources: Tensor | None = None) -> list[list[int]]:
    """Groups of two items or more, each in the items' order, the groups by their first item.

    Pairs that single precision cannot decide are compared in double precision.

    Args:
        vectors: (N, D) unit vectors, float32.
        threshold: the least cosine of a pair that links two items, -1 to 1.
        sources: (N,) numbers; items of one number are not linked. None: any two may be.
    """
    sources = torch.arange(len(vectors)) if sources is None else sources
    sources = sources.to(vectors.device)
    labels = torch.arange(len(vectors), device=vectors.device)
    rows = max(1, MOST_PAIRS // max(1, len(vectors)))
    for start in range(0, len(vectors), rows):
        first, second = _linked(vectors, sources, start, rows, threshold)
        labels = _merged(labels, first, second)
    groups: dict[int, list[int]] = {}
    for position, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


def _linked(
    vectors: Tensor, sources: Tensor, start: int, rows: int, threshold: float
) -> tuple[Tensor, Tensor]:
    """The pairs (P,), (P,) of a block of rows and the items behind them that reach the threshold."""
    block = vectors[start : start + rows]
    cosines = block @ vectors[start:].T
    behind = torch.ones_like(cosines, dtype=torch.bool).triu(diagonal=1)
    behind &= sources[start : start + rows, None] != sources[None, start:]
    margin = rounding(vectors.shape[1])
    first, second = ((cosines >= threshold - margin) & behind).nonzero(as_tuple=True)
    is_close = (cosines[first, second] - threshold).abs() <= margin
    keep = ~is_close
    for piece in is_close.nonzero()[:, 0].split(max(1, MOST_PAIRS // vectors.shape[1])):
        left, right = block[first[piece]].double(), vectors[start + second[piece]].double()
        keep[piece] = (left * right).sum(dim=1) >= threshold
    return start + first[keep], start + second[keep]


def _merged(labels: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Labels (N,), each the first item of a group, with the groups of P pairs joined.

    Each round hangs groups below the earliest that they are linked to, then points all to the top.
    """
    while True:
        low = torch.minimum(labels[first], labels[second])
        high = torch.maximum(labels[first], labels[second])
        if torch.equal(low, high):
            return labels
        labels = labels.scatter_reduce(0, high, low, "amin")
        while not torch.equal(labels, above := labels[labels]):
            labels = above
