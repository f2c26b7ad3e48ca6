"""Text vectors of growing captions: only what a candidate adds is encoded, exactly.

The verbs are those of the language model (start, extend, choose), and states are pure in the same way.

Shapes: B captions, K candidates each, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from magicap.models.text_tower import CausalTextTower, KeysAndValues


@dataclass(frozen=True)
class TextPrefixes:
    """What the tower knows of B captions so far."""

    ids: tuple[tuple[int, ...], ...]
    """The scorer's token ids of each caption, without the end token."""

    cache: tuple[KeysAndValues, ...]
    """Keys and values a block, each (B, heads, P, width / heads); row b holds len(ids[b]) of P."""

    def select(self, rows: Tensor) -> TextPrefixes:
        """The captions of the given rows, (N,) indices."""
        ids = tuple(self.ids[row] for row in rows.tolist())
        return TextPrefixes(ids, tuple((keys[rows], values[rows]) for keys, values in self.cache))


@dataclass(frozen=True)
class _Tail:
    """What one candidate adds behind the ids it shares with its caption's prefix."""

    ids: tuple[int, ...]
    shared: int
    start: int

    @property
    def new(self) -> tuple[int, ...]:
        return self.ids[self.shared :]

    @property
    def end(self) -> int:
        return self.start + len(self.new)


@dataclass(frozen=True)
class TextExtension:
    """K continued captions for each of B, before one is chosen."""

    vectors: Tensor
    """(B, K, D) unit vectors of the whole texts."""

    tails: tuple[tuple[_Tail, ...], ...]
    """For each caption, where its K candidates' own tokens lie; empty where texts are encoded whole."""

    cache: tuple[KeysAndValues, ...]
    """Keys and values a block, each (B, heads, P + Q, width / heads): the prefix, then all tails packed."""

    prefix_width: int
    """P, the cached tokens a row holds in front of the tails."""


class TextPrefixCache:
    """Encodes candidate texts, reusing the prefix where the tower is causal and in full where it is not.

    All tails of a caption are packed into one row and told apart by the attention mask, so neither padding
    nor copies of the prefix are computed.
    """

    def __init__(
        self,
        tokenize: Callable[[Sequence[str]], list[list[int]]],
        encode: Callable[[Sequence[str]], Tensor],
        tower: CausalTextTower | None,
    ) -> None:
        """
        Args:
            tokenize: texts to the scorer's ids, start and end token included, padding allowed behind.
            encode: texts to unit vectors (N, D), for towers that are not causal.
            tower: the causal tower, or None to encode every candidate in full.
        """
        self.tower = tower
        self._tokenize = tokenize
        self._encode = encode

    def start(self, batch_size: int) -> TextPrefixes:
        """B captions of which nothing is known yet."""
        return TextPrefixes(((),) * batch_size, ())

    @torch.inference_mode()
    def extend(self, prefixes: TextPrefixes, texts: Sequence[Sequence[str]]) -> TextExtension:
        """Vectors of K whole candidate texts for each of B captions.

        The texts need not begin with the caption: whatever ids they share with it are reused.
        """
        counts = [len(row) for row in texts]
        flat = [text for row in texts for text in row]
        if self.tower is None:
            return TextExtension(self._encode(flat).view(len(counts), counts[0], -1), (), (), 0)
        rows = iter(self._tokenize(flat))
        tails = tuple(
            _pack(prefix, [self.tower.cut(next(rows)) for _ in range(count)])
            for prefix, count in zip(prefixes.ids, counts, strict=True)
        )
        hidden, cache = self._run(self.tower, tails, prefixes.cache)
        last = torch.tensor([[tail.end - 1 for tail in row] for row in tails], device=hidden.device)
        pooled = hidden[torch.arange(len(tails), device=hidden.device)[:, None], last]
        width = prefixes.cache[0][0].shape[2] if prefixes.cache else 0
        return TextExtension(self.tower.project(pooled), tails, cache, width)

    def choose(self, extension: TextExtension, choice: Tensor) -> TextPrefixes:
        """The captions grown to one candidate each; the end token is not kept.

        Args:
            choice: (B,) which of the K candidates.
        """
        if self.tower is None:
            return self.start(len(choice))
        chosen = [row[column] for row, column in zip(extension.tails, choice.tolist(), strict=True)]
        slots = [
            [
                *range(tail.shared),
                *range(extension.prefix_width + tail.start, extension.prefix_width + tail.end - 1),
            ]
            for tail in chosen
        ]
        width = max(map(len, slots))
        index = torch.tensor(
            [row + [0] * (width - len(row)) for row in slots], dtype=torch.long, device=choice.device
        )
        rows = torch.arange(len(slots), device=choice.device)[:, None]
        cache = tuple(
            (keys[rows, :, index].transpose(1, 2), values[rows, :, index].transpose(1, 2))
            for keys, values in extension.cache
        )
        return TextPrefixes(tuple(tail.ids[:-1] for tail in chosen), cache)

    def _run(
        self, tower: CausalTextTower, tails: Sequence[Sequence[_Tail]], past: tuple[KeysAndValues, ...]
    ) -> tuple[Tensor, tuple[KeysAndValues, ...]]:
        """All tails of a caption in one row: (B, Q, W), Q the largest sum of tail lengths."""
        device = tower.part.positional_embedding.device
        cached = past[0][0].shape[2] if past else 0
        width = max(row[-1].end for row in tails)
        padding = -1
        ids, positions, owners, shared = [], [], [], []
        for row in tails:
            missing = width - row[-1].end
            ids.append([i for tail in row for i in tail.new] + [0] * missing)
            positions.append([p for tail in row for p in range(tail.shared, len(tail.ids))] + [0] * missing)
            owners.append([k for k, tail in enumerate(row) for _ in tail.new] + [padding] * missing)
            shared.append([tail.shared for tail in row for _ in tail.new] + [0] * missing)
        position, owner = torch.tensor(positions, device=device), torch.tensor(owners, device=device)
        sees_prefix = torch.arange(cached, device=device) < torch.tensor(shared, device=device)[:, :, None]
        sees_tail = (owner[:, :, None] == owner[:, None, :]) & (position[:, :, None] >= position[:, None, :])
        mask = torch.cat([sees_prefix, sees_tail], dim=2)[:, None]
        return tower.run(torch.tensor(ids, device=device), position, past, mask)


def _pack(prefix: Sequence[int], candidates: Sequence[Sequence[int]]) -> tuple[_Tail, ...]:
    """Lay candidates' tails one behind the other. At least the pooled token is always computed."""
    tails: list[_Tail] = []
    start = 0
    for ids in candidates:
        tail = _Tail(tuple(ids), min(_common_length(prefix, ids), len(ids) - 1), start)
        tails.append(tail)
        start = tail.end
    return tuple(tails)


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    for length, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return length
    return min(len(left), len(right))
