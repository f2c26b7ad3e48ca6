"""A Transformer decoder (Vaswani et al. 2017): words attend to the words before them and to the grid.

Shapes as in :mod:`magicap.supervised.decoder`; H heads of width d.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from magicap.errors import BadSettings
from magicap.models.weight_names import keep_weight_names
from magicap.supervised.decoder import Decoder, DecoderConfig, Prediction, Reading, Tensors
from magicap.supervised.vocabulary import PAD


class Block(nn.Module):
    """Self-attention, attention over the grid and a feed-forward part, layer norm before each."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        W, self.heads = config.width, config.heads
        self.norms = nn.ModuleList(nn.LayerNorm(W) for _ in range(3))
        self.self_in = nn.Linear(W, 3 * W)
        self.self_out = nn.Linear(W, W)
        self.query = nn.Linear(W, W)
        self.cross_in = nn.Linear(W, 2 * W)
        self.cross_out = nn.Linear(W, W)
        self.feed_forward = nn.Sequential(nn.Linear(W, 4 * W), nn.GELU(), nn.Linear(4 * W, W))
        self.dropout = nn.Dropout(config.dropout)
        keep_weight_names(
            self,
            {
                "self_in": "own",
                "self_out": "own_out",
                "cross_in": "look",
                "cross_out": "look_out",
                "feed_forward": "think",
            },
        )

    def keys_values(self, grid: Tensor) -> Tensor:
        """(B, 2, H, L, d) keys and values of the grid (B, L, W)."""
        both: Tensor = self.cross_in(grid).unflatten(-1, (2, self.heads, -1))
        return both.permute(0, 2, 3, 1, 4)

    def forward(self, x: Tensor, past: Tensor, locations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read T more words of each caption.

        Args:
            x: (B, C, T, W).
            past: (B, C, 2, H, P, d) keys and values of the P words before.
            locations: (B, 2, H, L, d) keys and values of the grid.

        Returns:
            x for the next block, keys and values of all P + T words, attention over the grid (B, C, H, T, L).
        """
        heads = self.self_in(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))
        query, *new = heads.permute(3, 0, 1, 4, 2, 5)
        words = torch.cat([past, torch.stack(new, dim=2)], dim=4)
        T, length = query.shape[3], words.shape[4]
        causal = torch.ones(T, length, dtype=torch.bool, device=x.device).tril(length - T)
        mixed, _ = _attend(query, words[:, :, 0], words[:, :, 1], causal)
        x = x + self.dropout(self.self_out(_merge(mixed)))
        query = self.query(self.norms[1](x)).unflatten(-1, (self.heads, -1)).transpose(2, 3)
        mixed, attention = _attend(query, locations[:, None, 0], locations[:, None, 1])
        x = x + self.dropout(self.cross_out(_merge(mixed)))
        return x + self.dropout(self.feed_forward(self.norms[2](x))), words, attention


class TransformerDecoder(Decoder):
    """Reads whole captions at once while learning, and one word at a time, with a cache, while writing.

    Raises:
        BadSettings: the width is no multiple of the heads.
    """

    def __init__(self, config: DecoderConfig, features: int, vocabulary: int) -> None:
        super().__init__()
        if config.width % config.heads:
            raise BadSettings(f"width {config.width} is no multiple of {config.heads} heads")
        self.config = config
        self.project = nn.Sequential(nn.Linear(features, config.width), nn.LayerNorm(config.width))
        self.words = nn.Embedding(vocabulary, config.width, padding_idx=PAD)
        self.positions = nn.Parameter(0.02 * torch.randn(config.max_words + 1, config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, vocabulary)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.words.weight, std=0.02)
        keep_weight_names(self, {"project": "annotate"})

    def encode(self, grid: Tensor) -> Tensors:
        """Keys and values of the projected grid for each block, (B, 2, H, L, d)."""
        projected = self.project(self.dropout(grid))
        blocks = cast(Iterable[Block], self.blocks)  # whose types a ModuleList forgets
        return tuple(block.keys_values(projected) for block in blocks)

    def start(self, encoder_output: Tensors, captions: int) -> Tensors:
        """No keys and values yet: (B, C, 2, H, 0, d) for each block."""
        return tuple(
            locations[:, None, :, :, :0].expand(-1, captions, -1, -1, -1, -1) for locations in encoder_output
        )

    def step(self, encoder_output: Tensors, state: Tensors, ids: Tensor) -> Prediction:
        """As of :class:`magicap.supervised.decoder.Decoder`; attention: the last block's, mean over heads.

        Raises:
            BadSettings: the captions are longer than the decoder has positions.
        """
        reading, state = self._read(encoder_output, state, ids[:, :, None])
        logits, attention = reading.logits[:, :, 0], reading.attention
        return Prediction(logits, state, None if attention is None else attention[:, :, 0])

    def forward(self, grid: Tensor, ids: Tensor) -> Reading:
        """As of :class:`magicap.supervised.decoder.Decoder`, all positions in one pass.

        Raises:
            BadSettings: the captions are longer than the decoder has positions.
        """
        encoder_output = self.encode(grid)
        return self._read(encoder_output, self.start(encoder_output, ids.shape[1]), ids)[0]

    def _read(self, encoder_output: Tensors, state: Tensors, ids: Tensor) -> tuple[Reading, Tensors]:
        """Read T more words of each caption, (B, C, T)."""
        before = state[0].shape[4]
        if before + ids.shape[2] > len(self.positions):
            raise BadSettings(
                f"max_new_tokens must be at most {len(self.positions)} with this decoder, "
                f"found {before + ids.shape[2]} or more"
            )
        x = self.dropout(self.words(ids) + self.positions[before : before + ids.shape[2]])
        states = []
        for block, locations, past in zip(self.blocks, encoder_output, state, strict=True):
            x, words, attention = block(x, past, locations)
            states.append(words)
        return Reading(self.output(self.norm(x)), attention.mean(dim=2)), tuple(states)


def _attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention, (..., T, d) over (..., L, d), and its weights (..., T, L).

    Args:
        mask: (T, L) true where a position may be attended to; None: everywhere.
    """
    scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights = scores.softmax(dim=-1)
    return weights @ values, weights


def _merge(heads: Tensor) -> Tensor:
    """(B, C, H, T, d) to (B, C, T, H * d)."""
    return heads.transpose(2, 3).flatten(3)
