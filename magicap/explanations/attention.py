"""Where a supervised captioner looked for each word of a caption, over the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from magicap.arrays import FloatArray
from magicap.drawing import FAINT, INK, Explanation, panels, shrunk, word

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_COLUMNS = 5
_INCHES = 2.1  # side of a panel
_PALE = 0.5  # share of white where there was no attention
_TINT, _TINTED = (1.0, 0.45, 0.05), 0.6  # an orange, and its share where attention was highest


@dataclass(frozen=True, eq=False)
class AttentionExplanation(Explanation):
    """Where the decoder looked for each token of the caption, the end token included."""

    attention: FloatArray
    """(T, h, w) attention of each token to each location of the encoder's grid; sums to 1 over h and w."""

    gate: FloatArray | None
    """(T,) how much the picture counted for a token, 0 to 1; None where the decoder has no gate."""

    def draw(self) -> Figure:
        """The picture once as it is, then once a token, in orange where the decoder looked.

        Only what got more than its even share is orange, by how much more: a picture that stays grey was
        looked at evenly. A map covers the whole picture, which the encoder sees squeezed into a square.
        """
        small = shrunk(self.picture)
        size = _INCHES, _INCHES * small.height / small.width + 0.36
        figure, axes = panels(1 + len(self.caption.steps), _COLUMNS, size, foot=0.3)
        for panel in axes:
            panel.set_axis_off()
        axes[0].imshow(np.asarray(small))
        for number, (panel, step) in enumerate(zip(axes[1:], self.caption.steps, strict=True)):
            panel.imshow(_shaded(small, self.attention[number]))
            gate = None if self.gate is None else float(self.gate[number])
            _title(panel, word(step), gate)
        figure.suptitle(
            self.caption.text, fontsize=12, color=INK, fontweight="bold", parse_math=False, wrap=True
        )
        note = "orange: where the decoder looked for the word, beyond an even share for every place"
        if self.gate is not None:
            note += "; number: how much the picture counted, 0 to 1"
        figure.text(0.5, 0.012, note, ha="center", va="bottom", fontsize=7.5, color=FAINT)
        return figure


def _shaded(picture: Image, attention: FloatArray) -> NDArray[np.uint8]:
    """(H, W, 3): the picture, pale and grey, tinted where attention (h, w) is above its mean."""
    from PIL import Image

    heat = (attention - attention.mean()) / attention.max()
    smooth = Image.fromarray(heat.astype(np.float32)).resize(picture.size, Image.Resampling.BICUBIC)
    heat = np.asarray(smooth)[..., None].clip(0, 1)
    colours, grey = np.asarray(picture) / 255, np.asarray(picture.convert("L"))[..., None] / 255
    tinted = _mix(colours, np.array(_TINT), _TINTED)
    mixed = _mix(_mix(grey, np.ones(3), _PALE), tinted, heat)
    return (255 * mixed).round().astype(np.uint8)


def _mix(first: FloatArray, second: FloatArray, share: FloatArray | float) -> FloatArray:
    """(1 - share) of the first and ``share`` of the second."""
    return first * (1 - share) + second * share


def _title(panel: Axes, text: str, gate: float | None) -> None:
    panel.set_title(text, fontsize=10, color=INK, loc="left", pad=4, parse_math=False)
    if gate is not None:
        panel.set_title(f"{gate:.2f}", fontsize=8, color=FAINT, loc="right", pad=4)
