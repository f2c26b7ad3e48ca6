"""Which whole captions competed in a beam magic search, and how far others agreed with each."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magicap.drawing import FAINT, INK, LINE, Explanation, panels, shrunk
from magicap.results import Step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VOICES = (("confidence", "consensus", "#4477aa"), ("image", "picture", "#e6a020"))
_WIDTH, _BAR, _TITLE = 4.2, 0.42, 0.7  # inches of a panel, of a bar, and of what stands over and under bars
_LETTERS = 44


@dataclass(frozen=True, eq=False)
class HypothesisExplanation(Explanation):
    """What beam magic search chose among."""

    candidates: tuple[Step, ...]
    """Whole captions, the chosen one first, then by falling score: ``confidence`` is the expected CIDEr-D, 0
    to 10, ``image`` the picture's own share."""

    def draw(self) -> Figure:
        """The picture, and beside it a bar for each caption."""
        height = max(len(self.candidates) * _BAR + _TITLE, 2.4)
        figure, (image, panel) = panels(2, 2, (_WIDTH, height), foot=0.3)
        image.imshow(np.asarray(shrunk(self.picture)))
        image.set_axis_off()
        left = np.zeros(len(self.candidates))
        for voice, label, colour in _VOICES:
            shares = np.array([getattr(step, voice) for step in self.candidates])
            if shares.any():
                panel.barh(range(len(shares)), shares, left=left, height=0.6, color=colour, label=label)
            left = left + shares
        for y, score in enumerate(left):
            panel.annotate(
                f"{score:z.2f}", (score, y), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        captions = [textwrap.fill(step.text, _LETTERS) for step in self.candidates]
        panel.set_yticks(range(len(captions)), captions, fontsize=8, color=INK, parse_math=False)
        panel.get_yticklabels()[0].set_fontweight("bold")
        panel.invert_yaxis()
        panel.margins(x=0.15)
        panel.grid(axis="x", color=LINE, linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0, labelsize=7, labelcolor=FAINT, axis="x")
        panel.tick_params(length=0, axis="y")
        figure.suptitle(
            self.caption.text, fontsize=12, color=INK, fontweight="bold", parse_math=False, wrap=True
        )
        figure.legend(
            loc="lower center", ncols=2, frameon=False, fontsize=8, labelcolor=FAINT, handlelength=1.2
        )
        return figure
