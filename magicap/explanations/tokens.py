"""Which tokens competed at each step of a magic search, and the terms of their scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from magicap.drawing import FAINT, INK, LINE, Explanation, panels, shrunk, word
from magicap.results import Step

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TERMS = (
    ("model_confidence", "#4477aa"),
    ("image_score", "#e6a020"),
    ("degeneration_penalty", "#bb5566"),
)  # colours that colour-blind readers can distinguish
_COLUMNS = 4
_WIDTH, _BAR, _TITLE = 2.9, 0.21, 0.55  # inches of a panel, of a bar, and of what stands over and under bars
_LETTERS = 26


@dataclass(frozen=True, eq=False)
class TokenExplanation(Explanation):
    """What magic search weighed at each step."""

    candidates: tuple[tuple[Step, ...], ...]
    """For each step of the caption the steps that could have been taken: the one that was, then the best of
    the others by falling score."""

    def draw(self) -> Figure:
        """The picture, then a panel a step: its candidates, each with its three terms as stacked bars."""
        count = max(map(len, self.candidates))
        size = _WIDTH, max(count * _BAR + _TITLE, 1.2)
        figure, axes = panels(1 + len(self.candidates), _COLUMNS, size, foot=0.3)
        axes[0].imshow(np.asarray(shrunk(self.picture)))
        axes[0].set_axis_off()
        low, high = _span([step for steps in self.candidates for step in steps])
        before = ""
        for panel, steps in zip(axes[1:], self.candidates, strict=True):
            _bars(panel, steps)
            panel.set_ylim(count - 0.4, -0.6)
            panel.set_xlim(low, high)
            panel.set_title(_ending(before), fontsize=8.5, color=FAINT, loc="left", pad=3, parse_math=False)
            before = steps[0].text
        figure.suptitle(
            self.caption.text, fontsize=12, color=INK, fontweight="bold", parse_math=False, wrap=True
        )
        _legend(figure)
        return figure


def _bars(panel: Axes, steps: tuple[Step, ...]) -> None:
    """A bar a candidate, the chosen one first."""
    for y, step in enumerate(steps):
        _bar(panel, y, step, chosen=y == 0)
    panel.set_yticks(
        range(len(steps)), [word(step) for step in steps], fontsize=8.5, color=INK, parse_math=False
    )
    panel.get_yticklabels()[0].set_fontweight("bold")
    panel.axvline(0, color=FAINT, linewidth=0.8)
    panel.grid(axis="x", color=LINE, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[:].set_visible(False)
    panel.tick_params(length=0, labelsize=7, labelcolor=FAINT, axis="x")
    panel.tick_params(length=0, axis="y")
    panel.locator_params(axis="x", nbins=5)


def _bar(panel: Axes, y: int, step: Step, *, chosen: bool) -> None:
    """A candidate's positive terms to the right of zero, its negative ones to the left, and the sum."""
    right = left = 0.0  # ends of what is stacked to either side
    for term, colour in _TERMS:
        value = getattr(step, term)
        start = right if value > 0 else left
        panel.barh(y, value, left=start, height=0.66, color=colour, alpha=1 if chosen else 0.55)
        right, left = right + max(value, 0), left + min(value, 0)
    panel.plot([step.score] * 2, [y - 0.4, y + 0.4], color=INK, linewidth=1.4)
    panel.annotate(
        f"{step.score:z.2f}",  # z: no -0.00
        (max(right, step.score), y),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color=INK if chosen else FAINT,
    )


def _span(steps: list[Step]) -> tuple[float, float]:
    """One scale for all panels, with room for the scores that are written behind the bars."""
    terms = [[getattr(step, term) for term, _ in _TERMS] for step in steps]
    low = min(sum(min(value, 0) for value in values) for values in terms)
    high = max(sum(max(value, 0) for value in values) for values in terms)
    room = 0.2 * (high - low) or 1.0
    return low - 0.1 * room, high + room


def _ending(text: str) -> str:
    """The end of a caption that is being written."""
    words = text.split()
    while len(" ".join(words)) > _LETTERS and len(words) > 1:
        words = ["…", *words[2 if words[0] == "…" else 1 :]]
    return " ".join([*words, "…"])


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [Patch(color=colour, label=term.replace("_", " ")) for term, colour in _TERMS]
    handles.append(Line2D([], [], color=INK, linewidth=1.4, label="score, their sum (bold: chosen)"))  # type: ignore[arg-type]
    figure.legend(
        handles=handles,
        loc="lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
        labelcolor=FAINT,
        handlelength=1.2,
    )
