"""The tokenizer of a scorer as open_clip wraps it, without importing open_clip or transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.models.loading import import_open_clip
from magicap.models.plain_tokenizer import PlainTokenizer

if TYPE_CHECKING:
    from open_clip.tokenizer import HFTokenizer


@dataclass(eq=False)
class PlainReader:
    """What open_clip's ``HFTokenizer`` does with texts, by the same names."""

    tokenizer: PlainTokenizer
    """One that names a pad token."""

    context_length: int

    def clean_fn(self, text: str) -> str:
        """Open_clip's cleaning: broken characters and HTML mended, white space folded."""
        if is_clean(text):
            return text
        import html

        import ftfy  # which takes a while, and few texts need it

        return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Padded ids (number of texts, context length)."""
        rows = self.tokenizer.encode_within([self.clean_fn(text) for text in texts], self.context_length)
        pad = self.tokenizer.pad_token_id
        return torch.tensor([[*row, *[pad] * (self.context_length - len(row))] for row in rows])

    def whole(self) -> HFTokenizer:
        """Open_clip's own."""
        import_open_clip()
        from open_clip.tokenizer import HFTokenizer

        with self.tokenizer.unpacked() as folder:
            whole = HFTokenizer(folder, context_length=self.context_length)
        whole.tokenizer.name_or_path = self.tokenizer.source
        return whole


def is_clean(text: str) -> bool:
    """Whether open_clip's cleaning would leave a text as it is: true of nearly all that a model writes."""
    return text.isascii() and text.isprintable() and "&" not in text and text == " ".join(text.split())
