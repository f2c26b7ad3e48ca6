"""Which weights learn how fast: groups for AdamW."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

ParameterGroups = list[dict[str, Any]]


def split_by_decay(parameters: Iterable[nn.Parameter], rate: float, decay: float) -> ParameterGroups:
    """Matrices decay; vectors (biases, layer norms) and the temperature do not."""
    members = list(parameters)
    return [
        {"params": [p for p in members if p.ndim >= 2], "lr": rate, "weight_decay": decay},
        {"params": [p for p in members if p.ndim < 2], "lr": rate, "weight_decay": 0.0},
    ]


def layerwise(
    model: Any, *, rate: float, trunk_rate: float, trunk_decay: float, trunk_blocks: int, decay: float
) -> ParameterGroups:
    """Text tower and projection at the full rate; blocks of the image trunk slower the lower they lie.

    A trunk without a list of blocks, such as a ResNet, is tuned as a whole at the trunk's rate, and so is an
    image tower without a trunk. Weights in no group are frozen.

    Args:
        model: an open_clip ``CLIP``.
        rate: peak learning rate of all that is not trunk.
        trunk_rate: of the trunk's last block.
        trunk_decay: factor on the rate, block by block downwards.
        trunk_blocks: how many upper blocks learn; the patch embedding learns with the last of all.
        decay: AdamW's, on matrices.
    """
    trunk = getattr(model.visual, "trunk", None)
    blocks = len(getattr(trunk, "blocks", ()))
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        group_rate = rate
        if name.startswith("visual.trunk.") and blocks:
            block = re.search(r"\.blocks\.(\d+)\.", name)
            above = blocks - 1 - int(block[1]) if block else (0 if ".norm." in name else blocks)
            group_rate = trunk_rate * trunk_decay**above if above < trunk_blocks else 0.0
        elif name.startswith("visual." if trunk is None else "visual.trunk."):
            group_rate = trunk_rate
        parameter.requires_grad_(group_rate > 0)
        if group_rate > 0:
            by_rate.setdefault(group_rate, []).append(parameter)
    return [
        group
        for group_rate, members in by_rate.items()
        for group in split_by_decay(members, group_rate, decay)
    ]
