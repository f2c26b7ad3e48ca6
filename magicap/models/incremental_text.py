"""Text vectors of growing captions: only what a candidate adds is encoded, exactly.

Shapes: B captions, K candidates each, M candidates of all captions, P cached tokens of a caption, Q tokens
run for it, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from magicap.models.packing import Packing, common_length, pack_continuations
from magicap.models.text_tower import CausalTextTower
from magicap.models.token_cache import gather_states, stack_states


@dataclass(frozen=True)
class EncodedText:
    """The tokens of a caption and their keys and values. A longer one shares those that it begins with."""

    ids: tuple[int, ...] = ()
    """The scorer's token ids, the start token first, without the end token."""

    cache: tuple[Tensor, ...] = ()
    """A token's keys and values in every block, each (blocks, 2, heads, width / heads)."""


@dataclass(frozen=True)
class TextExtension:
    """K candidate texts for each of B captions, encoded."""

    vectors: tuple[Tensor, ...]
    """B times (K, D): unit vectors of the candidates."""

    prefixes: tuple[EncodedText, ...]
    """The B captions, for the next call; empty where the tower is not causal."""

    added: tuple[int, ...]
    """Of each caption, how many tokens' keys and values are new in ``prefixes``."""

    tokens: int
    """How many tokens the tower ran over, padding left out."""


class IncrementalTextEncoder:
    """Encodes candidate texts, reusing the prefix where the tower is causal and in full where it is not.

    All that is new of a caption is packed into one row (:func:`pack_continuations`) and kept apart by the
    attention mask, so neither padding nor copies of the prefix are computed.

    Args:
        tokenize: texts to the scorer's ids, start and end token included, padding allowed behind.
        encode: texts to unit vectors (N, D), for towers that are not causal.
        tower: the causal tower, or None to encode every candidate in full.
    """

    def __init__(
        self,
        tokenize: Callable[[Sequence[str]], list[list[int]]],
        encode: Callable[[Sequence[str]], Tensor],
        tower: CausalTextTower | None,
    ) -> None:
        self.tower = tower
        self._tokenize = tokenize
        self._encode = encode

    @torch.inference_mode()
    def extend(
        self, prefixes: Sequence[EncodedText], captions: Sequence[str], candidates: Sequence[Sequence[str]]
    ) -> TextExtension:
        """Vectors of whole candidate texts for each of B captions.

        A candidate need not begin with its caption, nor the caption with its prefix: whatever ids they share
        is reused.

        Args:
            prefixes: what an earlier call returned of each caption, or of what the caption begins with;
                ``EncodedText()`` where there was none.
            captions: B captions.
            candidates: the K candidates of each; numbers may differ.
        """
        counts = [len(row) for row in candidates]
        texts = [text for row in candidates for text in row]
        if self.tower is None:
            tokens = sum(map(len, self._tokenize(texts)))
            vectors = self._encode(texts)
            return TextExtension(
                vectors.split(counts), (EncodedText(),) * len(counts), (0,) * len(counts), tokens
            )
        rows = [self.tower.cut(ids) for ids in self._tokenize([*captions, *texts])]
        ids_of_captions = [tuple(ids[:-1]) for ids in rows[: len(counts)]]
        shared = [
            common_length(prefix.ids, ids) for prefix, ids in zip(prefixes, ids_of_captions, strict=True)
        ]
        reused = [prefix.cache[:length] for prefix, length in zip(prefixes, shared, strict=True)]
        packing = pack_continuations(shared, ids_of_captions, rows[len(counts) :], counts)
        vectors, computed = self._run(self.tower, packing, reused)
        return TextExtension(
            vectors.split(counts),
            tuple(
                EncodedText(ids, (*old, *new))
                for ids, old, new in zip(ids_of_captions, reused, computed, strict=True)
            ),
            tuple(packing.prefix_lengths.tolist()),
            packing.num_tokens,
        )

    def _run(
        self, tower: CausalTextTower, packing: Packing, reused: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Vectors (M, D) of all candidates, and of each caption the keys and values of its new tokens."""
        device = tower.part.positional_embedding.device
        width = max(map(len, reused))

        def on_device(table: object) -> Tensor:
            return torch.as_tensor(table, device=device)

        hidden, cache = tower.run(
            on_device(packing.ids),
            on_device(packing.positions),
            stack_states(reused),
            on_device(packing.mask(width))[:, None],
            on_device(packing.ends),
        )
        vectors = tower.project(hidden.flatten(0, 1)[on_device(packing.slots)])
        sizes = packing.prefix_lengths.tolist()
        rows = torch.arange(len(sizes), device=device).repeat_interleave(on_device(packing.prefix_lengths))
        columns = width + torch.cat([torch.arange(size, device=device) for size in sizes])
        states = iter(gather_states(cache, rows, columns))
        return vectors, [list(islice(states, size)) for size in sizes]
