"""Text vectors of growing captions: only what a candidate adds is encoded, exactly.

Shapes: B captions, K candidates each, P cached tokens of a caption, Q tokens run for it, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from magicap.models.packing import Packing, common_length
from magicap.models.text_tower import CausalTextTower
from magicap.models.token_cache import gather_states, stack_states


@dataclass(frozen=True)
class EncodedText:
    """What the tower knows of one caption; a longer one shares the states of the tokens it begins with."""

    ids: tuple[int, ...] = ()
    """The scorer's token ids, without the end token."""

    cache: tuple[Tensor, ...] = ()
    """A token's keys and values in every block, each (blocks, 2, heads, width / heads)."""


@dataclass(frozen=True)
class TextExtension:
    """K continued captions for each of B."""

    vectors: tuple[Tensor, ...]
    """B times (K, D): unit vectors of the whole texts."""

    prefixes: tuple[EncodedText, ...]
    """What is now known of the B captions."""

    added: tuple[int, ...]
    """How many tokens' states that is more than before, of each."""

    tokens: int
    """How many tokens the tower ran over, padding left out."""


class IncrementalTextEncoder:
    """Encodes candidate texts, reusing the prefix where the tower is causal and in full where it is not.

    All that is new of a caption is packed into one row (:class:`Packing`) and told apart by the attention
    mask, so neither padding nor copies of the prefix are computed.
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

    @torch.inference_mode()
    def extend(
        self, known: Sequence[EncodedText], captions: Sequence[str], texts: Sequence[Sequence[str]]
    ) -> TextExtension:
        """Vectors of whole candidate texts for each of B captions.

        A candidate need not begin with its caption, nor the caption with what is known of it: whatever ids
        they share is reused.

        Args:
            known: of each caption, or of a beginning of it, what an earlier call returned; or nothing,
                ``EncodedText()``.
            captions: the captions themselves.
            texts: the candidates of each.
        """
        counts = [len(row) for row in texts]
        flat = [text for row in texts for text in row]
        if self.tower is None:
            tokens = sum(map(len, self._tokenize(flat)))
            nothing, none = (EncodedText(),) * len(counts), (0,) * len(counts)
            return TextExtension(self._encode(flat).split(counts), nothing, none, tokens)
        rows = [self.tower.cut(ids) for ids in self._tokenize([*captions, *flat])]
        own = [tuple(ids[:-1]) for ids in rows[: len(counts)]]
        cached = [common_length(prefix.ids, ids) for prefix, ids in zip(known, own, strict=True)]
        kept = [prefix.cache[:length] for prefix, length in zip(known, cached, strict=True)]
        packing = Packing.of(cached, own, rows[len(counts) :], counts)
        vectors, trunks = self._run(self.tower, packing, kept)
        prefixes = [EncodedText(ids, (*old, *new)) for ids, old, new in zip(own, kept, trunks, strict=True)]
        return TextExtension(
            vectors.split(counts), tuple(prefixes), tuple(packing.trunks.tolist()), packing.tokens
        )

    def _run(
        self, tower: CausalTextTower, packing: Packing, kept: Sequence[Sequence[Tensor]]
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """Vectors (M, D) of all candidates, and of each caption the states of the tokens that were new."""
        device = tower.part.positional_embedding.device
        width = max(map(len, kept))

        def moved(table: object) -> Tensor:
            return torch.as_tensor(table, device=device)

        hidden, cache = tower.run(
            moved(packing.ids),
            moved(packing.positions),
            stack_states(kept),
            moved(packing.mask(width))[:, None],
            moved(packing.ends),
        )
        vectors = tower.project(hidden.flatten(0, 1)[moved(packing.found)])
        sizes = packing.trunks.tolist()
        row = torch.arange(len(sizes), device=device).repeat_interleave(moved(packing.trunks))
        place = width + torch.cat([torch.arange(size, device=device) for size in sizes])
        states = iter(gather_states(cache, row, place))
        return vectors, [list(islice(states, size)) for size in sizes]
