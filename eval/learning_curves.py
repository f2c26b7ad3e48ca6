"""Learning curves of recipes' runs as one picture: a panel a figure, a line a run, against minutes.

    python eval/learning_curves.py --runs locked=runs/scorer/locked finetune=runs/scorer/finetune \\
        --figures image_to_text_r1 text_to_image_r1 --out docs/scorer_curve.svg

A run is NAME=FOLDER, or FOLDER alone, with the log.jsonl that training writes. ``loss`` is what training
minimises, a mean over 100 steps; all other figures are of validation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from magicap.extras import require

SMOOTH = 5  # losses are logged every 20 steps


@dataclass(frozen=True)
class Config:
    runs: list[str] = field(metadata={"help": "NAME=FOLDER or FOLDER, any number"})
    figures: list[str] = field(metadata={"help": "names in the log: loss, or figures of validation"})
    out: str = field(metadata={"help": "picture to write: .svg or .png"})


def main(config: Config) -> None:
    runs = {name: read_log(Path(folder)) for name, folder in map(split_name, config.runs)}
    plt = require("matplotlib.pyplot")
    plt.rcParams["svg.hashsalt"] = "magicap"  # the same curves give the same file
    panels, axes = plt.subplots(
        1, len(config.figures), squeeze=False, figsize=(4.2 * len(config.figures), 3.2), layout="constrained"
    )
    for panel, figure in zip(axes[0], config.figures, strict=True):
        has_points = [draw(panel, name, log, figure) for name, log in runs.items()]
        if not any(has_points):
            raise SystemExit(f"no run has logged {figure!r}; they have {', '.join(sorted(logged(runs)))}")
        panel.set_title(figure.replace("_", " "))
        panel.set_xlabel("minutes")
        panel.grid(alpha=0.3)
        if len(runs) > 1:
            panel.legend()
    panels.savefig(config.out, metadata={"Date": None} if config.out.endswith(".svg") else None)
    plt.close(panels)


def split_name(run: str) -> tuple[str, str]:
    name, _, folder = run.rpartition("=")
    return name or Path(folder).name, folder


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log; of a step that was taken again after a kill, only the later row."""
    file = folder / "log.jsonl"
    if not file.is_file():
        raise SystemExit(
            f"expected {file}, which training writes; found none: name the folder of a run or stage"
        )
    rows: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        while rows and rows[-1]["step"] > row["step"]:
            rows.pop()
        rows.append(row)
    return rows


def logged(runs: dict[str, list[dict[str, Any]]]) -> set[str]:
    return {"loss"} | {name for log in runs.values() for row in log for name in row.get("validation", ())}


def draw(panel: Any, name: str, log: list[dict[str, Any]], figure: str) -> bool:
    """Draw one run's line; whether it had any point."""
    if figure == "loss":
        points = [(row["seconds"] / 60, row["loss"]) for row in log if "loss" in row]
        values = [value for _, value in points]
        smooth = [
            sum(values[max(0, i - SMOOTH + 1) : i + 1]) / min(i + 1, SMOOTH) for i in range(len(values))
        ]
        points = [(minutes, value) for (minutes, _), value in zip(points, smooth, strict=True)]
    else:
        points = [
            (row["seconds"] / 60, row["validation"][figure])
            for row in log
            if figure in row.get("validation", ())
        ]
    if points:
        panel.plot(*zip(*points, strict=True), marker="" if figure == "loss" else "o", label=name)
    return bool(points)


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
