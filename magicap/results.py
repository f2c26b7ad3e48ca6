"""What comes out: a caption, the steps by which it was written, and the hypotheses it competed with."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from magicap.errors import BadImage

BROKEN, WORDLESS = "numbers", "wordless"
"""Codes of :attr:`Caption.error` beside those of pictures that cannot be read: models that give NaN, infinity
or zeros for a picture, also in float32; and a search that ended before its first word."""


@dataclass(frozen=True)
class Step:
    """One chosen token, and what spoke for it. The three terms add up to its score."""

    text: str
    """The caption so far, this token included."""

    token: str
    """What the token added to the text; empty for the end token, and until a letter is whole."""

    token_id: int
    """The token in the language model's or the supervised captioner's vocabulary."""

    model_confidence: float
    """(1 - alpha) * p of the language model, or p itself in searches without alpha and in supervised
    captioners."""

    degeneration_penalty: float
    """-alpha * the largest cosine with an earlier token's hidden state; 0 where there is no alpha."""

    image_score: float
    """beta * f in magic search, 0 in searches that see no picture."""

    last: bool
    """Whether the caption ends here of itself, not for want of room."""

    @property
    def score(self) -> float:
        """What the search compared."""
        return self.model_confidence + self.degeneration_penalty + self.image_score

    @property
    def confidence(self) -> float:
        """The name of :attr:`model_confidence` before."""
        return self.model_confidence

    @property
    def degeneration(self) -> float:
        """The name of :attr:`degeneration_penalty` before."""
        return self.degeneration_penalty

    @property
    def image(self) -> float:
        """The name of :attr:`image_score` before."""
        return self.image_score


@dataclass(frozen=True)
class Hypothesis:
    """A whole caption that competed, with the parts of its score."""

    text: str
    """The caption."""

    expected_utility: float | None = None
    """Expected CIDEr-D against the evidence, 0 to 10; None where nothing was compared."""

    cosine: float | None = None
    """Of picture and caption in the scorer's space, -1 to 1; None where it was not asked for."""

    log_probability: float | None = None
    """Of the model that wrote it, in nats; None for a caption of the memory that no beam wrote too."""

    source: str = "beam"
    """``"beam"`` or ``"memory"``."""

    finished: bool = True
    """Whether it ended of itself rather than for want of room."""

    score: float = 0.0
    """What was compared when the caption was chosen."""


@dataclass(frozen=True)
class TextLine:
    """A line of text that stands in a picture."""

    text: str
    """What it says."""

    box: tuple[tuple[float, float], ...]
    """Four corners (x, y) in pixels of the picture, upright; as the text runs: the upper left one first, then
    the upper right, the lower right and the lower left."""

    confidence: float
    """The probability that it is read right, 0 to 1, as the recogniser has it."""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """The upright box around it: left, top, right, bottom."""
        across, down = zip(*self.box, strict=True)
        return min(across), min(down), max(across), max(down)

    def as_json(self) -> dict[str, Any]:
        """As values for JSON: corners to a tenth of a pixel."""
        corners = [[round(x, 1), round(y, 1)] for x, y in self.box]
        return {"text": self.text, "box": corners, "confidence": round(self.confidence, 4)}


def added_text(before: str, after: str) -> str:
    """What a token added to a text: what stands behind their common beginning."""
    common = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(before))
    return after[common:]


class Caption(str):
    """A caption: a plain string, and how it came about.

    Args:
        text: the words.

    Attributes:
        score: cosine of picture and words in the scorer's space, -1 to 1; of a supervised captioner the mean
            log-probability of a token in nats, at most 0; NaN for a picture that failed.
        steps: one :class:`Step` a token; none where whole captions were compared.
        hypotheses: whole captions that competed, the chosen one first; none where tokens were compared.
        confidence: the probability that the caption is right, 0 to 1: that its CIDEr-D against captions that
            people write of the picture is above 50 (of 100 times CIDEr-D). None where it is not known: only
            beam magic search with a memory has it, in captioners that it was fitted for, at the settings that
            it was fitted for (``recipes/calibrate_confidence.py``).
        error: why there is no caption, or one without words; None where there is one.
        text_lines: text that was read in the picture, where that was asked for
            (:func:`magicap.caption_with_text`).
    """

    score: float
    steps: tuple[Step, ...]
    hypotheses: tuple[Hypothesis, ...]
    confidence: float | None = None  # of the class too: captions that were pickled before have none
    error: BadImage | None
    text_lines: tuple[TextLine, ...] = ()

    def __new__(
        cls,
        text: str,
        *,
        score: float = math.nan,
        steps: tuple[Step, ...] = (),
        hypotheses: tuple[Hypothesis, ...] = (),
        confidence: float | None = None,
        error: BadImage | None = None,
    ) -> Caption:
        """A caption of these words; the other arguments are its attributes, as the class describes them."""
        caption = super().__new__(cls, text)
        caption.score, caption.error = score, error
        caption.steps, caption.hypotheses, caption.confidence = steps, hypotheses, confidence
        return caption

    @property
    def text(self) -> str:
        """The words, as an ordinary ``str``."""
        return "".join(self)

    @property
    def finished(self) -> bool:
        """Whether it ended of itself rather than for want of room."""
        if self.steps:
            return self.steps[-1].last
        return bool(self.hypotheses) and self.hypotheses[0].finished


Competitors = tuple[Step, ...] | tuple[Hypothesis, ...]
"""What competes in one picture's search after a token: the step that was taken, then the best that could have
been; or the best hypotheses of the beam, whole or not."""

CaptionProgress = Generator[list[tuple[int, Competitors]], None, list[Caption]]
"""For every token position what competes, of all rows still being written, as (row, competitors); returns the
captions."""

StepBatches = Iterator[list[tuple[int, Step]]]
"""For every token position, the steps of all rows still being written, as (row, step)."""
