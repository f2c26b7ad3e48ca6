"""Words and their numbers: the tokens that CIDEr-D counts, and back to a tidy sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from magicap.data.text import normalise_caption
from magicap.errors import BadModel, BadSettings
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB
from magicap.reading import LARGEST_MODEL_TEXT, read_text

PAD, START, END, UNKNOWN = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unknown>")
NEVER_WRITTEN = (PAD, START, UNKNOWN)
"""Tokens that no search may choose."""


def caption_words(text: str) -> list[str]:
    """A caption's words as CIDEr-D counts them: lower case, no punctuation."""
    return words(PTB(text))


class Vocabulary:
    """Words by number; numbers below four are :data:`SPECIALS`.

    Args:
        entries: the words, specials first, each once.

    Raises:
        BadModel: the specials are not where they belong, or a word stands twice.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        if tuple(entries[: len(SPECIALS)]) != SPECIALS or len(set(entries)) != len(entries):
            raise BadModel(
                f"a vocabulary begins with {' '.join(SPECIALS)} and holds every word once; "
                f"found {' '.join(entries[:4])!r} ... ({len(entries)} words)"
            )
        self.entries = list(entries)
        self._numbers = {word: number for number, word in enumerate(entries)}

    @classmethod
    def of(cls, captions: Iterable[str], min_count: int) -> Self:
        """Words that stand in the captions at least ``min_count`` times, the most frequent first.

        Raises:
            BadSettings: no word does.
        """
        counts = Counter(word for text in captions for word in caption_words(text))
        frequent = [
            word for word, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if count >= min_count
        ]
        if not frequent:
            raise BadSettings(f"no word stands {min_count} times or more in the captions; lower the count")
        return cls([*SPECIALS, *frequent])

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            BadModel: missing, or no vocabulary.
        """
        try:
            return cls(read_text(path, LARGEST_MODEL_TEXT).split("\n")[:-1])
        except (OSError, UnicodeDecodeError) as error:
            raise BadModel(f"{path} is no vocabulary, a word a line: {error}") from error

    def save(self, path: Path) -> None:
        """Write a word a line."""
        path.write_text("".join(f"{word}\n" for word in self.entries), encoding="utf-8")

    def __len__(self) -> int:
        return len(self.entries)

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of words; :data:`UNKNOWN` for those that do not stand here."""
        return [self._numbers.get(word, UNKNOWN) for word in tokens]

    def batch(self, texts: Sequence[str], owner: Sequence[int], max_words: int) -> Tensor:
        """Captions as the decoders read them.

        Args:
            texts: N captions.
            owner: the picture, 0 to B - 1, of each; every picture has at least one, all of it in one run.
            max_words: longer captions are cut, and then have no end.

        Returns:
            (B, C, T) ids: start, words, end, padding. C is the most captions of any picture; the rows that
            others lack are all padding.
        """
        rows = []
        for text in texts:
            tokens = self.ids(caption_words(text))
            rows.append([START, *tokens[:max_words], *([END] if len(tokens) <= max_words else [])])
        counts = Counter(owner)
        ids = torch.full((len(counts), max(counts.values()), max(map(len, rows))), PAD)
        filled: Counter[int] = Counter()
        for row, picture in zip(rows, owner, strict=True):
            ids[picture, filled[picture], : len(row)] = torch.tensor(row)
            filled[picture] += 1
        return ids

    def words(self, ids: Iterable[int]) -> list[str]:
        """The words of ids, specials left out."""
        return [self.entries[number] for number in ids if number >= len(SPECIALS)]

    def text(self, ids: Sequence[int]) -> str:
        """A sentence as people write it; the full stop stands for :data:`END`."""
        sentence = normalise_caption(" ".join(self.words(ids)))
        return sentence if END in ids else sentence.removesuffix(".")
