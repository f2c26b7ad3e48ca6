"""Can a classifier that has read style text alone tell styled captions from factual ones?

It is logistic regression on words and word pairs, trained on most rows of a file of JSON lines with a
key of styled sentences and one of factual ones, and tested on the other rows. Then it classifies captions,
which ``magicap caption --json`` or ``eval/compare.py --keep`` wrote.

    python eval/style.py --style $MAGICAP_DATA/style/flickrstyle10k.jsonl --key humorous \\
        --captions humorous=styled.jsonl plain=factual.jsonl
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import HfArgumentParser

from magicap.data import normalise_caption
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB

FEWEST = 3  # sentences that hold a feature
STEPS, RATE, DECAY = 300, 0.05, 1e-3


@dataclass(frozen=True)
class Config:
    style: str = field(metadata={"help": "JSON lines with sentences of a style and factual ones"})
    key: str = field(metadata={"help": "the key of the style's sentences"})
    factual: str = field(default="factual", metadata={"help": "the key of the others"})
    captions: list[str] = field(
        default_factory=list, metadata={"help": "NAME=FILE, captions to classify (JSON lines)"}
    )
    held_out: float = field(default=0.2, metadata={"help": "share of rows that the classifier does not read"})
    seed: int = field(default=0, metadata={"help": "of what is held out"})


class StyleClassifier:
    """Logistic regression on which words and word pairs a sentence holds."""

    def __init__(self, styled: Sequence[str], factual: Sequence[str]) -> None:
        counts = Counter(feature for text in (*styled, *factual) for feature in features(text))
        kept = (feature for feature, count in counts.items() if count >= FEWEST)
        self._column = {feature: number for number, feature in enumerate(kept)}
        self._weights, self._bias = torch.zeros(len(self._column), requires_grad=True), torch.zeros(1)
        self._bias.requires_grad_()
        table = self._table([*styled, *factual])
        target = torch.tensor([1.0] * len(styled) + [0.0] * len(factual))
        # Both kinds weigh the same, however many sentences there are of each.
        share = torch.where(target > 0, 0.5 / len(styled), 0.5 / len(factual)) * len(target)
        optimizer = torch.optim.AdamW([self._weights, self._bias], lr=RATE, weight_decay=DECAY)
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(self._logits(table), target, weight=share).backward()
            optimizer.step()

    @torch.no_grad()
    def is_styled(self, texts: Sequence[str]) -> Tensor:
        """(N,) true where a sentence reads as styled."""
        return self._logits(self._table(texts)) > 0

    def _table(self, texts: Sequence[str]) -> Tensor:
        entries = [
            (row, self._column[feature])
            for row, text in enumerate(texts)
            for feature in features(text)
            if feature in self._column
        ]
        index = torch.tensor(entries).T if entries else torch.zeros(2, 0, dtype=torch.long)
        size = (len(texts), len(self._column))
        return torch.sparse_coo_tensor(
            index, torch.ones(index.shape[1]), size, check_invariants=True
        ).coalesce()

    def _logits(self, table: Tensor) -> Tensor:
        products: Tensor = torch.sparse.mm(table, self._weights[:, None])
        return products.squeeze(1) + self._bias


def features(text: str) -> set[str]:
    tokens = words(PTB(normalise_caption(text)))
    return {*tokens, *map(" ".join, pairwise(["^", *tokens, "$"]))}


def main(config: Config) -> None:
    rows = [row for row in json_lines(config.style) if config.key in row and config.factual in row]
    if not rows:
        raise SystemExit(f"{config.style}: no row has the keys {config.key!r} and {config.factual!r}")
    random.Random(config.seed).shuffle(rows)
    count = int(config.held_out * len(rows))
    training, held_out = rows[count:], rows[:count]
    classifier = StyleClassifier(sentences(training, config.key), sentences(training, config.factual))
    styled, factual = sentences(held_out, config.key), sentences(held_out, config.factual)
    right = classifier.is_styled(styled).float().mean(), 1 - classifier.is_styled(factual).float().mean()
    print(f"{config.key}: {len(training)} rows read, {len(held_out)} held out, seed {config.seed}; right for")
    print(f"{100 * right[0]:.1f} % of styled and {100 * right[1]:.1f} % of factual sentences")
    for spec in config.captions:
        name, _, path = spec.partition("=")
        texts = [row["caption"] for row in json_lines(path) if "caption" in row]  # others failed
        share = 100 * classifier.is_styled(texts).float().mean()
        print(f"{name}: {share:.1f} % of {len(texts)} read as {config.key}")


def json_lines(path: str) -> list[dict[str, Any]]:
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.strip()]


def sentences(rows: Sequence[dict[str, Any]], key: str) -> list[str]:
    return [text for row in rows for text in ([row[key]] if isinstance(row[key], str) else row[key])]


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
