"""What comes out: a caption, and the steps by which it was found."""

from __future__ import annotations

import math
from dataclasses import dataclass

from magicap.errors import BadImage


@dataclass(frozen=True)
class Step:
    """One chosen token, and what spoke for it. The three contributions add up to its score."""

    text: str
    """The caption so far, this token included."""

    token: str
    """What the token added to the text; empty for the end token, and until a letter is whole."""

    token_id: int
    """The token in the language model's vocabulary; -1 where a whole caption was chosen."""

    confidence: float
    """The language model's share: (1 - alpha) * p, or p itself in searches without alpha. All there is of a
    supervised captioner. Of a whole caption that was elected: its expected CIDEr-D, 0 to 10."""

    degeneration: float
    """The share of repeating oneself: -alpha * largest cosine with an earlier token's hidden state."""

    image: float
    """The picture's share: beta * f in magic search, the cosine in retrieval, fit_weight times the cosine in
    beam magic search, 0 in text-only searches."""

    last: bool
    """Whether the caption ends here of itself, not for want of room."""

    @property
    def score(self) -> float:
        """What the search compared."""
        return self.confidence + self.degeneration + self.image


def added_text(before: str, after: str) -> str:
    """What a token added to a text: what stands behind their common beginning."""
    common = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return after[common:]


class Caption(str):
    """A caption: a plain string, and how it came about.

    Attributes:
        score: cosine of picture and words in the scorer's space, -1 to 1; of a supervised captioner the mean
            log-probability of a token in nats, at most 0; NaN for a picture that failed.
        steps: one :class:`Step` a token; one in all where a whole caption was chosen.
        error: why there is no caption; None for a picture that was read.
    """

    score: float
    steps: tuple[Step, ...]
    error: BadImage | None

    def __new__(
        cls,
        text: str,
        *,
        score: float = math.nan,
        steps: tuple[Step, ...] = (),
        error: BadImage | None = None,
    ) -> Caption:
        caption = super().__new__(cls, text)
        caption.score, caption.steps, caption.error = score, steps, error
        return caption

    @property
    def text(self) -> str:
        """The words, as an ordinary ``str``."""
        return "".join(self)

    @property
    def finished(self) -> bool:
        """Whether it ended of itself rather than for want of room."""
        return bool(self.steps) and self.steps[-1].last
