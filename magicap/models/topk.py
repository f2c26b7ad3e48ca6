"""The largest of many columns, faster than ``topk`` alone where few of them are wanted.

Shapes: N rows, V columns, K wanted, P parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PARTS = 16
_WORTHWHILE = 64  # times as many columns as are wanted; below that topk alone is as fast


def topk(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row, falling, and their columns; each (N, K).

    Columns are dealt into groups of P that stand far apart; the K largest of all are in the K groups
    with the largest maxima, so only those are sorted. On a GPU, and for few columns, it is ``topk`` itself.

    Args:
        values: (N, V).
    """
    V = values.shape[1]
    if values.is_cuda or _WORTHWHILE * count > V:
        top = values.topk(count, dim=1)
        return top.values, top.indices
    width = V // _PARTS
    parts = values[:, : _PARTS * width].unflatten(1, (_PARTS, width))
    groups = parts.amax(dim=1).topk(count, dim=1, sorted=False).indices  # (N, K)
    candidates = parts.gather(2, groups[:, None].expand(-1, _PARTS, -1)).flatten(1)  # (N, P * K)
    columns = (groups[:, None] + width * torch.arange(_PARTS)[:, None]).flatten(1)
    left_over = torch.arange(_PARTS * width, V).expand(len(values), -1)
    candidates = torch.cat([candidates, values[:, _PARTS * width :]], dim=1)
    top = candidates.topk(count, dim=1)
    return top.values, torch.cat([columns, left_over], dim=1).gather(1, top.indices)
