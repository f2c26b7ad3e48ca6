"""A part of a picture, as a box in pixels of the upright picture, and what image towers read of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, TypeAlias, cast

from PIL.Image import Image

from magicap.errors import BadImage, BadSettings
from magicap.images.reader import ImageSource, describe_source, open_image

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the upright picture, from its upper left corner; right and bottom
are the first column and row outside."""

Regions: TypeAlias = Box | Sequence[Box]
"""A box for all pictures, or one each."""


def require_box(box: Sequence[Any], name: str = "region") -> Box:
    """A box of whole numbers that is not empty.

    Args:
        box: four numbers.
        name: what the error calls it.

    Raises:
        BadSettings: it is no such box.
    """
    try:
        left, top, right, bottom = (index(value) for value in box)
    except (TypeError, ValueError) as error:
        raise BadSettings(
            f"{name} must be four whole numbers, left, top, right and bottom in pixels, found {box!r:.80}"
        ) from error
    if left < 0 or top < 0 or left >= right or top >= bottom:
        raise BadSettings(
            f"{name} must have left below right and top below bottom, none below 0, found "
            f"{left},{top},{right},{bottom}"
        )
    return left, top, right, bottom


def read_box(text: str, name: str) -> Box:
    """A box as a command line has it, ``LEFT,TOP,RIGHT,BOTTOM``; errors as of :func:`require_box`."""
    try:
        box = [int(number) for number in text.split(",")]
    except ValueError:
        return require_box(text, name)
    return require_box(box, name)


def outer_box(edges: Iterable[float], size: tuple[int, int]) -> Box:
    """The smallest box of whole pixels around another, as far as it lies in a picture; at least one pixel.

    Args:
        edges: left, top, right and bottom.
        size: width and height of the picture.
    """
    (left, top, right, bottom), (width, height) = edges, size
    x0, y0 = min(int(max(0, left)), width - 1), min(int(max(0, top)), height - 1)
    return x0, y0, max(x0 + 1, min(width, math.ceil(right))), max(y0 + 1, min(height, math.ceil(bottom)))


@dataclass(frozen=True, eq=False)
class ImageRegion:
    """A box of a picture that is read when it is needed."""

    source: ImageSource
    """The picture: anything that :func:`magicap.images.reader.open_image` takes."""

    box: Box
    """Which part of it, as :func:`require_box` gives it."""

    def views(self) -> tuple[Image, Image]:
        """What lies in the box, and the whole picture, as RGB.

        Raises:
            BadImage: the picture cannot be read, or the box does not lie in it.
        """
        picture = open_image(self.source)
        if self.box[2] > picture.width or self.box[3] > picture.height:
            raise BadImage(
                "region",
                f"expected a region inside {picture.width} x {picture.height} pixels, found "
                f"{','.join(map(str, self.box))}; move or shrink it",
                source=describe_source(self.source),
            )
        return picture.crop(self.box), picture


def _are_boxes(region: Any) -> bool:
    """Whether it is a list, of boxes or of what should be some."""
    return isinstance(region, list | tuple) and all(isinstance(box, list | tuple) for box in region)


def parts_of(images: Iterable[Any], region: Regions | None) -> Iterable[Any]:
    """The pictures, or that region of each.

    Args:
        region: one for all, or for a list of pictures a list of them, one each; None: whole pictures.

    Raises:
        BadSettings: a region is no box, or there are not as many as pictures.
    """
    if region is None:
        return images
    if not isinstance(images, list | tuple) or not _are_boxes(region):
        box = require_box(region)
        return (ImageRegion(image, box) for image in images)
    boxes = [require_box(box) for box in cast("Sequence[Box]", region)]
    if len(boxes) != len(images):
        raise BadSettings(f"expected a region for each of {len(images)} pictures, found {len(boxes)}")
    return list(map(ImageRegion, images, boxes))
