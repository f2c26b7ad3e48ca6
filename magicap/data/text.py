"""One way of writing a caption, for every model that reads or writes one."""

from __future__ import annotations

import re

_SPACE = re.compile(r"\s+")
_BEFORE_STOP = re.compile(r"\s+([.,;:!?]|'s\b|n't\b)")
_QUOTES = "\"'`“”‘’ "
_STOPS_AND_QUOTES_AT_END = re.compile(rf"[.,;:{_QUOTES}]+$")


def normalise_caption(text: str) -> str:
    """A caption as one tidy sentence: 'a dog runs .' becomes 'A dog runs.'

    White space is folded, spaces before punctuation, "'s" and "n't" and quotes at either end are dropped, the
    first letter is a capital, sentences in capitals are lowered, and one full stop ends it (unless
    it ends with '!' or '?'). Text without a letter or digit becomes the empty string.
    """
    text = _SPACE.sub(" ", text).strip(_QUOTES)
    text = _BEFORE_STOP.sub(r"\1", text)
    text = _STOPS_AND_QUOTES_AT_END.sub("", text)
    if not any(character.isalnum() for character in text):
        return ""
    text = text[0].upper() + text[1:]
    if text.isupper() and len(text) > 5:
        text = text[0] + text[1:].lower()
    return text if text[-1] in "!?" else text + "."
