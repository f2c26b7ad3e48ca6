"""Tables as people and programs read them: aligned text, Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields

from magicap.evaluation.comparison import CERTAIN, FEWEST, Comparison, Estimate
from magicap.metrics.score import Score
from magicap.metrics.suite import FIGURES
from magicap.printable import printable

MARK = "*"
"""Behind a figure of which something must be said."""


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns under each other for a terminal: words to the left, figures to the right."""
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    figures = [all(cell[:1].isdigit() or cell[:1] in "-" for cell in column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if figure else cell.ljust(width)
            for cell, width, figure in zip(line, widths, figures, strict=True)
        ).rstrip()
        for line in lines
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    ruler = ["---", *["--:"] * (len(header) - 1)]
    lines = [list(header), ruler, *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def comparison_table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: a system a row, a column each of the figures that have one.

    A cell holds the figure, its interval, and a mark where the difference from the system compared against
    is more than chance.
    """
    columns = [name for name, figure in FIGURES.items() if figure.column and name in comparison.metrics]
    rows = []
    for system in comparison.systems:
        estimates = comparison.estimates[system.name]
        name = f"{system.name} (baseline)" if system.baseline else system.name
        rows.append([name, *(_cell(estimates.get(metric)) for metric in columns)])
    return ["system", *columns], rows


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "-"
    text = estimate.score.text + MARK * bool(estimate.score.caveats)
    if estimate.low is not None and estimate.high is not None:
        low, high = map(estimate.score.scaled, (estimate.low, estimate.high))
        text += f" ({low:.2f} to {high:.2f})"
    if estimate.p_value is not None and estimate.p_value < CERTAIN and estimate.difference:
        text += " ▲" if estimate.difference > 0 else " ▼"
    return text


def caveat_lines(scores: Mapping[str, Score], system: str = "") -> list[str]:
    """What must be said of figures that carry a mark, a line each."""
    of = f" of {system}" if system else ""
    return [f"{MARK} {name}{of}: {caveat}" for name, score in scores.items() for caveat in score.caveats]


def comparison_notes(comparison: Comparison) -> str:
    """What a reader of the table must know."""
    if len(comparison.images) < FEWEST:
        how = f"too few for intervals, which need {FEWEST}."
    else:
        how = (
            f"in brackets {100 * comparison.confidence:g} % intervals of a paired bootstrap "
            f"({comparison.resamples} resamples of images, seed {comparison.seed}); ▲ ▼: above or below "
            f"{comparison.against} with p < {CERTAIN}, each figure tested by itself."
        )
    lines = [f"n = {len(comparison.images)}; {how}"]
    lines += [f"{name} is absent: {reason}" for name, reason in comparison.absent.items()]
    for system, estimates in comparison.estimates.items():
        lines += caveat_lines({name: one.score for name, one in estimates.items()}, system)
    return "\n".join(lines)


def comparison_csv(comparison: Comparison) -> str:
    """A line a system and metric, on the metrics' own scales, with intervals, differences and signatures."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    numbers = [field.name for field in fields(Estimate) if field.name != "score"]
    writer.writerow(["system", "metric", "value", *numbers, "signature"])
    for system, estimates in comparison.estimates.items():
        for metric, estimate in estimates.items():
            values = [getattr(estimate, name) for name in numbers]
            writer.writerow([system, metric, estimate.score.value, *values, estimate.score.signature_text])
    return out.getvalue()
