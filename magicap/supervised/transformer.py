"""A Transformer decoder (Vaswani et al. 2017): words attend to the words before them and to the grid.

Shapes as in :mod:`magicap.supervised.decoder`; H heads of width d.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from magicap.errors import BadSettings
from magicap.supervised.decoder import Decoder, DecoderConfig, Prediction, Reading, Tensors
from magicap.supervised.vocabulary import PAD


class Block(nn.Module):
    """Self-attention, attention over the grid and a feed-forward part, layer norm before each."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        W, self.heads = config.width, config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(W) for _ in range(3))
        self.own = nn.Linear(W, 3 * W)
        self.own_out = nn.Linear(W, W)
        self.query = nn.Linear(W, W)
        self.look = nn.Linear(W, 2 * W)
        self.look_out = nn.Linear(W, W)
        self.think = nn.Sequential(nn.Linear(W, 4 * W), nn.GELU(), nn.Linear(4 * W, W))
        self.dropout = nn.Dropout(config.dropout)

    def places(self, grid: Tensor) -> Tensor:
        """(B, 2, H, L, d) keys and values of the grid (B, L, W)."""
        both: Tensor = self.look(grid).unflatten(-1, (2, self.heads, -1))
        return both.permute(0, 2, 3, 1, 4)

    def forward(self, x: Tensor, past: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read T more words of each caption.

        Args:
            x: (B, C, T, W).
            past: (B, C, 2, H, P, d) keys and values of the P words before.
            places: (B, 2, H, L, d).

        Returns:
            x for the next block, keys and values of all P + T words, attention over the grid (B, C, H, T, L).
        """
        query, *new = self.own(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(3, 0, 1, 4, 2, 5)
        words = torch.cat([past, torch.stack(new, dim=2)], dim=4)
        T, reached = query.shape[3], words.shape[4]
        seen = torch.ones(T, reached, dtype=torch.bool, device=x.device).tril(reached - T)
        mixed, _ = _attend(query, words[:, :, 0], words[:, :, 1], seen)
        x = x + self.dropout(self.own_out(_merge(mixed)))
        query = self.query(self.norms[1](x)).unflatten(-1, (self.heads, -1)).transpose(2, 3)
        mixed, attention = _attend(query, places[:, None, 0], places[:, None, 1])
        x = x + self.dropout(self.look_out(_merge(mixed)))
        return x + self.dropout(self.think(self.norms[2](x))), words, attention


class TransformerDecoder(Decoder):
    """Reads whole captions at once while learning, and one word at a time, with a cache, while writing."""

    def __init__(self, config: DecoderConfig, features: int, vocabulary: int) -> None:
        """
        Raises:
            BadSettings: the width is no multiple of the heads.
        """
        super().__init__()
        if config.width % config.heads:
            raise BadSettings(f"width {config.width} is no multiple of {config.heads} heads")
        self.config = config
        self.annotate = nn.Sequential(nn.Linear(features, config.width), nn.LayerNorm(config.width))
        self.words = nn.Embedding(vocabulary, config.width, padding_idx=PAD)
        self.positions = nn.Parameter(0.02 * torch.randn(config.max_words + 1, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, vocabulary)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.words.weight, std=0.02)

    def look(self, grid: Tensor) -> Tensors:
        places = self.annotate(self.dropout(grid))
        blocks = cast(Iterable[Block], self.blocks)  # whose types a ModuleList forgets
        return tuple(block.places(places) for block in blocks)

    def start(self, memory: Tensors, captions: int) -> Tensors:
        nothing = tuple(each[:, None, :, :, :0].expand(-1, captions, -1, -1, -1, -1) for each in memory)
        return nothing

    def step(self, memory: Tensors, state: Tensors, ids: Tensor) -> Prediction:
        reading, state = self._read(memory, state, ids[:, :, None])
        logits, attention = reading.logits[:, :, 0], reading.attention
        return Prediction(logits, state, None if attention is None else attention[:, :, 0])

    def forward(self, grid: Tensor, ids: Tensor) -> Reading:
        memory = self.look(grid)
        return self._read(memory, self.start(memory, ids.shape[1]), ids)[0]

    def _read(self, memory: Tensors, state: Tensors, ids: Tensor) -> tuple[Reading, Tensors]:
        before = state[0].shape[4]
        if before + ids.shape[2] > len(self.positions):
            raise BadSettings(
                f"max_new_tokens must be at most {len(self.positions)} with this decoder, "
                f"found {before + ids.shape[2]} or more"
            )
        x = self.dropout(self.words(ids) + self.positions[before : before + ids.shape[2]])
        states = []
        for block, places, past in zip(self.blocks, memory, state, strict=True):
            x, grown, attention = block(x, past, places)
            states.append(grown)
        return Reading(self.output(self.norm(x)), attention.mean(dim=2)), tuple(states)


def _attend(query: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention, (..., T, d) over (..., L, d), and its weights (..., T, L)."""
    scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    weights = scores.softmax(dim=-1)
    return weights @ values, weights


def _merge(heads: Tensor) -> Tensor:
    """(B, C, H, T, d) to (B, C, T, H * d)."""
    return heads.transpose(2, 3).flatten(3)
