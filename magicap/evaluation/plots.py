"""Plots of a comparison as SVG to stand inside a page, whose style sheet gives them colours and fonts."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, isfinite
from typing import TYPE_CHECKING

import numpy as np

from magicap.arrays import FloatArray
from magicap.evaluation.comparison import Comparison, Estimate
from magicap.extras import require
from magicap.metrics.score import Score
from magicap.metrics.suite import FIGURES
from magicap.metrics.tokenizer import PTB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = 10
"""Systems that get a colour of their own; further ones begin again."""

# matplotlib knows no CSS variables: these stand for them until the SVG is written.
_INK, _FAINT, _LINE = "#0d0f01", "#0d0f02", "#0d0f03"
_VARIABLES = {_INK: "--ink", _FAINT: "--faint", _LINE: "--line"}
_VARIABLES |= {f"#0d0e{i:02x}": f"--s{i}" for i in range(COLOURS)}

# In pixels of a page that shows a plot at its full size.
_WIDTH, _NAMES, _FIGURES = 400, 146, 54
_BAR, _RIDGE, _AXIS, _TOP = 24, 36, 20, 6
_TEXT, _SMALL = 12.0, 10.5
_LETTERS = 20


@dataclass(frozen=True)
class Plot:
    """A picture with what is written over and under it."""

    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class _Ridge:
    """A row of a plot of histograms."""

    name: str
    values: FloatArray
    colour: str


def metric_plots(comparison: Comparison) -> list[Plot]:
    """Bars with intervals, a plot a metric.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    plotted = [name for name, figure in FIGURES.items() if figure.plotted]
    return [_bars(comparison, name) for name in plotted if name in comparison.metrics]


def histograms(comparison: Comparison) -> list[Plot]:
    """How long captions are, and how CIDEr-D spreads over images; those of the two that were measured.

    Raises:
        MissingPackage: matplotlib is not installed.
    """
    note = "Every row has its own height; the line marks the mean."
    words, scores = _ridges(comparison, "words"), _ridges(comparison, "CIDEr-D")
    plots = []
    if words:
        bins = _word_bins([ridge.values for ridge in words + _reference_words(comparison)])
        plots.append(_histogram("Words a caption", note, words + _reference_words(comparison), bins))
    if scores:
        top = max(1.0, max(float(ridge.values.max(initial=0)) for ridge in scores))
        plots.append(_histogram("CIDEr-D of each image", note, scores, np.linspace(0, top, 41)))
    return plots


def _bars(comparison: Comparison, metric: str) -> Plot:
    rows = [(s, comparison.estimates[s.name].get(metric)) for s in comparison.systems]
    values = [_finite(estimate, "value") for _, estimate in rows]
    tops = [max(value, _finite(estimate, "high")) for value, (_, estimate) in zip(values, rows, strict=True)]
    title = f"{metric} with {100 * comparison.confidence:g} % intervals"
    with _figure(len(rows) * _BAR + _TOP + _AXIS) as figure:
        axes = _axes(figure, _TOP, len(rows) * _BAR)
        axes.set_xlim(min(0.0, *values), 1.04 * max(0.0, *tops) or 1.0)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color=_LINE, linewidth=1)
        for y, (system, estimate) in enumerate(rows):
            colour = _colour(y)
            axes.barh(y, values[y], height=0.62, color=colour, alpha=0.45 if system.baseline else 1, zorder=2)
            if estimate is not None and None not in (estimate.low, estimate.high):
                low, high = _finite(estimate, "low"), _finite(estimate, "high")
                axes.plot([low, high], [y, y], color=_INK, linewidth=1.6, zorder=3, clip_on=False)
            _label(axes, -8, y, system.name, "right", _INK)
            text = "–" if estimate is None else estimate.score.text
            _label(axes, _plot_width() + 8, y, text, "left", _INK)
        description = "; ".join(f"{system.name}: {_in_words(estimate)}" for system, estimate in rows)
        note = "Paler bars are baselines." if any(system.baseline for system, _ in rows) else ""
        return Plot(metric, note, _svg(figure, f"bars-{metric}", title, description))


def _ridges(comparison: Comparison, metric: str) -> list[_Ridge]:
    """A row a system that was measured image by image."""
    ridges = []
    for i, system in enumerate(comparison.systems):
        estimate = comparison.estimates[system.name].get(metric)
        if estimate is not None and estimate.score.per_image is not None:
            values = np.asarray(estimate.score.per_image, dtype=np.float64) * _factor(estimate.score)
            ridges.append(_Ridge(system.name, values[np.isfinite(values)], _colour(i)))
    return ridges


def _reference_words(comparison: Comparison) -> list[_Ridge]:
    """The references' lengths, if the systems' were counted by the tokenizer at hand."""
    scores = [row["words"].score for row in comparison.estimates.values() if "words" in row]
    if any(score.signature.get("tok", PTB.name) != PTB.name for score in scores):
        return []
    counts = [len(PTB(text)) for texts in comparison.references for text in texts]
    return [_Ridge("references", np.array(counts, dtype=np.float64), _FAINT)] if counts else []


def _word_bins(rows: Sequence[FloatArray]) -> FloatArray:
    """Edges between numbers of words; a few captions without end shall not squeeze the others."""
    longest = max(float(values.max(initial=0)) for values in rows)
    usual = max((float(np.quantile(values, 0.995)) for values in rows if len(values)), default=0.0)
    top = ceil(min(longest, max(12.0, 1.5 * usual)))
    step = ceil((top + 1) / 60)
    return np.asarray(np.arange(0, top + 1 + step, step) - 0.5, dtype=np.float64)


def _histogram(title: str, note: str, rows: Sequence[_Ridge], edges: FloatArray) -> Plot:
    if any((ridge.values > edges[-1]).any() for ridge in rows):
        note += " The last bar holds all that lie beyond it."
    with _figure(len(rows) * _RIDGE + _TOP + _AXIS) as figure:
        for i, ridge in enumerate(rows):
            axes = _axes(figure, _TOP + i * _RIDGE, _RIDGE - 6)
            _draw_ridge(axes, ridge, edges)
            axes.tick_params(labelbottom=i == len(rows) - 1)
        description = "; ".join(f"{ridge.name}: {_spread(ridge.values)}" for ridge in rows)
        return Plot(title, note, _svg(figure, f"histogram-{title}", title, description))


def _draw_ridge(axes: Axes, ridge: _Ridge, edges: FloatArray) -> None:
    middle = (edges[-2] + edges[-1]) / 2
    counts, _ = np.histogram(np.minimum(ridge.values, middle), edges)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, max(1.0, 1.05 * float(counts.max())))
    axes.stairs(counts, edges, fill=True, color=ridge.colour)
    axes.axhline(0, color=_LINE, linewidth=1, clip_on=False)
    half = axes.get_ylim()[1] / 2
    _label(axes, -8, half, ridge.name, "right", _INK)
    if len(ridge.values):
        mean = float(ridge.values.mean())
        axes.axvline(min(mean, edges[-1]), color=_INK, linewidth=1.2)
        _label(axes, _plot_width() + 8, half, f"{mean:.1f}", "left", _INK)


def _in_words(estimate: Estimate | None) -> str:
    """A bar in words."""
    if estimate is None:
        return "not measured"
    text = estimate.score.text
    if estimate.low is not None and estimate.high is not None:
        factor = _factor(estimate.score)
        text += f" ({factor * estimate.low:.2f} to {factor * estimate.high:.2f})"
    return text


def _spread(values: FloatArray) -> str:
    """A histogram in words."""
    if not len(values):
        return "no figures"
    low, half, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"mean {values.mean():.1f}, median {half:.1f}, middle half {low:.1f} to {high:.1f}"


def _finite(estimate: Estimate | None, field: str) -> float:
    """A number as printed, 0 for what cannot be drawn."""
    if estimate is None:
        return 0.0
    number = estimate.score.value if field == "value" else getattr(estimate, field)
    return _factor(estimate.score) * number if number is not None and isfinite(number) else 0.0


def _factor(score: Score) -> int:
    return 100 if score.percent else 1


def _colour(system: int) -> str:
    return f"#0d0e{system % COLOURS:02x}"


@contextmanager
def _figure(height: float) -> Iterator[Figure]:
    """An empty figure, whose units are pixels."""
    require("matplotlib")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text stays text, in the page's font; the salt makes ids the same in every run.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "magicap"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph|.*missing from font")  # the reader's browser has others
        yield Figure(figsize=(_WIDTH / 72, height / 72), dpi=72, facecolor="none")


def _axes(figure: Figure, top: float, height: float) -> Axes:
    """Axes between the names on the left and the figures on the right, without frame."""
    whole = figure.get_figheight() * 72
    box = (_NAMES / _WIDTH, 1 - (top + height) / whole, _plot_width() / _WIDTH, height / whole)
    axes = figure.add_axes(box, facecolor="none")
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    axes.tick_params(bottom=False, labelcolor=_FAINT, labelsize=_SMALL, pad=2)
    axes.locator_params(axis="x", nbins=4)
    axes.set_axisbelow(True)
    return axes


def _plot_width() -> int:
    return _WIDTH - _NAMES - _FIGURES


def _label(axes: Axes, x: float, y: float, text: str, side: str, colour: str) -> None:
    """Text at a height of the data, x pixels right of the axes' left edge."""
    axes.annotate(
        _short(text),
        (0, y),
        (x, -0.36 * _TEXT),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha=side,
        va="baseline",
        color=colour,
        fontsize=_TEXT,
        parse_math=False,
        annotation_clip=False,
    )


def _short(name: str) -> str:
    """One line that has room beside the axes."""
    name = "".join(c for c in " ".join(name.split()) if c.isprintable())
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS - 8]}…{name[-7:]}"


def _svg(figure: Figure, key: str, title: str, description: str) -> str:
    """The figure to stand in a page: no prolog, the page's colours, ids of its own, a text alternative."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"<]*;? ?", "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    key = re.sub(r"[^a-z0-9]+", "-", key.lower())
    used = set(re.findall(r"(?:url\(|href=\")#(\w+)", text))
    text = re.sub(r' id="([^"]*)"', lambda match: f' id="{key}-{match[1]}"' if match[1] in used else "", text)
    text = re.sub(r"((?:url\(|href=\")#)(\w+)", rf"\g<1>{key}-\2", text)
    named = f"<title>{_plain(title)}</title><desc>{_plain(description)}</desc>"
    return re.sub(
        r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", rf'<svg role="img" \1>{_escaped(named)}', text, count=1
    )


def _plain(text: str) -> str:
    return html.escape("".join(c if c.isprintable() else " " for c in text))


def _escaped(text: str) -> str:
    """For the right side of a substitution."""
    return text.replace("\\", r"\\")
