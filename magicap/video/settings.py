"""What a video may cost, how densely it is looked at, and what a scene is. No library is imported for it."""

from __future__ import annotations

from dataclasses import dataclass

from magicap.checks import require_int, require_number

EVERY = 1.0
"""Seconds between samples, unless others are given."""

_LEAST_EVERY = 0.01


@dataclass(frozen=True)
class VideoLimits:
    """What a video may cost, limits included. Frames keep to the sides and the aspect of pictures.

    Raises:
        BadSettings: a limit is not above 0.
    """

    pixels: int = 35_651_584
    """Largest width x height, as of level 6 of H.264; a decoder may hold a dozen such frames of 1.5 bytes a
    pixel."""

    seconds: float = 43_200.0
    """Longest time that is shown."""

    frames: int = 3_000_000
    """Most frames that are decoded."""

    samples: int = 50_000
    """Most frames that are sampled; each becomes a vector in memory."""

    def __post_init__(self) -> None:
        for name in ("pixels", "frames", "samples"):
            require_int(f"VideoLimits.{name}", getattr(self, name))
        require_number("VideoLimits.seconds", self.seconds, lambda value: value > 0, "above 0")


LIMITS = VideoLimits()
"""What a video may cost where nothing else is said."""


@dataclass(frozen=True)
class SceneSettings:
    """What a scene is.

    Raises:
        BadSettings: a number is out of its range.
    """

    threshold: float = 0.6
    """Least cosine of a frame with the mean of the frames of its scene, -1 to 1. Chosen for the scorer that
    ships (docs/experiments.md); another scorer wants its own."""

    min_seconds: float = 2.0
    """How long a scene lasts at least."""

    def __post_init__(self) -> None:
        require_number("threshold", self.threshold, lambda value: -1 <= value <= 1, "between -1 and 1")
        require_number("min_seconds", self.min_seconds, lambda value: value >= 0, "at least 0")


def require_every(name: str, every: float) -> None:
    """Refuse seconds between samples that are below 0.01.

    Raises:
        BadSettings: they are.
    """
    require_number(name, every, lambda value: value >= _LEAST_EVERY, f"at least {_LEAST_EVERY} seconds")
