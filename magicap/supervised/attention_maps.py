"""Where a decoder attends for each word of a caption that is written already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from magicap.errors import BadSettings
from magicap.supervised.network import DECODERS, CaptionNetwork
from magicap.supervised.vocabulary import START

WITHOUT_ATTENTION = "none"
"""The kind of decoder that has no attention."""


class AttentionMaps(NamedTuple):
    """What the decoder attended to, word by word."""

    attention: Tensor
    """(T, h, w) how much each location mattered, summing to 1 over h and w; float32 on the CPU."""

    gate: Tensor | None
    """(T,) how much the picture counted, 0 to 1; None for decoders without a gate."""


def require_attention(network: CaptionNetwork) -> None:
    """Refuse a network whose decoder does not attend to locations.

    Raises:
        BadSettings: it is of the kind ``none``.
    """
    if (kind := network.decoder.config.kind) == WITHOUT_ATTENTION:
        others = ", ".join(name for name in DECODERS if name != WITHOUT_ATTENTION)
        raise BadSettings(
            f"expected a decoder with attention ({others}), found one of kind {kind!r}, which looks at the "
            "picture as a whole; explain another captioner"
        )


@torch.no_grad()
def attention_maps(network: CaptionNetwork, grid: Tensor, ids: Sequence[int]) -> AttentionMaps:
    """Read a caption again, and keep the attention of each of its tokens.

    Args:
        grid: (1, L, D) of the picture.
        ids: the T tokens, without the start token; the end token too where there is one.

    Raises:
        BadSettings: the decoder has no attention.
    """
    require_attention(network)
    input_ids = torch.tensor([[[START, *ids[:-1]]]], device=grid.device)
    reading = network.decoder(grid, input_ids)
    attention = reading.attention[0, 0].float().cpu().unflatten(1, network.encoder.extent)
    return AttentionMaps(attention, None if reading.gate is None else reading.gate[0, 0].float().cpu())
