"""Which weights learn how fast: groups for AdamW."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class EncoderRates:
    """How a Hugging Face encoder as text tower learns; text towers of other kinds learn at the full rate."""

    blocks: int
    """How many of its upper blocks learn; one more than there are: the embeddings too."""

    rate: float
    """Peak learning rate of these."""


def layerwise(
    model: Any,
    *,
    rate: float,
    trunk_rate: float,
    trunk_decay: float,
    trunk_blocks: int,
    decay: float,
    encoder: EncoderRates,
) -> ParameterGroups:
    """Text tower and projection at the full rate; blocks of the image trunk slower the lower they lie.

    A trunk without a list of blocks, such as a ResNet, is tuned as a whole at the trunk's rate, and so is an
    image tower without a trunk. Weights in no group are frozen.

    Args:
        model: an open_clip ``CLIP`` or ``CustomTextCLIP``.
        rate: peak learning rate of all that is not trunk.
        trunk_rate: of the trunk's last block; 0 freezes the trunk.
        trunk_decay: factor on the rate, block by block downwards.
        trunk_blocks: how many upper blocks learn; one more than there are: what lies below too.
        decay: AdamW's, on matrices.
        encoder: of a text tower of Hugging Face.
    """
    image_tower = "visual.trunk." if hasattr(model.visual, "trunk") else "visual."
    trunk = _blocks_above(model, r"visual\.trunk\.blocks")
    text = _blocks_above(model, r"text\.transformer\.(?:encoder\.)?(?:layers?|block)")
    by_rate: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        group_rate = rate
        if name.startswith("visual.trunk.") and trunk:
            group_rate = trunk_rate * trunk_decay ** trunk[name] if trunk[name] < trunk_blocks else 0.0
        elif name.startswith(image_tower):
            group_rate = trunk_rate
        elif name.startswith("text.transformer.") and text:
            group_rate = encoder.rate if text[name] < encoder.blocks else 0.0
        parameter.requires_grad_(group_rate > 0)
        if group_rate > 0:
            by_rate.setdefault(group_rate, []).append(parameter)
    return [
        group
        for group_rate, members in by_rate.items()
        for group in split_by_decay(members, group_rate, decay)
    ]


def _blocks_above(model: nn.Module, blocks: str) -> dict[str, int]:
    """How many of a tower's blocks lie above each weight, in the order of the model; empty without blocks.

    Args:
        blocks: matches the name of the list of blocks.
    """
    numbers, number = {}, -1
    for name, _ in model.named_parameters():
        if match := re.match(rf"{blocks}\.(\d+)\.", name):
            number = int(match[1])
        numbers[name] = number
    return {name: number - own for name, own in numbers.items()} if number >= 0 else {}
