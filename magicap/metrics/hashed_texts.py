"""Texts as hashes of their PTB tokens, many at once.

Shapes: N texts, T tokens of all texts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np

from magicap.arrays import BoolArray, IntArray
from magicap.metrics.ngrams import WordHashes, hash_words, words
from magicap.metrics.tokenizer import PTB
from magicap.packed_texts import PackedTexts, Vocabulary, WordExpansion

# The tokenizer looks across a space only behind one of these, or where other white space stands in a "word".
_LOOKS_ACROSS = re.compile(r"[\d).<]")


@dataclass(frozen=True, eq=False)
class HashedTexts:
    """The tokens of N texts, one text behind the other, each as 64 bits."""

    tokens: WordHashes
    """(T,)"""

    lengths: IntArray
    """(N,) tokens of each text."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """Tokens as coco-caption counts them in n-grams, hashed."""
        return cls._of_packed(texts) if isinstance(texts, PackedTexts) else cls._of_strings(texts)

    @classmethod
    def _of_strings(cls, texts: Sequence[str]) -> Self:
        hashed = [_hash_text(text) for text in texts]
        lengths = np.array([len(tokens) for tokens in hashed], dtype=np.int64)
        return cls(np.concatenate([*hashed, np.zeros(0, dtype=np.uint64)]), lengths)

    @classmethod
    def _of_packed(cls, texts: PackedTexts) -> Self:
        """Word by word where that is the same; other texts are read as wholes."""
        words_of = _words_of(texts.vocabulary)
        whole = np.flatnonzero(texts.any_word(words_of.across, but_last=True) | texts.any_word(words_of.odd))
        wholes = {number: _hash_text(texts[number]) for number in whole.tolist()}
        return cls(*words_of.expansion.expand_texts(texts, words_of.work_out, wholes))

    def and_also(self, others: HashedTexts) -> HashedTexts:
        """These texts, then others."""
        return HashedTexts(
            np.concatenate([self.tokens, others.tokens]), np.concatenate([self.lengths, others.lengths])
        )


@dataclass(frozen=True, eq=False)
class _WordsOf:
    """The words of a vocabulary as tokens."""

    strings: list[str]
    across: BoolArray
    """(V,) behind which words the tokenizer may look across the next space."""

    odd: BoolArray
    """(V,) words with white space or what else is not printed."""

    expansion: WordExpansion

    def work_out(self, numbers: list[int]) -> list[Any]:
        """Hashes of the tokens of some words."""
        return [_hash_text(self.strings[number]) for number in numbers]


_VOCABULARIES: WeakKeyDictionary[Vocabulary, _WordsOf] = WeakKeyDictionary()


def _words_of(vocabulary: Vocabulary) -> _WordsOf:
    known = _VOCABULARIES.get(vocabulary)
    if known is None:
        known = _WordsOf(
            vocabulary.words,
            vocabulary.where(lambda word: _LOOKS_ACROSS.search(word) is not None),
            vocabulary.where(lambda word: not word.isprintable()),
            WordExpansion(len(vocabulary), np.uint64),
        )
        _VOCABULARIES[vocabulary] = known
    return known


@lru_cache(maxsize=2**17)
def _hash_text(text: str) -> WordHashes:
    """Hashed tokens of one text."""
    return hash_words(words(PTB(text)))
