"""How much of a text a captioner's tokenizers know: what they spell byte by byte, they do not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from magicap.adaptation.parts import Parts
from magicap.errors import BadData

UNUSUAL, UNKNOWN = 1.9, 1.3
"""Bytes a token, white space aside, below which a text is unusual, and below which a sentence is unknown.

Captions in the language of a tokenizer have about 3.5, also where its tokens are Chinese characters; German
read by an English one has 1.6, and what is spelled byte by byte has 1."""

_MANY, _SOME = 0.5, 0.05  # shares of unknown sentences that are refused, and warned of
_SAMPLE = 1000  # sentences that are looked at
_BYTES_ALONE = 320  # entries of a vocabulary of bytes and a few pairs, which spells whatever it knows

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Coverage:
    """What one tokenizer makes of sentences."""

    owner: str
    """Whose tokenizer it is."""

    bytes_per_token: float
    """Bytes of UTF-8, white space aside, over tokens."""

    unknown: float
    """Share of sentences that it does not know, 0 to 1: it spells them byte by byte, or half of their tokens
    stand for any unknown word."""

    def __str__(self) -> str:
        return (
            f"{self.unknown:.0%} unknown to the tokenizer of the {self.owner}, whose tokens have "
            f"{self.bytes_per_token:.1f} bytes each, where known words have about 3.5"
        )


def require_known(parts: Parts, sentences: Sequence[str]) -> None:
    """Refuse sentences that the language model or the scorer cannot read; log a warning if they read few.

    Args:
        sentences: of the new domain, in any order; the first thousand are looked at.

    Raises:
        BadData: a tokenizer does not know most of them.
    """
    worst = max(coverages(parts, sentences[:_SAMPLE]), key=lambda one: (one.unknown, -one.bytes_per_token))
    if worst.unknown >= _MANY:
        raise BadData(
            f"expected sentences in a language that the captioner knows, found {worst}; adapt one whose "
            "models read this language"
        )
    if worst.unknown >= _SOME or worst.bytes_per_token < UNUSUAL:
        _LOG.warning("the captioner knows few words of these sentences: %s", worst)


def coverages(parts: Parts, sentences: Sequence[str]) -> list[Coverage]:
    """What the tokenizers of the language model and of the scorer make of sentences, at least one."""
    tokenizer = parts.language_model.tokenizer
    written = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    read = [_without_padding(ids)[1:-1] for ids in parts.scorer.tokenize(sentences)]  # less start and end
    return [
        _coverage("language model", sentences, written, tokenizer),
        _coverage("scorer", sentences, read, getattr(parts.scorer.tokenizer, "tokenizer", None)),
    ]


def _coverage(owner: str, sentences: Sequence[str], ids: Sequence[Sequence[int]], tokenizer: Any) -> Coverage:
    sizes = [len("".join(sentence.split()).encode()) for sentence in sentences]
    unknown_id: Any = getattr(tokenizer, "unk_token_id", None)
    least = 0.0 if tokenizer is not None and len(tokenizer) <= _BYTES_ALONE else UNKNOWN
    unknown = [
        size < least * len(row) or 2 * list(row).count(unknown_id) >= max(len(row), 1)
        for size, row in zip(sizes, ids, strict=True)
    ]
    tokens = sum(map(len, ids))
    return Coverage(owner, sum(sizes) / max(tokens, 1), sum(unknown) / len(unknown))


def _without_padding(ids: Sequence[int]) -> Sequence[int]:
    """Ids less the repetitions of the last one."""
    length = len(ids)
    while length > 1 and ids[length - 1] == ids[length - 2]:
        length -= 1
    return ids[:length]
