"""What drawings of explanations share: their file, matplotlib, and words as they are written on them."""

from __future__ import annotations

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from magicap.errors import BadSettings
from magicap.extras import require
from magicap.files import put_in_place, require_writable
from magicap.results import Caption, Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

FORMATS = (".png", ".svg", ".pdf")
"""Endings of files that can be drawn."""

COMPETITORS = 5
"""How many candidates of a step, or hypotheses, are drawn by default."""

INK, FAINT, LINE = "#1d2129", "#6b7280", "#d5d9e0"
"""Colours of words, of remarks and of what only guides the eye."""

_DPI = 150
_LARGEST = 512  # pixels of a picture's longer side: sharper than a panel is drawn


class Drawable(ABC):
    """Data that draws itself."""

    @abstractmethod
    def draw(self) -> Figure:
        """A new figure.

        Raises:
            MissingPackage: matplotlib is not installed.
        """

    def save(self, path: str | Path) -> None:
        """Write the drawing; the file's ending says what kind: one of :data:`magicap.drawing.FORMATS`.

        Raises:
            BadSettings: another ending, or a file that cannot be written.
            MissingPackage: matplotlib is not installed.
        """
        save_drawing(self.draw, path)


@dataclass(frozen=True, eq=False)
class Explanation(Drawable):
    """A caption, and what brought it about."""

    picture: Image
    """What was captioned, as RGB."""

    caption: Caption
    """The same that ``.caption`` gives."""


def save_drawing(draw: Callable[[], Figure], path: str | Path) -> None:
    """Write a figure, the same bytes for the same figure; errors as of :meth:`Drawable.save`."""
    require_drawable(path)
    from matplotlib import rc_context

    kind, encoded = Path(path).suffix.lower().removeprefix("."), io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "magicap"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|.*missing from font")  # a box stands for such a letter
        metadata = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
        draw().savefig(encoded, format=kind, dpi=_DPI, metadata=metadata)
    with put_in_place(Path(path)) as part:
        part.write_bytes(encoded.getvalue())


def require_drawable(path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
    """Check all that can be checked of a drawing before there is anything to draw.

    Args:
        inputs: files that are read, which must not be written over.

    Raises:
        BadSettings: an ending that is none of :data:`FORMATS`, or a file that cannot be written.
        MissingPackage: matplotlib is not installed.
    """
    if Path(path).suffix.lower() not in FORMATS:
        raise BadSettings(f"{path}: expected a file that ends in {', '.join(FORMATS)}; name one of these")
    require_writable(path, inputs)
    require("matplotlib")


def panels(count: int, columns: int, size: tuple[float, float], foot: float) -> tuple[Figure, list[Axes]]:
    """A figure of empty panels in rows, those of the last row that are not needed left out.

    Args:
        count: how many panels.
        columns: the most in a row.
        size: width and height of a panel in inches.
        foot: inches under the panels that are left free.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    require("matplotlib")
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = ceil(count / columns)
    figure = Figure(
        figsize=(columns * size[0], rows * size[1] + foot), layout="constrained", facecolor="white"
    )
    share = foot / figure.get_figheight()
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share), w_pad=0.06, h_pad=0.08)  # type: ignore[union-attr, call-arg]
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def shrunk(picture: Image) -> Image:
    """A copy no larger than it is drawn."""
    small = picture.copy()
    small.thumbnail((_LARGEST, _LARGEST))
    return small


def word(step: Step) -> str:
    """A token as it is written on a drawing; a hyphen before one that goes on with a word."""
    if step.last:
        return "(end)"
    before = step.text.removesuffix(step.token)
    goes_on = before[-1:].isalnum() and step.token[:1].isalnum()
    return f"-{step.token}" if goes_on else step.token.strip() or "·"
