"""Text that was read, as words that a caption may have and as the end of a caption."""

from __future__ import annotations

from collections.abc import Sequence

from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB
from magicap.results import TextLine

MOST_TEXTS, MOST_LETTERS = 3, 60
"""Texts that are said at the end of a caption, and letters of each; the rest stands in the lines."""


def words_of(text: str) -> list[str]:
    """Words as captions are compared by: lower case, without punctuation, each once."""
    return list(dict.fromkeys(words(PTB(text))))


def words_to_prefer(lines: Sequence[TextLine]) -> tuple[str, ...]:
    """The words of some lines, each once, less marks and what falls apart when it is read again."""
    read = words_of(" ".join(line.text for line in lines))
    return tuple(word for word in read if any(map(str.isalnum, word)) and words_of(word) == [word])


def joined_lines(lines: Sequence[TextLine]) -> list[str]:
    """Texts of one or more lines, those that stand right below each other joined.

    A line goes on with the text whose last line ends above it, by less than the line's height, over a part of
    its width.
    """
    texts: list[list[TextLine]] = []
    for line in lines:
        above = next((text for text in reversed(texts) if _goes_on(text[-1], line)), None)
        if above is None:
            texts.append([line])
        else:
            above.append(line)
    return [" ".join(line.text for line in text) for text in texts]


def _goes_on(upper: TextLine, lower: TextLine) -> bool:
    left, top, right, bottom = lower.bounds
    upper_left, upper_top, upper_right, upper_bottom = upper.bounds
    height = min(bottom - top, upper_bottom - upper_top)
    is_below = (upper_top + upper_bottom) / 2 < top + height / 2 and top - upper_bottom < height
    return is_below and left < upper_right and upper_left < right


def say_text(caption: str, lines: Sequence[TextLine]) -> str:
    """A caption that ends with the texts whose words it does not have; as it is where it has them.

    >>> stop = TextLine("STOP AHEAD", ((0, 0), (90, 0), (90, 20), (0, 20)), 0.99)
    >>> say_text("A man rides a bike.", [stop])
    'A man rides a bike, with text that says "STOP AHEAD".'
    >>> say_text("A man holds a sign.", [stop])
    'A man holds a sign that says "STOP AHEAD".'
    """
    said = set(words_of(caption))
    unsaid = [text for text in dict.fromkeys(joined_lines(lines)) if not said.issuperset(words_of(text))]
    if not unsaid:
        return caption
    *others, last = [f'"{_shortened(text)}"' for text in unsaid[:MOST_TEXTS]]
    quoted = f"{', '.join(others)} and {last}" if others else last
    body = caption.rstrip(" .")
    link = " that says" if body.lower().endswith(" sign") else ", with text that says"
    return f"{body}{link} {quoted}."


def _shortened(text: str) -> str:
    text = " ".join(text.replace('"', "'").split())
    return text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS].rsplit(" ", 1)[0] + " ..."
