"""Tokens of captions in scripts that put no spaces between words: a character each; PTB's of the rest."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final

from magicap.metrics.score import Tokenizer
from magicap.metrics.tokenizer import PTB

# Thai, Lao, Tibetan, Myanmar, Khmer, Tai scripts, kana, bopomofo and Han, less their punctuation and digits.
_UNSPACED = (
    r"\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ecf\u0edc-\u0edf\u0f00\u0f40-\u0f84\u0f88-\u0fbc\u1000-\u103f"
    r"\u1050-\u108f\u1780-\u17d3\u17d7\u1950-\u19cf\u1a20-\u1a7c\u3005-\u3007\u3041-\u309f\u30a1-\u30fa"
    r"\u30fc-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_RUN = re.compile(f"([{_UNSPACED}]+)")
_MARKS = "".join(
    chr(code) for code in range(0x0E00, 0x3100) if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
_CHARACTER = re.compile(f"[^{_MARKS}][{_MARKS}]*|[{_MARKS}]+")
# Their punctuation, which counts as little as that of English does.
_DROPPED = frozenset("。．，、！？；：・「」『』（）《》〈〉【】〔〕…～·၊။។៕๏๚๛")


class CharacterTokenizer:
    """Caption to tokens: a character each, with its marks, in scripts without spaces; else PTB's.

    Text without such scripts has PTB's tokens.

    >>> CHARACTERS("狗在跑。 A dog's ball.")
    ['狗', '在', '跑', 'a', 'dog', "'s", 'ball']
    """

    name: ClassVar[str] = f"{PTB.name}+characters"
    """For the signatures of scores."""

    def __call__(self, text: str) -> list[str]:
        """The tokens of a caption, in order, without punctuation."""
        tokens: list[str] = []
        for number, part in enumerate(_RUN.split(text)):
            tokens += _CHARACTER.findall(part) if number % 2 else PTB(part)
        return [token for token in tokens if token not in _DROPPED]


CHARACTERS: Final = CharacterTokenizer()

TOKENIZERS: Final[dict[str, Tokenizer]] = {"ptb": PTB, "characters": CHARACTERS}
"""Tokenizers by the names that commands take."""


def is_unspaced(text: str) -> bool:
    """Whether most letters of a text are of scripts that put no spaces between words."""
    if text.isascii():
        return False
    letters = sum(map(str.isalpha, text))
    return 2 * sum(map(len, _RUN.findall(text))) > letters


def tokenizer_of(references: Iterable[Sequence[str]]) -> Tokenizer:
    """The tokenizer that suits references: by characters if any of them is in a script without spaces."""
    return CHARACTERS if any(is_unspaced(text) for texts in references for text in texts) else PTB
