"""Boxes in which something of its own may stand, and which of them to keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL.Image import Image

from magicap.images.region import Box

MAX_REGIONS = 5
"""How many boxes are captioned by default."""

MIN_AREA = 0.02
"""Share of the picture below which a box is too small to say anything of it."""

_OVERLAP = 0.5  # intersection over union above which two boxes are one


@dataclass(frozen=True)
class Proposal:
    """A box in which something may stand."""

    box: Box
    """Where."""

    score: float
    """How much speaks for it, 0 to 1: a detector's own, or the order of the clusters."""

    label: str | None = None
    """What it is called by a detector; None: nobody knows."""


class Proposer(Protocol):
    """What finds boxes: :class:`PatchClusters`, a detector, or an object of your own."""

    def propose(self, picture: Image, max_regions: int) -> list[Proposal]:
        """At most so many boxes of an RGB picture, the best first."""


def area(box: Box) -> int:
    """Of a box, in pixels."""
    return (box[2] - box[0]) * (box[3] - box[1])


def common_area(one: Box, other: Box) -> int:
    """Of what lies in both boxes, in pixels."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    common = common_area(one, other)
    return common / (area(one) + area(other) - common)


def without_overlaps(boxes: Sequence[Box]) -> list[Box]:
    """The boxes that overlap no better one by more than half, best first (non-maximum suppression)."""
    kept: list[Box] = []
    for box in boxes:
        if all(overlap(box, better) <= _OVERLAP for better in kept):
            kept.append(box)
    return kept
