"""The exact nearest neighbours of unit vectors, by every cosine of the full matrix product.

:func:`nearest` decides in double precision: an index must rank alike however its queries are batched.
:func:`largest` decides by cosines in single precision, which a caption memory has computed already.

Shapes: Q queries, N items, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from magicap.models.topk import topk

MOST_COSINES = 1 << 24
"""Cosines held at a time, 64 MiB."""

MOST_DOUBLES = 1 << 22
"""Numbers made double at a time, 32 MiB."""


@torch.inference_mode()
def nearest(queries: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The items most like each query, best first; of equals the earlier.

    Single precision only proposes: all items that its rounding cannot rule out are compared in double
    precision, so that the outcome does not depend on how the product was cut into pieces.

    Args:
        queries: (Q, D) unit vectors, float32.
        vectors: (N, D) unit vectors of the items, float32.
        count: how many for each query; N if there are fewer.

    Returns:
        Cosines (Q, count) and positions (Q, count), on the device of ``vectors``.
    """
    queries, count = queries.to(vectors.device), min(count, len(vectors))
    cosines = vectors.new_empty(len(queries), count)
    positions = torch.empty(len(queries), count, dtype=torch.long, device=vectors.device)
    if not count:
        return cosines, positions
    rows = max(1, MOST_COSINES // len(vectors))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        for row, candidates in enumerate(_candidates(block, vectors, count), start):
            exact = _exact_cosines(queries[row], vectors, candidates)
            best = exact.sort(descending=True, stable=True).indices[:count]
            cosines[row], positions[row] = exact[best], candidates[best]
    return cosines, positions


def largest(cosines: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of each row, in falling order; of equals the earlier, but for the last place.

    Args:
        cosines: (Q, N).
        count: how many of each row; N if there are fewer.

    Returns:
        Cosines (Q, count) and their columns (Q, count).
    """
    if count == 1:
        best = cosines.max(dim=1, keepdim=True)
        return best.values, best.indices
    _, columns = topk(cosines, min(count, cosines.shape[1]))
    columns = columns.sort(dim=1).values
    order = cosines.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return order.values, columns.gather(1, order.indices)


def rounding(width: int) -> float:
    """By how much two cosines of one order may seem to be of the other, computed in single precision."""
    # A sum of D products of unit vectors is off by less than D roundings, whatever their order: twice that
    # for the two that are compared, and twice again for vectors that are not quite of length one.
    return 4 * width * torch.finfo(torch.float32).eps


def _candidates(queries: Tensor, vectors: Tensor, count: int) -> list[Tensor]:
    """Of each query the positions, in order, that may be among its ``count`` nearest."""
    cosines = queries @ vectors.T
    last = cosines.topk(count).values[:, -1:]
    return [row.nonzero()[:, 0] for row in cosines >= last - rounding(vectors.shape[1])]


def _exact_cosines(query: Tensor, vectors: Tensor, positions: Tensor) -> Tensor:
    """Cosines (C,) of one query (D,) with the items at C positions, summed in double precision."""
    pieces = positions.split(max(1, MOST_DOUBLES // vectors.shape[1]))
    return torch.cat([vectors[piece].double() @ query.double() for piece in pieces]).float()
