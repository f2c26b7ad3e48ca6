"""A picture and what stands in its regions, in sentences: as data that draws itself and writes JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from magicap.drawing import INK, Drawable, panels, shrunk
from magicap.extras import require
from magicap.images.region import Box
from magicap.metrics.ngrams import words
from magicap.metrics.tokenizer import PTB
from magicap.results import Caption

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

NEAR_COPY = 0.6
"""Share of the words of two captions that both have, from which on one of them says nothing new."""

_INCHES, _LINE = 7.0, 0.24  # width of a drawing; height of a line of words below it
_LEAST, _MOST = 1.0, 9.0  # inches of the picture's height
_LETTERS = 84  # of such a line
_COLOURS = "tab10"


@dataclass(frozen=True, eq=False)
class RegionCaption:
    """What stands in a box."""

    box: Box
    """Where: left, top, right and bottom in pixels of the upright picture."""

    caption: Caption
    """The sentence; its ``score`` is the cosine with the region's vector."""

    label: str | None = None
    """What a detector calls it; None: nobody knows."""


@dataclass(frozen=True, eq=False)
class RegionCaptions(Drawable):
    """One sentence for a picture, and one for each of its regions, the best first."""

    picture: Image
    """What was captioned, as RGB."""

    caption: Caption
    """Of the whole picture."""

    regions: tuple[RegionCaption, ...]
    """Those of which there is something else to say."""

    def as_json(self) -> dict[str, Any]:
        """All of it but the pixels, as values of JSON."""
        return {
            "size": list(self.picture.size),
            "caption": self.caption.text,
            "score": round(self.caption.score, 4),
            "regions": [
                {
                    "box": list(region.box),
                    **({} if region.label is None else {"label": region.label}),
                    "caption": region.caption.text,
                    "score": round(region.caption.score, 4),
                }
                for region in self.regions
            ],
        }

    def draw(self) -> Figure:
        """The picture with its boxes, and below it the sentences in their colours.

        Raises:
            MissingPackage: matplotlib is not installed.
        """
        require("matplotlib")
        from matplotlib import colormaps

        colours = [*colormaps[_COLOURS].colors] * (1 + len(self.regions) // 10)  # type: ignore[attr-defined]
        sentences = [(INK, f"    {self.caption}")]
        sentences += [
            (colour, f"{number}   {region.caption}")
            for number, (colour, region) in enumerate(zip(colours, self.regions, strict=False), start=1)
        ]
        lines = [(colour, line) for colour, text in sentences for line in _lines(text)]
        width, height = self.picture.size
        tall, foot = min(max(_LEAST, _INCHES * height / width), _MOST), (len(lines) + 1) * _LINE
        figure, (axes,) = panels(1, 1, (_INCHES, tall), foot)
        axes.set_axis_off()
        axes.imshow(np.asarray(shrunk(self.picture)), extent=(0, width, height, 0))
        for number, (colour, region) in enumerate(zip(colours, self.regions, strict=False), start=1):
            _draw_box(axes, region.box, colour, number)
        for number, (colour, line) in enumerate(lines, start=1):
            away = (foot - number * _LINE) / (tall + foot)
            figure.text(0.02, away, line, color=colour, fontsize=10, parse_math=False)
        return figure


def without_near_copies(whole: Caption, regions: Iterable[RegionCaption]) -> tuple[RegionCaption, ...]:
    """The regions, in order, that say something else than the whole picture and those before them."""
    kept: list[RegionCaption] = []
    for region in regions:
        others = [whole, *(better.caption for better in kept)]
        if all(shared_words(region.caption, other) < NEAR_COPY for other in others):
            kept.append(region)
    return tuple(kept)


def shared_words(one: str, other: str) -> float:
    """Words that stand in both texts as a share of those in either, 0 to 1; 1 where neither has any.

    >>> shared_words("A man rides a wave.", "a man rides a horse")
    0.6
    """
    first, second = ({*words(PTB(text))} for text in (one, other))
    return len(first & second) / len(first | second) if first or second else 1.0


def _draw_box(axes: Axes, box: Box, colour: Any, number: int) -> None:
    """Its edge, and its number in the upper left corner."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=2)
    )
    axes.text(left, top, f" {number} ", color="white", backgroundcolor=colour, fontsize=9, va="top")


def _lines(text: str) -> list[str]:
    return wrap(text, _LETTERS, subsequent_indent="    ") or [text]
