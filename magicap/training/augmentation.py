"""Random views of training pictures: crops, shapes, colours and few pixels, straight from encoded pictures.

A view is drawn before its picture is looked at, so a large JPEG is decoded no larger than the view needs.
Only what was cut out is resized, as bytes; its colours change by one affine map; and bytes it stays until the
training device has the batch, where :class:`magicap.images.transform.ImageTransform` normalises it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from magicap.checks import require_int, require_number
from magicap.data import CaptionedImage, ImageFiles
from magicap.errors import BadSettings
from magicap.images.reader import ImageSource, open_image

GREY = (0.2989, 0.587, 0.114)  # what red, green and blue count in a grey value, as torchvision has it
TRIES = 10  # crops that are drawn for a view; the first that fits into the picture is taken


@dataclass(frozen=True)
class Augmentation:
    """How random views are distributed.

    Raises:
        BadSettings: a value is out of its range.
    """

    coarse_share: float = 0.2
    """Share of views that have fewer pixels than the tower reads: a tower that never saw any is lost where a
    small picture is enlarged for it."""

    coarsest: int = 112
    """Long side of the coarsest of these pictures, in pixels. Their long sides are drawn evenly between this
    and the side that the tower reads; a picture is never enlarged to one."""

    squashed_share: float = 0.0
    """Share of views for which the whole picture is squashed to a square before a crop is drawn, as data sets
    come that have lost their shape; the others keep the true shape, as far as ``ratio`` lets them."""

    scale: tuple[float, float] = (0.5, 1.0)
    """Least and largest share of the picture's area in a crop."""

    ratio: tuple[float, float] = (0.8, 1.25)
    """Least and largest width / height of a crop, which becomes as wide and high as the tower reads."""

    mirrored_share: float = 0.5
    """Share of views that are mirrored, among pictures of which no caption names a side."""

    brightness: float = 0.2
    """Colours are multiplied by a number drawn from [1 - this, 1 + this]."""

    contrast: float = 0.2
    """Their distances from the view's mean grey are, likewise."""

    saturation: float = 0.2
    """Their distances from their own grey are, likewise."""

    def __post_init__(self) -> None:
        require_int("coarsest", self.coarsest)
        for name in ("coarse_share", "squashed_share", "mirrored_share"):
            require_number(name, getattr(self, name), lambda share: 0 <= share <= 1, "between 0 and 1")
        for name in ("brightness", "contrast", "saturation"):
            require_number(name, getattr(self, name), lambda most: 0 <= most <= 1, "between 0 and 1")
        _require_range("scale", self.scale, most=1.0)
        _require_range("ratio", self.ratio, most=math.inf)

    @classmethod
    def of(cls, config: Any) -> Self:
        """What a recipe's options of the same names ask for; the defaults where it has none."""
        options = {name: getattr(config, name) for f in fields(cls) if hasattr(config, name := f.name)}
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in options.items()
        }
        return cls(**values)

    def draw(self, size: tuple[int, int]) -> View:
        """One view for a tower that reads this height and width, drawn from torch's default generator."""
        coarse, side, squashed, mirrored, x, y, *colours = torch.rand(9).tolist()
        areas, ratios = torch.rand(2, TRIES).tolist()
        sides = max(self.coarsest, *size) + 1 - self.coarsest
        ends = math.log(self.ratio[0]), math.log(self.ratio[1])
        ranges = (self.brightness, self.contrast, self.saturation)
        return View(
            size=size,
            crops=tuple(
                (_between(self.scale, area), math.exp(_between(ends, ratio)))
                for area, ratio in zip(areas, ratios, strict=True)
            ),
            ratios=self.ratio,
            place=(x, y),
            long_side=self.coarsest + int(side * sides) if coarse < self.coarse_share else None,
            is_squashed=squashed < self.squashed_share,
            is_mirrored=mirrored < self.mirrored_share,
            colours=Colours(
                *(_between((1 - most, 1 + most), u) for most, u in zip(ranges, colours, strict=True))
            ),
        )


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


def _require_range(name: str, values: tuple[float, float], most: float) -> None:
    """Refuse what is no pair of numbers above 0 and at most ``most``, the smaller first."""
    if len(values) != 2 or not 0 < values[0] <= values[1] <= most:
        limit = "" if most == math.inf else f" and at most {most:g}"
        raise BadSettings(f"{name} must be two numbers above 0{limit}, the smaller first, found {values!r}")


class Colours(NamedTuple):
    """Factors on brightness, contrast and saturation; with 1, 1, 1 nothing changes."""

    brightness: float
    contrast: float
    saturation: float

    def apply(self, pixels: Tensor) -> Tensor:
        """Change the colours of bytes (3, H, W).

        One affine map. The three changes may be made in any order but for values that leave [0, 255] between
        two of them, which are cut off here once, at the end: each keeps grey values grey, scaling commutes,
        and saturation leaves the mean grey as it is.
        """
        if self == (1, 1, 1):
            return pixels
        values = pixels.reshape(3, -1).float()
        scale = self.brightness * self.contrast
        kept, greyed = scale * self.saturation, scale * (1 - self.saturation)
        matrix = torch.tensor([[greyed * share for share in GREY]] * 3) + kept * torch.eye(3)
        mean = sum(share * value for share, value in zip(GREY, values.mean(dim=1).tolist(), strict=True))
        shift = torch.tensor(
            self.brightness * (1 - self.contrast) * mean + 0.5
        )  # bytes are cut off, not rounded
        changed = torch.addmm(shift, matrix, values).clamp_(0, 255)
        # numpy makes bytes of floats six times as fast as torch does
        return torch.from_numpy(changed.numpy().astype(np.uint8)).reshape(pixels.shape)


class Box(NamedTuple):
    """A part of a picture, in whole pixels; ``right`` and ``bottom`` are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class View:
    """A view of a picture of any size, as it was drawn."""

    size: tuple[int, int]
    """Height and width of the view, in pixels."""

    crops: tuple[tuple[float, float], ...]
    """Crops to try in turn, each a share of the area and a width / height."""

    ratios: tuple[float, float]
    """Least and largest width / height of a crop, for pictures into which none of ``crops`` fits."""

    place: tuple[float, float]
    """Where the crop lies: 0 is at the left or top, 1 at the right or bottom."""

    long_side: int | None
    """Long side that the whole picture is shrunk to before, in pixels; None: it is not."""

    is_squashed: bool
    """Whether the picture is squashed to a square before."""

    is_mirrored: bool
    """Whether left and right are exchanged, if the captions allow it."""

    colours: Colours
    """How colours change."""

    def box(self, width: int, height: int) -> Box:
        """The crop of a picture of this width and height, found as torchvision's RandomResizedCrop does."""
        shape = 1.0 if self.is_squashed else width / height
        for area, ratio in self.crops:
            # shares of the picture's width and height
            wide, high = math.sqrt(area * ratio / shape), math.sqrt(area / ratio * shape)
            if wide <= 1 and high <= 1:
                x, y = self.place
                break
        else:
            wide, high = min(1.0, self.ratios[1] / shape), min(1.0, shape / self.ratios[0])
            x = y = 0.5
        cut_width, cut_height = max(1, round(wide * width)), max(1, round(high * height))
        left, top = int(x * (width - cut_width + 1)), int(y * (height - cut_height + 1))
        return Box(left, top, left + cut_width, top + cut_height)

    def coarse_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width that the crop has once the picture of this width and height is shrunk."""
        crop_height, crop_width = self.box(width, height).size
        if self.long_side is None:
            return crop_height, crop_width
        full_width, full_height = (width, height) if self.is_squashed else (max(width, height),) * 2
        across, down = min(1.0, self.long_side / full_width), min(1.0, self.long_side / full_height)
        return max(1, round(crop_height * down)), max(1, round(crop_width * across))

    def short_side(self, width: int, height: int) -> int:
        """Short side, in pixels, that a picture of this width and height needs for this view."""
        wanted = zip(self.box(width, height).size, self.coarse_size(width, height), self.size, strict=True)
        share = max(min(coarse, seen) / crop for crop, coarse, seen in wanted)
        return math.ceil(min(width, height) * min(1.0, share))

    def of(self, image: Image.Image, may_mirror: bool = True) -> Tensor:
        """The view of an RGB picture: bytes (3, H, W)."""
        return self.finish(self.cut(image), may_mirror)

    def cut(self, image: Image.Image) -> Tensor:
        """What the view shows of an RGB picture, in the picture's own colours: bytes (3, H, W)."""
        pixels = torch.from_numpy(np.array(image.crop(self.box(*image.size)))).permute(2, 0, 1)[None]
        for size, mode in ((self.coarse_size(*image.size), "bicubic"), (self.size, "bilinear")):
            if size != tuple(pixels.shape[2:]):
                pixels = F.interpolate(pixels, size, mode=mode, antialias=True)
        return pixels[0].contiguous()

    def finish(self, pixels: Tensor, may_mirror: bool = True) -> Tensor:
        """Change the colours of bytes (3, H, W), and mirror them where that was drawn and is allowed."""
        pixels = self.colours.apply(pixels)
        return pixels.flip(2) if self.is_mirrored and may_mirror else pixels


class RandomViews:
    """Random views of pictures by name, as :class:`magicap.training.pairs.Pairs` asks for them.

    Worker processes may have a copy by fork or pickle.

    Args:
        images: the encoded pictures.
        preprocess: ``preprocess_cfg`` of an open_clip config, of which ``size`` is read.
        settings: how views are distributed.
    """

    def __init__(
        self, images: ImageFiles, preprocess: Mapping[str, Any], settings: Augmentation = Augmentation()
    ) -> None:
        self.images, self.settings = images, settings
        height, width = np.broadcast_to(preprocess["size"], 2).tolist()
        self.size = (height, width)

    def __call__(self, number: int, row: CaptionedImage) -> Tensor:
        """A view of a row's picture, drawn from torch's default generator: bytes (3, H, W).

        Raises:
            ImageNotFound: no such picture.
            BadImage: it cannot be read.
        """
        return random_view(self.images.read(row.image), row.captions, self.size, self.settings)


def random_view(
    source: ImageSource,
    captions: Sequence[str],
    size: tuple[int, int],
    settings: Augmentation = Augmentation(),
) -> Tensor:
    """A random view of a picture, mirrored only where none of its captions names a side: bytes (3, H, W).

    Args:
        source: anything that :func:`magicap.images.reader.open_image` reads.
        captions: people's own, of the picture as it is.
        size: height and width of the view.
        settings: which views are drawn.

    Raises:
        BadImage: the picture cannot be read.
    """
    view = settings.draw(size)
    image = open_image(source, at_least=view.short_side)
    return view.of(image, may_mirror=not names_a_side(captions))


def names_a_side(captions: Sequence[str]) -> bool:
    """Whether mirroring the picture would make one of its captions false."""
    return any(re.search(r"\b(left|right)\b", text, re.IGNORECASE) for text in captions)
