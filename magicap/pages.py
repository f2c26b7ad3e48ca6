"""What pages that need nothing else are made of: escaped text, and pictures within the page itself.

Pages are passed on, so nothing here names a path of its own accord.
"""

from __future__ import annotations

import base64
import html
import io

from magicap.errors import BadImage
from magicap.images.reader import REASONS, ImageSource, open_image


def escaped(text: str) -> str:
    """Outside text as HTML, also within attributes."""
    return html.escape(replace_surrogates(text))


def replace_surrogates(text: str) -> str:
    """Question marks for halves of surrogate pairs, of which UTF-8 and some browsers' tools know nothing."""
    return text.encode("utf-8", "replace").decode("utf-8")


def small_jpeg(source: ImageSource, side: int) -> tuple[str, tuple[int, int]]:
    """A small JPEG of a picture in base64, and its width and height.

    Args:
        side: the long side at most, in pixels.

    Raises:
        BadImage: the picture cannot be read.
    """
    image = open_image(source)
    out = io.BytesIO()
    image.thumbnail((side, side))
    image.save(out, format="JPEG", quality=80, optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii"), image.size


def why_unreadable(error: Exception) -> str:
    """Why there is no thumbnail, without the picture's path."""
    if isinstance(error, BadImage):
        return f"cannot be read: {REASONS.get(error.code, error.code)}"
    return f"cannot be read ({type(error).__name__})"
