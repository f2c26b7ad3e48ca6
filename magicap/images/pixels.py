"""Pixels that no file holds yet or that are deeper than 8 bits: arrays, tensors and images, made 8-bit RGB.

What is refused, and how large a picture may be, is up to a ``Guard``, so that this module knows no files.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from PIL import Image

from magicap.errors import BadImage

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array: TypeAlias = np.ndarray[Any, Any]

_WHITES = {"b1": 1, "u1": 255, "u2": 65535}  # which value is white, by numpy's name of the element type


class Guard(Protocol):
    """What refuses one picture, by a code of ``images.reader.REASONS`` and under its name for people."""

    def bad(self, code: str, message: str) -> BadImage:
        """Make the error to raise."""

    def refusing(self, code: str, message: str) -> AbstractContextManager[None]:
        """Turn whatever is raised inside into ``BadImage``."""

    def check_size(self, width: int, height: int) -> None:
        """Raise ``BadImage`` if the picture has no pixels, or is larger, longer or thinner than allowed."""


def from_tensor(tensor: torch.Tensor, guard: Guard) -> Image.Image:
    """Make an image of a tensor, HW or CHW, of any device; see ``from_array`` for the rest.

    Raises:
        BadImage: code "dtype" also for sparse tensors, and tensors without data.
    """
    shape = tuple(tensor.shape)
    check_shape(shape[1:] + shape[:1] if len(shape) == 3 else shape, "CHW", guard)
    with guard.refusing("dtype", "the tensor could not be made an array; pass a dense one"):
        on_cpu = tensor.detach().cpu()
        array: Array = (on_cpu.float() if on_cpu.is_floating_point() else on_cpu).numpy()
    return from_array(array.transpose(1, 2, 0) if array.ndim == 3 else array, guard)


def from_array(array: Array, guard: Guard) -> Image.Image:
    """Make an image of mode L, LA, RGB or RGBA of an array, HW or HWC of 1 to 4 channels.

    Its elements are bool, uint8, uint16 in [0, 65535], or floats in [0, 1] or [0, 255] (see ``float_white``).

    Raises:
        BadImage: code "shape", "dtype", "nan", "range", or one of ``Guard.check_size``.
    """
    import numpy as np

    check_shape(array.shape, "HWC", guard)
    if array.dtype.kind == "f":
        white = float_white(float(array.min()), float(array.max()), guard)
    elif array.dtype.str[1:] in _WHITES:
        white = _WHITES[array.dtype.str[1:]]
    else:
        raise guard.bad("dtype", f"expected bool, uint8, uint16 or float, found {array.dtype}; convert it")
    eight = _eight_bits(np.asarray(array), 0, white)
    return Image.fromarray(np.ascontiguousarray(eight[:, :, 0] if eight.shape[2:] == (1,) else eight))


def check_shape(shape: tuple[int, ...], layout: str, guard: Guard) -> None:
    """Check a shape that has been brought to HW or HWC; ``layout`` is what the caller calls the latter.

    Raises:
        BadImage: code "shape", or one of ``Guard.check_size``.
    """
    if len(shape) == 4:
        raise guard.bad("shape", f"expected HW or {layout}, found a batch; pass one picture at a time")
    if len(shape) not in (2, 3) or not all(1 <= channels <= 4 for channels in shape[2:]):
        raise guard.bad("shape", f"expected HW, or {layout} of 1 to 4 channels; transpose or slice it")
    guard.check_size(shape[1], shape[0])


def float_white(low: float, high: float, guard: Guard) -> float:
    """Return the value, 1 or 255, that means white among floats of this minimum and maximum.

    Raises:
        BadImage: code "nan" or "range".
    """
    _check_finite(low, high, guard)
    white = _float_white(low, high)
    if not white:
        raise guard.bad("range", f"expected [0, 1] or [0, 255], found {low:g} to {high:g}; rescale it")
    return white


def over_white(image: Image.Image, guard: Guard) -> Image.Image:
    """Return a new RGB image, whatever the mode, with what was transparent over white.

    Raises:
        BadImage: code "nan".
    """
    if image.mode[0] in "IF":
        image = deep_to_grey(image, guard)
    if image.mode == "La":
        image = image.convert("LA")  # it has no other conversion
    if not image.has_transparency_data:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(rgba, mask=rgba)
    return white


def deep_to_grey(image: Image.Image, guard: Guard) -> Image.Image:
    """Bring modes I, I;16 and F to mode L; Pillow's own conversion clips them to white.

    Raises:
        BadImage: code "nan".
    """
    import numpy as np

    values: Array = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    _check_finite(low, high, guard)
    deepest = _float_white(low, high) if image.mode == "F" else 65535 if low >= 0 and high <= 65535 else 0
    grey = _eight_bits(values, 0, deepest) if deepest else _eight_bits(values, low, high)
    if isinstance(key := image.info.get("transparency"), int):
        grey[values == key] = 255
    return Image.fromarray(grey)


def _check_finite(low: float, high: float, guard: Guard) -> None:
    if not math.isfinite(low) or not math.isfinite(high):
        raise guard.bad("nan", "expected finite values, found NaN or infinity; replace them")


def _float_white(low: float, high: float) -> float:
    """Return which of 1 and 255 is white among floats of this minimum and maximum, 0 if neither can be."""
    low, high = round(low, 4), round(high, 4)  # arithmetic may miss 0 and 1 by a hair
    if low < 0 or high > 255 or 1 < high < 2:
        return 0
    return 1 if high <= 1 else 255


def _eight_bits(values: Array, black: float, white: float) -> Array:
    """Rescale numbers of any shape from [black, white] to uint8 in [0, 255], rounded to the nearest."""
    import numpy as np

    if values.dtype == np.uint8:
        return values
    scaled: Array = values.astype(np.float64 if black else np.float32)
    np.subtract(scaled, black, out=scaled)  # in place: these may be gigabytes
    np.multiply(scaled, 255 / ((white - black) or 1), out=scaled)
    eight: Array = np.rint(scaled, out=scaled).astype(np.uint8)
    return eight
