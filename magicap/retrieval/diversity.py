"""Maximal marginal relevance (Carbonell and Goldstein 1998): matches that are not all alike.

Shapes: C candidates, K chosen, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.inference_mode()
def marginal_relevance(relevance: Tensor, vectors: Tensor, count: int, diversity: float) -> list[int]:
    """Choose candidates one by one: relevant, and unlike those that are chosen already.

    The next one has the largest (1 - diversity) * relevance - diversity * redundancy, where its redundancy is
    its largest cosine with one that is chosen; of equals the earlier. The paper's lambda is 1 - diversity.

    Args:
        relevance: (C,) of each candidate.
        vectors: (C, D) their unit vectors.
        count: K, how many to choose; all, if there are fewer.
        diversity: 0 orders by relevance alone, 1 looks for differences alone behind the most relevant one.

    Returns:
        Positions of K candidates, in the order in which they were chosen.
    """
    chosen: list[int] = []
    redundancy = torch.full_like(relevance, -torch.inf)
    is_left = torch.ones_like(relevance, dtype=torch.bool)
    for _ in range(min(count, len(relevance))):
        score = relevance if not chosen else (1 - diversity) * relevance - diversity * redundancy
        best = int(score.masked_fill(~is_left, -torch.inf).argmax())
        chosen.append(best)
        is_left[best] = False
        redundancy = torch.maximum(redundancy, vectors @ vectors[best])
    return chosen
