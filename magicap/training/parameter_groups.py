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
    image tower without a trunk. What is to rest asks for no gradient afterwards.

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
        own = rate
        if name.startswith("visual.trunk.") and blocks:
            found = re.search(r"\.blocks\.(\d+)\.", name)
            above = blocks - 1 - int(found[1]) if found else (0 if ".norm." in name else blocks)
            own = trunk_rate * trunk_decay**above if above < trunk_blocks else 0.0
        elif name.startswith("visual." if trunk is None else "visual.trunk."):
            own = trunk_rate
        parameter.requires_grad_(own > 0)
        if own > 0:
            by_rate.setdefault(own, []).append(parameter)
    return [group for own, members in by_rate.items() for group in split_by_decay(members, own, decay)]
