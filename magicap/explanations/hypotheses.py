"""Which whole captions competed in a beam magic search, and the parts of their scores."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magicap.arrays import FloatArray
from magicap.drawing import FAINT, INK, LINE, Explanation, panels, shrunk
from magicap.results import Hypothesis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TERMS = (("expected utility", "#4477aa"), ("reranking by the picture", "#e6a020"))
_WIDTH, _BAR, _TITLE = 4.2, 0.42, 0.7  # inches of a panel, of a bar, and of what stands over and under bars
_LETTERS = 44


@dataclass(frozen=True, eq=False)
class HypothesisExplanation(Explanation):
    """What beam magic search chose among."""

    hypotheses: tuple[Hypothesis, ...]
    """Whole captions, the chosen one first, then by falling score: expected CIDEr-D, 0 to 10, and what the
    picture adds to it; behind them those that are longer than ``max_new_tokens``."""

    def draw(self) -> Figure:
        """The picture, and beside it a bar for each caption."""
        height = max(len(self.hypotheses) * _BAR + _TITLE, 2.4)
        figure, (image, panel) = panels(2, 2, (_WIDTH, height), foot=0.3)
        image.imshow(np.asarray(shrunk(self.picture)))
        image.set_axis_off()
        _bars(panel, self.hypotheses)
        figure.suptitle(
            self.caption.text, fontsize=12, color=INK, fontweight="bold", parse_math=False, wrap=True
        )
        figure.legend(
            loc="lower center", ncols=2, frameon=False, fontsize=8, labelcolor=FAINT, handlelength=1.2
        )
        return figure


def _bars(panel: Axes, hypotheses: tuple[Hypothesis, ...]) -> None:
    """A bar a hypothesis, its terms stacked, its score written behind it."""
    left = np.zeros(len(hypotheses))
    for (label, colour), values in zip(_TERMS, _terms(hypotheses), strict=True):
        if values.any():
            panel.barh(range(len(values)), values, left=left, height=0.6, color=colour, label=label)
        left = left + values
    for y, score in enumerate(left):
        panel.annotate(
            f"{score:z.2f}", (score, y), (4, 0), textcoords="offset points", va="center", fontsize=8
        )
    captions = [textwrap.fill(hypothesis.text, _LETTERS) for hypothesis in hypotheses]
    panel.set_yticks(range(len(captions)), captions, fontsize=8, color=INK, parse_math=False)
    panel.get_yticklabels()[0].set_fontweight("bold")
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.grid(axis="x", color=LINE, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0, labelsize=7, labelcolor=FAINT, axis="x")
    panel.tick_params(length=0, axis="y")


def _terms(hypotheses: tuple[Hypothesis, ...]) -> tuple[FloatArray, FloatArray]:
    """Expected utilities of H hypotheses, and what reranking by the picture adds to each; (H,)."""
    scores = np.array([hypothesis.score for hypothesis in hypotheses])
    utilities = np.array([hypothesis.expected_utility or 0.0 for hypothesis in hypotheses])
    return utilities, scores - utilities
