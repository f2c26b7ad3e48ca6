"""Unit vectors as they are written to disk: whole numbers of eight or four bits.

Shapes: N vectors, D numbers of each.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from magicap.errors import BadSettings

STEPS = {8: 127, 4: 7}
"""Of a number's bits, steps on either side of zero."""


def quantised(vectors: Tensor, bits: int) -> Tensor:
    """Whole numbers (..., D), not yet as integers; the largest of each vector is at the last step."""
    return (vectors / vectors.abs().amax(dim=-1, keepdim=True) * STEPS[bits]).round()


def packed(steps: Tensor) -> Tensor:
    """Numbers of -7 to 7 (N, D), D even, two a byte (N, D / 2): [[1, -1, 0, 7]] becomes [[0x79, 0xF8]].

    Eight is added; the first of two numbers has the lower four bits.
    """
    if steps.shape[1] % 2:
        raise BadSettings(f"vectors of four bits a number need an even width, found {steps.shape[1]}")
    above = (steps + 8).to(torch.uint8)
    return (above[:, 0::2] | above[:, 1::2] << 4).contiguous()


def unpacked(nibbles: Tensor) -> Tensor:
    """What :func:`packed` packed: numbers (N, D) in int8, looked up two at a time, which is quickest."""
    pairs = np.array([[byte % 16 - 8, byte // 16 - 8] for byte in range(256)], dtype=np.int8)
    return torch.from_numpy(pairs.view(np.int16).ravel()[nibbles.numpy()].view(np.int8))
