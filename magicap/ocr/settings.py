"""Which text is read in a picture."""

from __future__ import annotations

from dataclasses import dataclass

from magicap.checks import require_int, require_number


@dataclass(frozen=True)
class OcrSettings:
    """Which text is read."""

    min_confidence: float = 0.8
    """Lines that are read right with a probability below this are left out, 0 to 1."""

    min_characters: int = 2
    """Lines with fewer letters and digits are left out: single ones are found in many textures."""

    max_side: int = 2000
    """A picture is read with its long side at most so many pixels, 64 to 4000."""

    def __post_init__(self) -> None:
        require_number("min_confidence", self.min_confidence, lambda p: 0 <= p <= 1, "between 0 and 1")
        require_int("min_characters", self.min_characters)
        require_int("max_side", self.max_side, least=64, most=4000)
