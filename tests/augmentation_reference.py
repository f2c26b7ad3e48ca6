"""Views of training pictures, slowly: decoded whole, cut, shrunk, enlarged and coloured in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional

from magicap.images.reader import ImageSource, open_image
from magicap.training.augmentation import View

COLOURS = ("brightness", "contrast", "saturation")


def reference_view(
    view: View, source: ImageSource, may_mirror: bool = True, colours: Sequence[str] = COLOURS
) -> Tensor:
    """What a view shows of a picture, as floats (3, H, W) in [0, 255].

    Args:
        colours: the order in which they are changed.
    """
    image = open_image(source)
    width, height = image.size
    box = view.box(width, height)
    cut = image.crop(box)
    if view.long_side is not None:
        across = view.long_side / (width if view.is_squashed else max(width, height))
        down = view.long_side / (height if view.is_squashed else max(width, height))
        small = round(cut.width * min(1.0, across)), round(cut.height * min(1.0, down))
        cut = cut.resize(small, Image.Resampling.BICUBIC)
    cut = cut.resize(view.size[::-1], Image.Resampling.BILINEAR)
    pixels = functional.to_dtype(functional.pil_to_tensor(cut), torch.float32, scale=True)
    for name in colours:
        pixels = getattr(functional, f"adjust_{name}")(pixels, getattr(view.colours, name))
    pixels = 255 * pixels
    return pixels.flip(2) if view.is_mirrored and may_mirror else pixels


def shrunk_before(view: View, image: Image.Image) -> Tensor:
    """A coarse view of an RGB picture that is shrunk as a whole, and only then cut: bytes (3, H, W)."""
    assert view.long_side is not None
    left, top, right, bottom = view.box(*image.size)
    side = (view.long_side, view.long_side)
    small = image.resize(side) if view.is_squashed else ImageOps.contain(image, side)
    across, down = small.width / image.width, small.height / image.height
    cut = (left * across, top * down, right * across, bottom * down)
    shown = small.resize(view.size[::-1], Image.Resampling.BILINEAR, cut)
    return functional.pil_to_tensor(shown)
