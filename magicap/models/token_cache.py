"""Keys and values: a token at a time, as prefixes keep them, and a layer at a time, as attention reads them.

Shapes: B rows, P columns of a row, N tokens, H heads of width d.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer, each (B, H, P, d)."""


def stack_states(rows: Sequence[Sequence[Tensor]]) -> tuple[KeysAndValues, ...]:
    """Keys and values a layer of B rows of tokens, zeros behind the shorter; () where all rows are empty.

    Args:
        rows: of each token (layers, 2, H, d).
    """
    width = max(map(len, rows))
    if not width:
        return ()
    padding = torch.zeros_like(next(token for row in rows for token in row))
    padded = [token for row in rows for token in (*row, *[padding] * (width - len(row)))]
    layers = torch.stack(padded).unflatten(0, (len(rows), width)).permute(2, 3, 0, 4, 1, 5)
    return tuple((keys, values) for keys, values in layers)


def gather_states(cache: Sequence[KeysAndValues], rows: Tensor, columns: Tensor) -> list[Tensor]:
    """Keys and values (layers, 2, H, d) of N tokens, none of which keeps the others' memory alive.

    Args:
        cache: of every layer.
        rows, columns: (N,) where the tokens stand.
    """
    layers = [
        torch.stack([keys[rows, :, columns], values[rows, :, columns]], dim=1) for keys, values in cache
    ]
    return [token.clone() for token in torch.stack(layers, dim=1)]
