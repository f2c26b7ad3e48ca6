"""What every decoder of words can do, whatever its kind.

Shapes: B pictures, C captions of each side by side, T tokens, L locations of a grid, D features of each,
V words of the vocabulary. The *encoder output* is what a decoder computes of pictures once, a *state* what it
keeps of captions being written: tuples of tensors whose first axes are B, and B and C.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from magicap.checks import require_int, require_number

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
    """Of the space in which state and locations are compared; unused by ``none`` and ``transformer``."""

    layers: int = 3
    """Blocks of the Transformer."""

    heads: int = 8
    """Attention heads of the Transformer."""

    dropout: float = 0.5
    """Share of features and of output units left out while learning."""

    max_words: int = 24
    """The longest caption that can be read or written."""

    def __post_init__(self) -> None:
        for name in ("width", "embedding", "attention", "layers", "heads", "max_words"):
            require_int(name, getattr(self, name))
        require_number("dropout", self.dropout, lambda share: 0 <= share < 1, "at least 0 and below 1")


class Prediction(NamedTuple):
    """The next word of every caption."""

    logits: Tensor
    """(B, C, V) before the softmax."""

    state: Tensors
    """The captions with the word read."""

    attention: Tensor | None = None
    """(B, C, L) how much each location matters, summing to 1; None without attention."""

    context_weights: Tensor | None = None
    """(B, C, L) of the locations in the context: one alone in hard attention, else as ``attention``."""

    gate: Tensor | None = None
    """(B, C) how much the picture counts for this word, 0 to 1 (Xu et al. 2015, section 4.2.1)."""


class Reading(NamedTuple):
    """Predictions at every position of captions that are given; fields as :class:`Prediction`'s, with T."""

    logits: Tensor
    attention: Tensor | None = None
    context_weights: Tensor | None = None
    gate: Tensor | None = None


class Decoder(nn.Module, ABC):
    """Writes captions of pictures word by word."""

    config: DecoderConfig

    @abstractmethod
    def encode(self, grid: Tensor) -> Tensors:
        """The encoder output of pictures, from their grids (B, L, D)."""

    @abstractmethod
    def start(self, encoder_output: Tensors, captions: int) -> Tensors:
        """The state of so many empty captions of each picture."""

    @abstractmethod
    def step(self, encoder_output: Tensors, state: Tensors, ids: Tensor) -> Prediction:
        """Read a word of each caption, (B, C), and predict the next."""

    def forward(self, grid: Tensor, ids: Tensor) -> Reading:
        """Read whole captions (teacher forcing).

        Args:
            grid: (B, L, D).
            ids: (B, C, T), the start token first.

        Returns:
            Fields of shape (B, C, T, ...): at position t, of the word that follows ``ids[:, :, t]``.
        """
        encoder_output = self.encode(grid)
        state = self.start(encoder_output, ids.shape[1])
        steps = []
        for column in ids.unbind(dim=2):
            prediction = self.step(encoder_output, state, column)
            state = prediction.state
            steps.append(prediction)
        fields = {name: [getattr(step, name) for step in steps] for name in Reading._fields}
        return Reading(
            **{name: torch.stack(values, dim=2) for name, values in fields.items() if values[0] is not None}
        )


def reorder(state: Tensors, captions: Tensor) -> Tensors:
    """The state of other captions of the same pictures.

    Args:
        state: tensors (B, C, ...).
        captions: (B, N) numbers of captions, 0 to C - 1.
    """
    rows = torch.arange(len(captions), device=captions.device)[:, None]
    return tuple(tensor[rows, captions] for tensor in state)
