"""Keys and values: a token at a time, as prefixes keep them, and a layer at a time, as attention reads them.

Shapes: B rows, P columns of a row, Q of them new, N tokens, H heads of width d.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

KeysAndValues = tuple[Tensor, Tensor]
"""Of one layer, each (B, H, P, d)."""


class TokenCache(Protocol):
    """What keeps keys and values between the steps of a language model; ``transformers.Cache`` is one."""

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> KeysAndValues:
        """Add those of new tokens to a layer, each (B, H, Q, d); gives those of all tokens."""
        ...

    def batch_select_indices(self, indices: Tensor, /) -> None:
        """Keep the given rows alone, (N,) indices."""
        ...


class ConcatenatedCache:
    """New keys and values beside those of earlier tokens, which stay as they are.

    Attributes:
        layers: keys and values of every layer that was updated.
    """

    def __init__(self, past: Sequence[KeysAndValues] = ()) -> None:
        """Begin behind keys and values of every layer; behind none at the first token."""
        self._past = past
        self.layers: list[KeysAndValues] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> KeysAndValues:
        """See :class:`TokenCache`."""
        if self._past:
            before_keys, before_values = self._past[layer]
            keys, values = torch.cat([before_keys, keys], dim=2), torch.cat([before_values, values], dim=2)
        self.layers.append((keys, values))
        return keys, values

    def batch_select_indices(self, indices: Tensor, /) -> None:
        """See :class:`TokenCache`."""
        self._past = [(keys[indices], values[indices]) for keys, values in self._past]


class GrowingCache:
    """Keys and values written in place into buffers of a fixed capacity, behind those of earlier steps."""

    def __init__(self, capacity: int) -> None:
        """Room for ``capacity`` columns a row."""
        self._capacity = capacity
        self._buffers: list[Tensor] = []  # of every layer (2, B, H, capacity, d)
        self._lengths: list[int] = []

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> KeysAndValues:
        """See :class:`TokenCache`."""
        B, H, Q, d = keys.shape
        if layer == len(self._buffers):
            self._buffers.append(keys.new_empty(2, B, H, self._capacity, d))
            self._lengths.append(0)
        buffer, start = self._buffers[layer], self._lengths[layer]
        self._lengths[layer] = end = start + Q
        buffer[0, :, :, start:end], buffer[1, :, :, start:end] = keys, values
        return buffer[0, :, :, :end], buffer[1, :, :, :end]

    def batch_select_indices(self, indices: Tensor, /) -> None:
        """See :class:`TokenCache`."""
        self._buffers = [buffer[:, indices] for buffer in self._buffers]

    @torch.inference_mode()
    def select_columns(self, columns: Tensor) -> None:
        """Keep some columns of each row alone, (B, C) of them."""
        self._lengths = [columns.shape[1] for _ in self._lengths]
        for buffer in self._buffers:
            kept = columns[None, :, None, :, None].expand(2, -1, buffer.shape[2], -1, buffer.shape[4])
            buffer[:, :, :, : columns.shape[1]] = buffer.gather(3, kept)


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
