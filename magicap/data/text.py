"""One way of writing a caption, for every model that reads or writes one."""

from __future__ import annotations

import re

_SPACE = re.compile(r"\s+")
_BEFORE_STOP = re.compile(r"\s+([.,;:!?]|'s\b|n't\b)")
_DROPPED_AT_END = ".,;: "
_STOPS = ".!?…。．｡！？।॥؟۔։።။"  # of any script
# Quotes that open, and what closes each.
_PAIRS = {
    **{'"': '"', "'": "'", "`": "`'", "“": "”", "‘": "’", "„": "“”", "‚": "‘’"},
    **{"«": "»", "»": "«", "‹": "›", "「": "」", "『": "』"},
}
_QUOTES = "".join({*_PAIRS, *"".join(_PAIRS.values())})
_APOSTROPHES = "'’`"
_DROPPED_AROUND = "\"'`“‘"  # what opens a whole caption is dropped with its partner


def normalise_caption(text: str) -> str:
    """A caption as one tidy sentence.

    White space is folded, spaces before punctuation, "'s" and "n't", quotes around the whole, and quotes at
    either end without a partner are dropped, the first letter is a capital, sentences in capitals are
    lowered, and one full stop ends it, unless it ends with '!', '?' or another script's stop, inside quotes
    too. Text without a letter or digit becomes the empty string.

    >>> normalise_caption("a dog runs .")
    'A dog runs.'
    >>> normalise_caption("“TWO  DOGS RUN , AND A CAT SLEEPS!”")
    'Two dogs run, and a cat sleeps!'
    """
    text = _without_outer_quotes(_BEFORE_STOP.sub(r"\1", _SPACE.sub(" ", text)))
    if not any(character.isalnum() for character in text):
        return ""
    first = int(text[0] in _PAIRS)
    text = text[:first] + text[first].title() + text[first + 1 :]
    if text.isupper() and len(text) > 5:
        text = text[0] + text[1:].lower()
    return text if text.rstrip(_QUOTES + " ").endswith(tuple(_STOPS)) else text + "."


def _without_outer_quotes(text: str) -> str:
    """Text less commas and full stops at its end, and less the quotes at its ends that say nothing there."""
    before = None
    while text != before:
        before = text = text.strip().rstrip(_DROPPED_AT_END)
        if not text or (text[0] not in _QUOTES and text[-1] not in _QUOTES):
            return text
        last, partners = len(text) - 1, _partners(text)
        if text[0] in _DROPPED_AROUND and partners.get(0) == last:
            text = text[1:-1]
        elif text[0] in _QUOTES and 0 not in partners:
            text = text[1:]
        elif text[-1] in _QUOTES and last not in partners.values():
            text = text[:-1]
    return text


def _partners(text: str) -> dict[int, int]:
    """Where quotes open and where each is closed, but for quotes of nothing and apostrophes inside words."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    for place, sign in enumerate(text):
        if sign not in _QUOTES:
            continue
        behind, ahead = text[place - 1 : place].isalnum(), text[place + 1 : place + 2].isalnum()
        closed = [start for start in opened if sign in _PAIRS[text[start]]]
        if closed and not (ahead and sign in _APOSTROPHES):
            if any(map(str.isalnum, text[closed[-1] + 1 : place])):
                partners[closed[-1]] = place
            opened = opened[: opened.index(closed[-1])]
        elif sign in _PAIRS and not (behind and sign in _APOSTROPHES):
            opened.append(place)
    return partners
