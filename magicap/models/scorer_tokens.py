"""Texts as the token ids that a scorer reads, whichever tokenizer open_clip wraps.

Shapes: N texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from magicap.errors import BadModel
from magicap.models.plain_reader import PlainReader, is_clean


class ScorerTokens:
    """An open_clip tokenizer, or a :class:`PlainReader` that becomes one when :meth:`whole` is asked for.

    Attributes:
        is_plain: whether open_clip hands texts to a transformers tokenizer, only their white space folded.
    """

    def __init__(self, tokenizer: Callable[[Sequence[str]], Tensor]) -> None:
        self._reader: Any = tokenizer
        self._specials = _special_tokens(tokenizer)
        self.is_plain = _is_plain(tokenizer)

    def whole(self) -> Any:
        """Open_clip's tokenizer."""
        if isinstance(self._reader, PlainReader):
            self._reader = self._reader.whole()
            self.is_plain = _is_plain(self._reader)
        return self._reader

    def padded(self, texts: Sequence[str]) -> Tensor:
        """(N, context length) ids."""
        ids: Tensor = self._reader(list(texts))
        return ids

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, start and end token included; padding may follow."""
        if isinstance(self._reader, PlainReader):
            reader = self._reader
            return reader.tokenizer.encode_within(list(map(reader.clean_fn, texts)), reader.context_length)
        if not self.is_plain:
            padded: list[list[int]] = self.padded(texts).tolist()
            return padded
        # The same ids without what takes most of the time: padding, masks and mending what is not broken.
        clean = [text if is_clean(text) else self._reader.clean_fn(text) for text in texts]
        ids: list[list[int]] = self._reader.tokenizer(
            clean, truncation=True, max_length=self._reader.context_length, return_attention_mask=False
        ).input_ids
        return ids

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many texts have more tokens than are read, so that their ends count for nothing."""
        plain = [self.without_specials(text) for text in texts]
        if not plain:
            return 0
        if isinstance(self._reader, PlainReader):
            lengths = list(map(len, self._reader.tokenizer.encode(plain)))
        elif hasattr(self._reader, "encode"):  # CLIP's own, which adds start and end later
            lengths = [len(self._reader.encode(text)) + 2 for text in plain]
        else:
            lengths = [len(ids) for ids in self._reader.tokenizer(plain, verbose=False).input_ids]
        return sum(length > self._reader.context_length for length in lengths)

    def without_specials(self, text: str) -> str:
        """The text as towers read it: what would read as a special token dropped, however often escaped."""
        before = None
        while text != before:
            before, text = text, self._specials.sub(" ", self._reader.clean_fn(text))
        return text


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Matches what would read as a special token inside ordinary text."""
    inner: Any = getattr(tokenizer, "tokenizer", None)
    if not hasattr(tokenizer, "clean_fn"):
        raise BadModel(f"expected a tokenizer of open_clip, found {type(tokenizer).__name__}")
    if hasattr(inner, "all_special_tokens"):
        tokens = list(inner.all_special_tokens)
    else:
        tokens = [tokenizer.decoder[i] for i in tokenizer.all_special_ids]
    # Longest first, and in any case: CLIP's tokenizer lowers its text before it looks.
    return re.compile(
        "|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True) if t) or r"(?!)", re.I
    )


def _is_plain(tokenizer: Any) -> bool:
    """Whether open_clip hands texts to a transformers tokenizer, only their white space folded and mended."""
    if isinstance(tokenizer, PlainReader):
        return False
    from open_clip.tokenizer import HFTokenizer, get_clean_fn

    return (
        type(tokenizer) is HFTokenizer
        and tokenizer.clean_fn is get_clean_fn("whitespace")
        and not tokenizer.tokenizer_mode
        and not tokenizer.strip_sep_token
    )
