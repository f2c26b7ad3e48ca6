"""One picture's row: the same columns of the same types whatever became of the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from magicap.errors import BadImage
from magicap.results import Caption


@dataclass(frozen=True)
class Row:
    """What a run says of one picture."""

    id: str
    """The picture's path, or where it stands in a tar file, table or data set."""

    caption: str = ""
    """Empty where there is an error."""

    confidence: float | None = None
    """Probability that the caption is right, 0 to 1; None where it is not known."""

    score: float | None = None
    """See :attr:`magicap.results.Caption.score`; None where there is an error."""

    error: str = ""
    """The code of the error, a colon and what it says; empty where there is none."""

    width: int = 0
    """Of the picture, upright, in pixels; 0 where it was not read."""

    height: int = 0

    captions: tuple[str, ...] = ()
    """The best captions of the picture, the best first, where several were asked for."""

    tags: tuple[str, ...] = ()
    """Words that the captions near the picture agree on, where they were asked for."""

    @classmethod
    def of(cls, name: str, caption: Caption, size: tuple[int, int] = (0, 0)) -> Row:
        """Of a picture of a width and height that was captioned, or could not be."""
        score = None if math.isnan(caption.score) else round(caption.score, 4)
        confidence = None if caption.confidence is None else round(caption.confidence, 4)
        return cls(name, caption.text, confidence, score, error_text(caption.error), *size)

    @classmethod
    def failed(cls, name: str, error: BadImage) -> Row:
        """Of a picture that could not be read."""
        return cls(name, error=error_text(error))

    @property
    def has_failed(self) -> bool:
        """Whether there is no caption, or one without words."""
        return bool(self.error)

    def to_dict(self, columns: Sequence[str]) -> dict[str, Any]:
        """By column, of these columns."""
        values = {name: getattr(self, name) for name in columns}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """The row that :meth:`to_dict` described."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**fields)


COLUMNS = ("id", "caption", "confidence", "score", "error", "width", "height")
"""Columns that all runs have; that of several captions and that of tags only where they were asked for."""


def error_text(error: BadImage | None) -> str:
    """An error as a row has it: its code, a colon and what it says; empty where there is none."""
    return "" if error is None else f"{error.code}: {error.message}"
