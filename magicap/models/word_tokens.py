"""Token ids of captions that share their words: each word is tokenised once.

Shapes: N captions, V different words, T tokens of all captions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from magicap.arrays import IntArray
from magicap.packed_texts import PackedTexts, Vocabulary, WordExpansion


def splits_at_spaces(tokenizer: Any) -> bool:
    """Whether the tokens of printable words behind single spaces are those of the whole text.

    True of GPT-2's byte-level BPE: its pattern never goes on behind a space.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``, or None.
    """
    before: Any = getattr(tokenizer, "pre_tokenizer", None)
    if type(before).__name__ != "ByteLevel" or before.add_prefix_space or not before.use_regex:
        return False
    added = tokenizer.get_added_tokens_decoder().values()
    return tokenizer.normalizer is None and not any(
        token.lstrip or token.rstrip or token.single_word or " " in token.content for token in added
    )


class WordTokens:
    """The words of a vocabulary as tokens of a tokenizer that splits at spaces.

    Attributes:
        vocabulary: the words.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Of a vocabulary, whose words are tokenised when captions first have them."""
        self.vocabulary = vocabulary
        # the first V words begin a caption, the others stand behind a space
        self._expansion = WordExpansion(2 * len(vocabulary))
        self._whole = vocabulary.where(lambda word: not word or not word.isprintable())

    def framed(
        self,
        captions: PackedTexts,
        encode: Callable[[Sequence[str]], list[list[int]]],
        start: int,
        end: int,
    ) -> tuple[IntArray, IntArray]:
        """Captions between a start and an end token.

        Args:
            captions: N of this vocabulary.
            encode: gives the token ids of texts, without start and end.

        Returns:
            Token ids (T,), caption by caption, and how many each has (N,).
        """
        words, V = self.vocabulary.words, len(self.vocabulary)

        def work_out(numbers: list[int]) -> list[list[int]]:
            return encode([words[n] if n < V else f" {words[n - V]}" for n in numbers])

        numbers = captions.numbers.astype(np.int64) + V
        numbers[captions.starts[:-1]] -= V
        odd = np.flatnonzero(captions.any_word(self._whole)).tolist()
        wholes = dict(zip(odd, encode([captions[number] for number in odd]), strict=True))
        tokens, lengths = self._expansion.expand_texts(captions, work_out, wholes, numbers)
        lengths = lengths + 2
        ends = np.cumsum(lengths)
        framed = np.full(int(lengths.sum()), start, dtype=np.int64)
        framed[ends - 1] = end
        inside = np.ones(len(framed), dtype=bool)
        inside[ends - 1] = inside[ends - lengths] = False
        framed[inside] = tokens
        return framed, lengths
