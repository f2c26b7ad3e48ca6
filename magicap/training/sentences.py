"""Sentences as batches for a causal language model, and how well it predicts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from magicap.models.language_model import LanguageModel
from magicap.training.batches import Batch, Epoch, by_length
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

    def epoch(self, batch_size: int, shuffle: int | None = None) -> Epoch:
        """Batches of ``ids``, ``mask`` (B, T), ``vectors`` and ``memory_positions``; shuffled by a seed."""
        steps = by_length([len(row) for row in self.rows], batch_size, shuffle)
        return Epoch(range(len(self)), steps, self.batch)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The sentences of these numbers, as :meth:`epoch` gives them."""
        rows = [self.rows[number] for number in numbers]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[self.pad_id] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        conditions = {"vectors": self.vectors, "memory_positions": self.memory_positions}
        return {"ids": ids, "mask": mask} | {
            name: tensor[list(numbers)] for name, tensor in conditions.items() if tensor is not None
        }


def evaluate_text(
    logits: Callable[[Batch], Tensor], held_out: Sentences, batch_size: int, device: torch.device
) -> dict[str, float]:
    """``bits_per_character`` and ``nats_per_token`` of a model on sentences; and a ``score`` to maximise.

    Args:
        logits: of a batch, (B, T, V) scores of the next token at every position.
        held_out: the sentences.
        batch_size: how many are read at once.
        device: where the model is.
    """
    nats = tokens = 0.0
    for batch in held_out.epoch(batch_size).batches():
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        count = float(batch["mask"][:, 1:].sum())
        nats += float(next_token_cross_entropy(logits(batch), batch["ids"], batch["mask"])) * count
        tokens += count
    bits = nats / held_out.characters / math.log(2)
    return {"score": -bits, "bits_per_character": bits, "nats_per_token": nats / tokens}


def evaluate_model(model: torch.nn.Module, held_out: Sentences, batch_size: int) -> dict[str, float]:
    """The same of a transformers model without a soft prompt."""

    def logits(batch: Batch) -> Tensor:
        scores: Tensor = model(batch["ids"], attention_mask=batch["mask"]).logits
        return scores

    return evaluate_text(logits, held_out, batch_size, next(model.parameters()).device)
