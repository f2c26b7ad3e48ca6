"""Features of a scorer's frozen trunk, computed once for a stage that learns what lies above it."""

from __future__ import annotations

import torch
from torch import Tensor

from magicap.models.scorer import ImageTextScorer
from magicap.training.pairs import Pairs
from magicap.training.progress import progress


@torch.no_grad()
def pooled_features(
    scorer: ImageTextScorer, pairs: Pairs, *, workers: int = 0, bfloat16: bool = False
) -> Tensor:
    """(N, F) features of N pictures by the trunk of a scorer's image tower, pooled.

    Args:
        scorer: one with a trunk apart from its projection.
        pairs: the pictures as pixels (3, H, W).
        workers: processes that read them beside this one.
        bfloat16: whether to compute under autocast to it.
    """
    trunk, device = scorer.model.visual.trunk.eval(), scorer.device
    trunk.to(memory_format=torch.channels_last)  # convolutions are twice as fast on a CPU
    parts = []
    with progress(len(pairs), "features", unit="picture") as bar:
        for batch in pairs.in_order(64, workers):
            pixels = scorer.transform.normalise(batch["images"].to(device))
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                pooled = trunk(pixels).float().cpu()
            parts.append(pooled.clone())  # or it might keep all tokens alive
            bar.update(len(pooled))
    trunk.to(memory_format=torch.contiguous_format)  # as safetensors wants it
    return torch.cat(parts)
