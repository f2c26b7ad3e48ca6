"""Word by word, where in a picture a fine-grained scorer finds a caption."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from magicap.extras import require
from magicap.images.reader import ImageSource, open_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from magicap.models.fine_grained.scorer import Alignment

COLUMNS = 6
_INCHES = 1.9  # side of a panel
_LARGEST = 448  # pixels of the picture's longer side: sharper than a panel is drawn


def draw_alignment(image: ImageSource, alignment: Alignment, path: str | Path) -> None:
    """Write the picture once as it is, then once a word, bright where that word fits and dark elsewhere.

    What the scorer's own cut leaves out of the picture stays as it is.
    Each word has its own scale from its worst to its best place, so brightness says where, not how well; the
    number beside the word is the cosine at its best place.

    Args:
        image: the picture that was aligned, anything that :func:`magicap.images.reader.open_image` takes.
        alignment: what :meth:`magicap.models.fine_grained.scorer.FineGrainedScorer.align` gave for it.
        path: the file; its ending (``.png``, ``.svg``, ``.pdf``) says what kind.

    Raises:
        BadImage: the picture cannot be read.
        MissingPackage: matplotlib is not installed.
    """
    require("matplotlib")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    picture = open_image(image).copy()
    picture.thumbnail((_LARGEST, _LARGEST))
    count = 1 + len(alignment.words)
    columns = min(COLUMNS, count)
    rows = ceil(count / columns)
    height = _INCHES * picture.height / picture.width + 0.3
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "magicap"}):
        figure = Figure(figsize=(columns * _INCHES, rows * height), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for panel in panels:
            panel.set_axis_off()
        panels[0].imshow(np.asarray(picture))
        heats = alignment.cosines.cpu().numpy()
        for panel, word, heat in zip(panels[1:], alignment.words, heats, strict=False):
            _draw_word(panel, np.asarray(picture), word, heat, alignment.seen)
        figure.savefig(path, dpi=120, metadata={"Date": None} if Path(path).suffix == ".svg" else None)


def _draw_word(
    panel: Axes,
    picture: NDArray[Any],
    word: str,
    heat: NDArray[Any],
    seen: tuple[float, float, float, float],
) -> None:
    low, high = float(heat.min()), float(heat.max())
    height, width = picture.shape[:2]
    left, top, right, bottom = seen
    box = (left * width - 0.5, right * width - 0.5, bottom * height - 0.5, top * height - 0.5)
    panel.imshow(picture)
    panel.autoscale(False)  # the whole picture, also around what the scorer saw
    panel.imshow(heat, cmap="inferno", alpha=0.6, vmin=low, vmax=high, extent=box, interpolation="bilinear")
    panel.set_title(f"{word}  {high:.2f}", fontsize=9, parse_math=False)
