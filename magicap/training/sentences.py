"""Sentences as batches for a causal language model, and how well it predicts them."""

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
    """(N, D) unit vectors of the sentences by a scorer, for language models conditioned by a soft prompt."""

    memory_positions: Tensor | None = None
    """(N,) position of each sentence in the memory it is conditioned on, -1 where it does not stand there."""

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
        """Batches of ``ids``, ``mask`` (B, T), ``vectors`` and ``memory_positions``; shuffled by a seed."""
        order = by_length(self.rows, batch_size, shuffle)
        numbers: Any = range(len(self))
        generator = torch.Generator()  # or starting an epoch again would disturb training's random numbers
        return DataLoader(numbers, batch_sampler=order, collate_fn=self._batch, generator=generator)

    def _batch(self, numbers: Sequence[int]) -> Batch:
        rows = [self.rows[number] for number in numbers]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.pad_id] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        conditions = {"vectors": self.vectors, "memory_positions": self.memory_positions}
        return {"ids": ids, "mask": mask} | {
            name: tensor[list(numbers)] for name, tensor in conditions.items() if tensor is not None
        }


def by_length(rows: Sequence[Sequence[int]], batch_size: int, shuffle: int | None = None) -> list[list[int]]:
    """Batches of row numbers of about equal length, so that little is padding; shuffled by a seed."""
    rng = random.Random(shuffle)
    order = list(range(len(rows)))
    if shuffle is not None:
        rng.shuffle(order)
    chunk = batch_size * 50
    batches = []
    for start in range(0, len(order), chunk):
        part = sorted(order[start : start + chunk], key=lambda row: len(rows[row]))
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    if shuffle is not None:
        rng.shuffle(batches)
    return batches


def next_token_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """(B, T, V) scores of the next token at every position, by a transformers model on ids alone."""
    logits: Tensor = model(batch["ids"], attention_mask=batch["mask"]).logits
    return logits


def unconditioned_loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of each token, in nats, of a transformers model without a soft prompt."""
    return next_token_cross_entropy(next_token_logits(model, batch), batch["ids"], batch["mask"])


def evaluate_text(
    model: torch.nn.Module,
    held_out: Sentences,
    batch_size: int,
    loss: Callable[[torch.nn.Module, Batch], Tensor] = unconditioned_loss,
) -> dict[str, float]:
    """``bits_per_character`` and ``nats_per_token`` of a model on sentences; and a ``score`` to maximise.

    Args:
        loss: mean negative log-likelihood of each token of a batch, in nats.
    """
    nats = tokens = 0.0
    device = next(model.parameters()).device
    for batch in held_out.batches(batch_size):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        count = float(batch["mask"][:, 1:].sum())
        nats += float(loss(model, batch)) * count
        tokens += count
    bits = nats / held_out.characters / math.log(2)
    return {"score": -bits, "bits_per_character": bits, "nats_per_token": nats / tokens}
