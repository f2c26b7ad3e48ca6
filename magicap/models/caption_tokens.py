"""Token ids of texts and texts of token ids, by a language model's tokenizer.

Shapes: N texts, T tokens of all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from magicap.arrays import IntArray
from magicap.errors import BadSettings
from magicap.models.plain_tokenizer import PlainTokenizer
from magicap.models.word_tokens import WordTokens, splits_at_spaces
from magicap.packed_texts import PackedTexts


class CaptionTokens:
    """A tokenizer behind few methods.

    Attributes:
        tokenizer: transformers' own, or a :class:`PlainTokenizer` until :meth:`whole` is asked for.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Of either kind of tokenizer."""
        self.tokenizer = tokenizer
        self._splits_at_spaces = splits_at_spaces(getattr(tokenizer, "backend_tokenizer", None))
        self._word_tokens: WordTokens | None = None

    def whole(self) -> Any:
        """The transformers tokenizer, built when it is first asked for."""
        if isinstance(self.tokenizer, PlainTokenizer):
            self.tokenizer = self.tokenizer.whole()
        return self.tokenizer

    def require_plain_text(self, text: str, *more: str) -> None:
        """Refuse a text in which a special token is written, or one of ``more``.

        Raises:
            BadSettings: it is refused.
        """
        for token in (*self.tokenizer.all_special_tokens, *more):
            if token in text:
                raise BadSettings(
                    f"expected plain text to go on from, found the special token {token} in {text!r:.80}; "
                    "leave it out"
                )

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without any special token."""
        if not texts:
            return []
        fast: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is not None and fast.truncation is None and fast.padding is None:
            # The same ids without masks and offsets, which take most of the time.
            return [row.ids for row in fast.encode_batch_fast(list(texts), add_special_tokens=False)]
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False).input_ids
        return ids

    def encode_packed(self, captions: PackedTexts, start: int, end: int) -> tuple[IntArray, IntArray]:
        """Token ids of captions that share their words, each between a start and an end token.

        Returns:
            Ids (T,), one caption behind the other, and how many each has (N,).
        """
        if not self._splits_at_spaces:
            rows = [[start, *ids, end] for ids in self.encode(captions)]
            lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
            return np.array([token for ids in rows for token in ids], dtype=np.int64), lengths
        known = self._word_tokens
        if known is None or known.vocabulary is not captions.vocabulary:
            self._word_tokens = known = WordTokens(captions.vocabulary)
        return known.framed(captions, self.encode, start, end)

    def decode(self, batch: Sequence[Sequence[int] | Tensor], left_out: Collection[int]) -> list[str]:
        """Texts of N sequences, without the tokens that are left out."""
        if not len(batch):
            return []
        words = [[int(i) for i in ids if int(i) not in left_out] for ids in batch]
        texts: list[str] = self.tokenizer.batch_decode(words, clean_up_tokenization_spaces=False)
        return texts
