"""What an image tower reads of a picture: resized as bytes by a reader, then normalised on a device.

The same as open_clip's transform for evaluation (``open_clip.transform.image_transform_v2``), which resizes
with Pillow. Much larger pictures torch resizes several times faster, and as bytes: three in a thousand of
them are one grey level off, one in a million is two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL.Image import Image, Resampling

from magicap.images.reader import LIMITS, ImageLimits, ImageSource, describe_source, open_sized

if TYPE_CHECKING:
    import torch

    from magicap.images.pixels import Array

_TORCH_FROM = 1.5  # times the size: of pictures closer to it, torch rounds far more bytes the other way
_OPENAI_MEAN, _OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ImageTransform:
    """How pictures become the tensors of one size that an image tower reads."""

    size: tuple[int, int] = (224, 224)
    """Height and width, in pixels."""

    mode: str = "shortest"
    """``"shortest"``: the short side is resized to fit, and the middle cut out; ``"longest"``: the long side
    is, and the rest filled; ``"squash"``: both are."""

    interpolation: str = "bicubic"
    """``"bicubic"`` or ``"bilinear"``, both antialiased."""

    mean: tuple[float, ...] = _OPENAI_MEAN
    """Subtracted from each channel, 0 to 1."""

    std: tuple[float, ...] = _OPENAI_STD
    """What each channel is divided by then."""

    fill: int = 0
    """What stands beside a picture with ``"longest"``, 0 to 255."""

    @classmethod
    def of(cls, preprocess: Mapping[str, Any]) -> ImageTransform:
        """That of open_clip's ``preprocess_cfg``; where a field is missing or empty, open_clip's default."""

        def channels(name: str, default: tuple[float, ...]) -> tuple[float, ...]:
            value = preprocess.get(name) or default
            return tuple(value) if isinstance(value, list | tuple) else (value,) * 3

        size = preprocess.get("size") or 224
        height, width = (size, size) if isinstance(size, int) else size[-2:]
        return cls(
            (height, width),
            preprocess.get("resize_mode") or "shortest",
            "bilinear" if preprocess.get("interpolation") == "bilinear" else "bicubic",
            channels("mean", _OPENAI_MEAN),
            channels("std", _OPENAI_STD),
            preprocess.get("fill_color") or 0,
        )

    @property
    def at_least(self) -> int:
        """The short side in pixels at which a JPEG may be decoded smaller than it is."""
        return 2 * max(self.size)

    def resize(self, image: Image) -> torch.Tensor:
        """An RGB picture as bytes (3, H, W)."""
        height, width = self._resized(image.height, image.width)
        if min(image.height / height, image.width / width) >= _TORCH_FROM:
            import torch

            # channels last in memory, for which torch has its fastest way
            pixels = _bytes_of(image)[None]
            resized = torch.nn.functional.interpolate(
                pixels, size=(height, width), mode=self.interpolation, antialias=True
            )
            return self._middle(resized[0])
        filter = Resampling.BILINEAR if self.interpolation == "bilinear" else Resampling.BICUBIC
        return self._middle(_bytes_of(image.resize((width, height), filter)))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bytes (B, 3, H, W), on any device, as float32 in standard deviations from the mean.

        Floats are returned as they are: they were normalised before.
        """
        import torch

        if pixels.dtype != torch.uint8:
            return pixels
        mean, std = torch.tensor([self.mean, self.std], device=pixels.device)[:, :, None, None]
        return pixels.float().div_(255).sub_(mean).div_(std)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture before its middle is cut out."""
        if self.mode == "squash":
            return self.size
        if self.mode == "shortest" and self.size[0] == self.size[1]:
            # as torchvision has it, which cuts off fractions; open_clip's own resizing rounds them
            short, long = sorted((height, width))
            side = int(self.size[0] * long / short)
            return (self.size[0], side) if height == short else (side, self.size[0])
        ratios = height / self.size[0], width / self.size[1]
        ratio = max(ratios) if self.mode == "longest" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _middle(self, pixels: torch.Tensor) -> torch.Tensor:
        """The middle (3, H, W) of bytes (3, h, w), filled where they are smaller."""
        import torch

        (height, width), (h, w) = self.size, pixels.shape[1:]
        if (h, w) == (height, width):
            return pixels
        if h < height or w < width:
            # before and behind, as open_clip's center_crop_or_pad has them
            top, left = max(0, height - h) // 2, max(0, width - w) // 2
            bottom, right = max(0, height - h + 1) // 2, max(0, width - w + 1) // 2
            pixels = torch.nn.functional.pad(pixels, (left, right, top, bottom), value=self.fill)
            h, w = pixels.shape[1:]
        top, left = round((h - height) / 2), round((w - width) / 2)
        return pixels[:, top : top + height, left : left + width]


@dataclass(frozen=True)
class PreparedImage:
    """A picture that was read and resized, by another thread or process for example; captioners take it."""

    pixels: Array
    """Bytes (3, H, W)."""

    width: int
    """Of the picture itself, upright, in pixels."""

    height: int

    source: str
    """The picture's name for people."""

    @property
    def picture(self) -> Image:
        """What is left of it, as RGB."""
        from PIL.Image import fromarray

        return fromarray(self.pixels.transpose(1, 2, 0))


def _bytes_of(image: Image) -> torch.Tensor:
    """An RGB picture as bytes (3, H, W), channels last in memory."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def prepare(source: ImageSource, transform: ImageTransform, limits: ImageLimits = LIMITS) -> PreparedImage:
    """Read and resize one picture.

    Args:
        source: anything that :func:`magicap.images.reader.open_image` takes.
        limits: what it may cost.

    Raises:
        BadImage: it cannot be read.
    """
    import numpy as np

    image, (width, height) = open_sized(source, limits=limits, at_least=transform.at_least)
    pixels = np.ascontiguousarray(transform.resize(image).numpy())
    return PreparedImage(pixels, width, height, describe_source(source))
