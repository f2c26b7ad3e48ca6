"""What a caption must have, must not have, and how long it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from magicap.errors import BadSettings

MOST_INCLUDED, MOST_EXCLUDED = 100, 10_000
"""Words: no caption has more of them; a list of what must not be said may be long."""


@dataclass(frozen=True)
class Constraints:
    """Words are compared as captions are scored: lower case, without punctuation."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_words: int = 0
    max_words: int | None = None

    def __post_init__(self) -> None:
        require_words("include", self.include, MOST_INCLUDED)
        require_words("exclude", self.exclude, MOST_EXCLUDED)
        if both := self._included & self._excluded:
            raise BadSettings(f"{sorted(both)[0]!r} cannot be both included and excluded")
        for name in ("min_words", "max_words"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise BadSettings(f"{name} must be a whole number of at least 0, found {value!r}")
        if self.max_words is not None and self.max_words < max(1, self.min_words, len(self._included)):
            raise BadSettings(
                f"max_words must leave room for min_words and all of include, found {self.max_words}"
            )

    def __bool__(self) -> bool:
        return self != Constraints()

    def hold(self, caption: str) -> bool:
        """Whether a whole caption is as it must be."""
        lower = caption.lower()
        if any(word not in lower for word in self._plain_included):
            return False  # without tokenising, for memories of half a million captions
        words = _words(caption)
        return (
            self.min_words <= len(words)
            and (self.max_words is None or len(words) <= self.max_words)
            and self._included <= set(words)
            and self._excluded.isdisjoint(words)
        )

    def can_hold(self, beginning: str) -> bool:
        """Whether a caption that begins so can still be as it must be.

        A banned word at its end is refused too, though it might have become another: where a beam waited for
        that, all its ways could turn out to be closed.
        """
        words = _words(beginning)
        return (self.max_words is None or len(words) <= self.max_words) and self._excluded.isdisjoint(words)

    @property
    def asked(self) -> str:
        """What is asked of a caption, as the end of a sentence."""
        wishes = {
            "has {}": " and ".join(self.include),
            "lacks {}": ", ".join(self.exclude),
            "has at least {} words": self.min_words,
            "has at most {} words": self.max_words,
        }
        return ", ".join(wish.format(value) for wish, value in wishes.items() if value)

    def shortened(self, text: str) -> str:
        """The longest beginning of a text, in whole words, that is as it must be; empty if none is."""
        tokens = text.split()
        shorter = (" ".join(tokens[:count]) for count in range(len(tokens), 0, -1))
        return next(filter(self.hold, shorter), "")

    @cached_property
    def _included(self) -> frozenset[str]:
        return frozenset(word for text in self.include for word in _words(text))

    @cached_property
    def _plain_included(self) -> list[str]:
        """Included words of letters alone, which stand in a text as they are if they are among its words."""
        return [word for word in self._included if word.isascii() and word.isalpha()]

    @cached_property
    def _excluded(self) -> frozenset[str]:
        return frozenset(word for text in self.exclude for word in _words(text))


def require_words(name: str, wanted: object, most: int) -> None:
    """Refuse what is no tuple of at most so many single words.

    Raises:
        BadSettings: it is refused.
    """
    if not isinstance(wanted, tuple) or not all(isinstance(word, str) for word in wanted):
        raise BadSettings(f"{name} must be a list of words, found {wanted!r:.80}")
    if len(wanted) > most:
        raise BadSettings(f"{name} must hold at most {most} words, found {len(wanted)}")
    if odd := [word for word in wanted if len(_words(word)) != 1]:
        raise BadSettings(f"{name} must hold single words, found {odd[0]!r:.80}")


def _words(text: str) -> Sequence[str]:
    from magicap.metrics.ngrams import words
    from magicap.metrics.tokenizer import PTB

    return words(PTB(text))
