"""What are captioned pictures worth? A figure against how many of them a scorer learned from, drawn.

    python eval/compare.py --systems 0=unpaired 1000=runs/1000 6000=runs/6000 ... --csv coco.csv ...
    python eval/captioned_pictures.py --figures "COCO val=coco.csv" "Flickr8k test=flickr8k.csv" \\
        --out docs/captioned_pictures.svg

A line a file; its points are the systems whose names are whole numbers, with the intervals of the file.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import HfArgumentParser

from magicap.drawing import require_drawable, save_drawing
from magicap.errors import BadData, BadSettings, MagicapError
from magicap.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Config:
    figures: list[str] = field(metadata={"help": "NAME=FILE, files that compare.py --csv wrote"})
    out: str = field(metadata={"help": "the drawing: a .png, .svg or .pdf file"})
    metric: str = field(default="CIDEr-D", metadata={"help": "the figure that is drawn"})


@dataclass(frozen=True)
class Point:
    """A figure with its interval, as they stand in the file."""

    pictures: int
    value: float
    low: float
    high: float


def main(config: Config) -> None:
    lines = {}
    for spec in config.figures:
        name, separator, path = spec.partition("=")
        if not separator:
            raise BadSettings(f"--figures takes NAME=FILE, found {spec!r}")
        lines[name] = read_points(Path(path), config.metric)
    require_drawable(config.out, [spec.partition("=")[2] for spec in config.figures])
    save_drawing(lambda: drawing(lines, config.metric), config.out)


def read_points(path: Path, metric: str) -> list[Point]:
    """The systems of a comparison whose names are whole numbers, the fewest pictures first.

    Raises:
        BadData: the file cannot be read, or has no such system.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise BadData(f"{path}: expected what compare.py --csv writes ({error})") from error
    points = [
        Point(int(row["system"]), *(100 * float(row[name]) for name in ("value", "low", "high")))
        for row in rows
        if row.get("metric") == metric and row["system"].isdigit()
    ]
    if not points:
        raise BadData(f"{path}: expected systems named by numbers, with {metric}, found none")
    return sorted(points, key=lambda point: point.pictures)


def drawing(lines: Mapping[str, list[Point]], metric: str) -> Figure:
    """A new drawing: one line a data set, with error bars."""
    plt = require("matplotlib.pyplot")
    figure: Figure
    figure, panel = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, points in lines.items():
        below = [point.value - point.low for point in points]
        above = [point.high - point.value for point in points]
        numbers, values = [point.pictures for point in points], [point.value for point in points]
        panel.errorbar(numbers, values, [below, above], marker="o", capsize=3, label=name)
    panel.set_xscale("symlog", linthresh=1000)
    ticks = sorted({point.pictures for points in lines.values() for point in points})
    panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel("captioned pictures that the scorer learned from")
    panel.set_ylabel(metric)
    panel.grid(alpha=0.3)
    panel.legend()
    return figure


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"captioned_pictures.py: {error}")
