"""The ladder of captioners: CIDEr-D of each on COCO val and on Flickr8k test, with intervals, drawn.

    python eval/ladder.py --figures docs/ladder.json --out docs/ladder.svg

The file's figures are those of docs/results.md; each names the section of that page that it stands in. This
script only draws. Alternative text where the drawing is shown:

    CIDEr-D of the captioners, with 95 % intervals. COCO val, 140 pictures: embedded with plain magic search
    44.5, the release before 46.3, MAGIC's published captions 49.3 (on other pictures), embedded with greedy
    search and soft prompt 60.8, unpaired 66.7, embedded, the default, 104.9. Flickr8k test, 1,000 pictures:
    cnn-lstm 54.6, the release before 64.1, embedded, the default, 68.7.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import HfArgumentParser

from magicap.drawing import FAINT, INK, LINE, require_drawable, save_drawing
from magicap.errors import BadData, MagicapError
from magicap.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEARNS = {
    "nothing": ("none", "#ddaa33", INK),
    "scorer": ("the scorer alone", "#4477aa", "white"),
    "captioner": ("the whole captioner", "#bb5566", "white"),
}
"""What learned from captioned pictures: its name in the legend, a colour that colour-blind readers can tell
from the others, in grey too, and that of letters on it."""

_WIDTH, _ROW = 7.3, 0.42  # inches: 700 pixels, at 96 an inch
_ABOVE, _BELOW = 0.75, 1.2  # inches of titles, and of the legend and the note
_NOTE_LETTERS = 100


@dataclass(frozen=True)
class Config:
    figures: str = field(metadata={"help": "file with the figures, such as docs/ladder.json"})
    out: str = field(metadata={"help": "the drawing: a .png, .svg or .pdf file"})


@dataclass(frozen=True)
class Rung:
    """One captioner on one data set."""

    captioner: str
    pictures: str
    """How many captioned pictures it learned from."""

    learns: str
    """What of it did: a key of :data:`LEARNS`."""

    value: float
    low: float | None
    """The lower end of the interval; None where none is known."""

    high: float | None
    section: str
    """Where the figure stands on the page of results."""

    other_pictures: bool = False
    """Whether it was measured on other pictures than its neighbours."""


def main(config: Config) -> None:
    figures = read_figures(Path(config.figures))
    require_drawable(config.out, [config.figures])
    save_drawing(lambda: drawing(figures), config.out)


def read_figures(path: Path) -> dict[str, Any]:
    """The file, its rows as :class:`Rung`.

    Raises:
        BadData: it cannot be read, or is of another form.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        for panel in figures["panels"]:
            panel["rows"] = [Rung(**row) for row in panel["rows"]]
        unknown = {row.learns for panel in figures["panels"] for row in panel["rows"]} - LEARNS.keys()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path}: expected figures of the form of docs/ladder.json ({error!r})") from error
    if unknown:
        raise BadData(f"{path}: learns is one of {', '.join(LEARNS)}, found {', '.join(sorted(unknown))}")
    return dict(figures)


def drawing(figures: Mapping[str, Any]) -> Figure:
    """A new drawing: a panel a data set under each other, on one scale; a bar a captioner."""
    require("matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    counts = [len(panel["rows"]) for panel in figures["panels"]]
    height = _ROW * sum(counts) + _ABOVE * len(counts) + _BELOW
    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")
    share = _BELOW / height
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share), h_pad=0.1)  # type: ignore[union-attr, call-arg]
    axes = figure.subplots(len(counts), 1, sharex=True, squeeze=False, height_ratios=counts).flatten()
    for axis, panel in zip(axes, figures["panels"], strict=True):
        draw_panel(axis, panel["title"], panel["rows"])
    axes[-1].set_xlabel(figures["metric"], fontsize=11, color=INK)
    handles = [Patch(color=colour, label=label) for label, colour, _ in LEARNS.values()]
    legend = figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.01, 0.46 * share), ncols=3, frameon=False,
        fontsize=10, labelcolor=INK, handlelength=1.1, columnspacing=1.6, alignment="left",
        title="What part learned from captioned pictures (their number is in the bar):",
    )  # fmt: skip
    legend.get_title().set(fontsize=10, color=INK)
    note = textwrap.fill(figures["note"], _NOTE_LETTERS)
    figure.text(0.018, 0.4 * share, note, fontsize=9, color=FAINT, va="top", parse_math=False)
    return figure


def draw_panel(axis: Axes, title: str, rows: Sequence[Rung]) -> None:
    """A bar a row, the first at the top, with its interval and its value."""
    for y, row in enumerate(rows):
        _, colour, letters = LEARNS[row.learns]
        bar: dict[str, Any] = {"facecolor": colour}
        box = None
        if row.other_pictures:
            bar, letters = {"facecolor": "white", "hatch": "////"}, INK
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axis.barh(y, row.value, height=0.64, edgecolor=colour, linewidth=1.4, **bar)
        end = row.value
        if row.low is not None and row.high is not None:
            ends = [[row.value - row.low], [row.high - row.value]]
            axis.errorbar(row.value, y, xerr=ends, color=INK, capsize=4, linewidth=1.3)
            end = row.high
        beside: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(row.pictures, (0, y), fontsize=9.5, color=letters, bbox=box, **beside)
        axis.annotate(f"{row.value:.1f}", (end, y), fontsize=11, color=INK, fontweight="bold", **beside)
    axis.set_yticks(range(len(rows)), [row.captioner for row in rows], fontsize=11, color=INK)
    axis.invert_yaxis()
    axis.set_title(title, fontsize=12, color=INK, fontweight="bold", loc="left", pad=6)
    axis.set_xlim(0, 136)
    axis.grid(axis="x", color=LINE, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0, axis="y")
    axis.tick_params(length=0, labelsize=10, labelcolor=FAINT, axis="x")


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"ladder.py: {error}")
