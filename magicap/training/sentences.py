"""Sentences as batches for a causal language model, and how well it foretells them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from magicap.models.language_model import LanguageModel
from magicap.training.loop import Batch
from magicap.training.losses import next_token_cross_entropy


@dataclass(frozen=True)
class Sentences:
    """Token ids of sentences between the start and the end token; one that is cut gets no end."""

    rows: Sequence[Sequence[int]]
    characters: int
    pad_id: int
    vectors: Tensor | None = None
    """(N, D) unit vectors of the sentences by a scorer, for language models that are told of pictures."""

    own: Tensor | None = None
    """(N,) where each sentence stands in the memory that they are told by, -1 where it does not."""

    @classmethod
    def of(cls, language_model: LanguageModel, texts: Sequence[str], max_tokens: int) -> Sentences:
        """Sentences as a language model's tokens, cut after ``max_tokens``."""
        rows = [row[:max_tokens] for row in language_model.encode_captions(texts)]
        return cls(rows, sum(len(text) + 1 for text in texts), language_model.pad_id)

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: Sentences) -> Sentences:
        """Both, without vectors."""
        return Sentences([*self.rows, *other.rows], self.characters + other.characters, self.pad_id)

    def batches(self, batch_size: int, shuffle: int | None = None) -> DataLoader[int]:
        """Batches of ``ids`` and ``mask``, each (B, T), ``vectors`` and ``own``; shuffled by a seed."""
        order = by_length(self.rows, batch_size, shuffle)
        numbers: Any = range(len(self))
        own_dice = torch.Generator()  # or starting an epoch again would disturb what training draws
        return DataLoader(numbers, batch_sampler=order, collate_fn=self._batch, generator=own_dice)

    def _batch(self, numbers: Sequence[int]) -> Batch:
        rows = [self.rows[number] for number in numbers]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.pad_id] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        told = {"vectors": self.vectors, "own": self.own}
        return {"ids": ids, "mask": mask} | {
            name: each[list(numbers)] for name, each in told.items() if each is not None
        }


def by_length(rows: Sequence[Sequence[int]], batch_size: int, shuffle: int | None = None) -> list[list[int]]:
    """Batches of row numbers of about equal length, so that little is padding; shuffled by a seed."""
    chance = random.Random(shuffle)
    order = list(range(len(rows)))
    if shuffle is not None:
        chance.shuffle(order)
    chunk = batch_size * 50
    batches = []
    for start in range(0, len(order), chunk):
        part = sorted(order[start : start + chunk], key=lambda row: len(rows[row]))
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    if shuffle is not None:
        chance.shuffle(batches)
    return batches


def untold(model: torch.nn.Module, batch: Batch) -> Tensor:
    """(B, T, V) scores of the next token at every position, by a transformers model that is told nothing."""
    logits: Tensor = model(batch["ids"], attention_mask=batch["mask"]).logits
    return logits


def surprise(
    model: torch.nn.Module,
    held_out: Sentences,
    batch_size: int,
    logits: Callable[[torch.nn.Module, Batch], Tensor] = untold,
) -> dict[str, float]:
    """Bits a character and nats a token that sentences cost a model; and a ``score`` to maximise.

    Args:
        logits: how the model gives scores (B, T, V) of the next token at every position.
    """
    nats = tokens = 0.0
    device = next(model.parameters()).device
    for batch in held_out.batches(batch_size):
        batch = {name: each.to(device) for name, each in batch.items()}
        count = float(batch["mask"][:, 1:].sum())
        loss = next_token_cross_entropy(logits(model, batch), batch["ids"], batch["mask"])
        nats += float(loss) * count
        tokens += count
    bits = nats / held_out.characters / math.log(2)
    return {"score": -bits, "bits_per_character": bits, "nats_per_token": nats / tokens}
