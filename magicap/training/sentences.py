"""Sentences as batches for a causal language model, and how well it foretells them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from magicap.models.language_model import LanguageModel
from magicap.training.loop import Batch
from magicap.training.losses import next_token_cross_entropy


class Sentences:
    """Token ids of sentences between the start and the end token; one that is cut gets no end."""

    def __init__(self, language_model: LanguageModel, texts: Sequence[str], max_tokens: int) -> None:
        self.rows = [row[:max_tokens] for row in language_model.caption_ids(texts)]
        self.characters = sum(len(text) + 1 for text in texts)
        self._pad_id = language_model.pad_id

    def __len__(self) -> int:
        return len(self.rows)

    def __add__(self, other: Sentences) -> Sentences:
        both: Sentences = object.__new__(Sentences)
        both.rows, both.characters = self.rows + other.rows, self.characters + other.characters
        both._pad_id = self._pad_id
        return both

    def batches(self, batch_size: int, shuffle: int | None = None) -> DataLoader[list[int]]:
        """Batches of ``ids`` and ``mask``, each (B, T); shuffled by a seed."""
        order = by_length(self.rows, batch_size, shuffle)
        return DataLoader(self.rows, batch_sampler=order, collate_fn=self._padded)  # type: ignore[arg-type]

    def _padded(self, rows: Sequence[Sequence[int]]) -> Batch:
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[self._pad_id] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"ids": ids, "mask": mask}


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


def surprise(model: torch.nn.Module, held_out: Sentences, batch_size: int) -> dict[str, float]:
    """Bits a character and nats a token that sentences cost a model; and a ``score`` to maximise."""
    nats = tokens = 0.0
    device = next(model.parameters()).device
    for batch in held_out.batches(batch_size):
        ids, mask = batch["ids"].to(device), batch["mask"].to(device)
        count = float(mask[:, 1:].sum())
        logits = model(ids, attention_mask=mask).logits
        nats += float(next_token_cross_entropy(logits, ids, mask)) * count
        tokens += count
    bits = nats / held_out.characters / math.log(2)
    return {"score": -bits, "bits_per_character": bits, "nats_per_token": nats / tokens}
