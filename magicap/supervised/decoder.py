"""What every decoder of words can do, whatever its kind.

Shapes: B pictures, C captions of each side by side, T tokens, L places of a grid, D features of a place,
V words of the vocabulary. A *memory* is what a decoder keeps of pictures, a *state* what it keeps of captions
being written: tuples of tensors whose first axes are B, and B and C.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from magicap.errors import BadSettings

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class DecoderConfig:
    """The shape of a decoder."""

    kind: str = "soft"
    """``none`` (Show and Tell), ``soft`` or ``hard`` attention (Show, Attend and Tell), ``transformer``."""

    width: int = 512
    """Of the hidden state."""

    embedding: int = 256
    """Of a word."""

    attention: int = 256
    """Of the space in which state and places meet; unused by ``none`` and ``transformer``."""

    layers: int = 3
    """Blocks of the Transformer."""

    heads: int = 8
    """Attention heads of the Transformer."""

    dropout: float = 0.5
    """Share of features and of output units left out while learning."""

    max_words: int = 24
    """The longest caption that can be read or written."""

    def __post_init__(self) -> None:
        sizes = (self.width, self.embedding, self.attention, self.layers, self.heads, self.max_words)
        if min(sizes) < 1:
            raise BadSettings(f"a decoder's sizes must be at least 1, found {self}")
        if not 0 <= self.dropout < 1:
            raise BadSettings(f"dropout must be at least 0 and below 1, found {self.dropout}")


class Prediction(NamedTuple):
    """The next word of every caption."""

    logits: Tensor
    """(B, C, V) before the softmax."""

    state: Tensors
    """The captions with the word read."""

    attention: Tensor | None = None
    """(B, C, L) how much each place matters, summing to 1; None without attention."""

    looked: Tensor | None = None
    """(B, C, L) how the places were in fact weighed: one of them in hard attention, else as ``attention``."""

    gate: Tensor | None = None
    """(B, C) how much the picture counts for this word, 0 to 1 (Xu et al. 2015, section 4.2.1)."""


class Reading(NamedTuple):
    """Predictions at every position of captions that are given; fields as :class:`Prediction`'s, with T."""

    logits: Tensor
    attention: Tensor | None = None
    looked: Tensor | None = None
    gate: Tensor | None = None


class Decoder(nn.Module, ABC):
    """Writes captions of pictures word by word."""

    config: DecoderConfig

    @abstractmethod
    def look(self, grid: Tensor) -> Tensors:
        """The memory of pictures, from their grids (B, L, D)."""

    @abstractmethod
    def start(self, memory: Tensors, captions: int) -> Tensors:
        """The state of so many empty captions of each picture."""

    @abstractmethod
    def step(self, memory: Tensors, state: Tensors, ids: Tensor) -> Prediction:
        """Read a word of each caption, (B, C), and predict the next."""

    def forward(self, grid: Tensor, ids: Tensor) -> Reading:
        """Read whole captions (teacher forcing).

        Args:
            grid: (B, L, D).
            ids: (B, C, T), the start token first.

        Returns:
            Fields of shape (B, C, T, ...): at position t, of the word that follows ``ids[:, :, t]``.
        """
        memory = self.look(grid)
        state = self.start(memory, ids.shape[1])
        steps = []
        for column in ids.unbind(dim=2):
            prediction = self.step(memory, state, column)
            state = prediction.state
            steps.append(prediction)
        found = {name: [getattr(step, name) for step in steps] for name in Reading._fields}
        return Reading(
            **{name: torch.stack(each, dim=2) for name, each in found.items() if each[0] is not None}
        )


def reorder(state: Tensors, captions: Tensor) -> Tensors:
    """The state of other captions of the same pictures.

    Args:
        state: tensors (B, C, ...).
        captions: (B, N) numbers of captions, 0 to C - 1.
    """
    rows = torch.arange(len(captions), device=captions.device)[:, None]
    return tuple(each[rows, captions] for each in state)
