"""``magicap eval``: the figures of a file of captions."""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from magicap.commands.shared import load_captioner
from magicap.data import CaptionedImage, read_captions
from magicap.errors import BadData, BadSettings
from magicap.evaluation.predictions import Predictions, Scored, match, read_predictions
from magicap.evaluation.tables import aligned
from magicap.metrics import METRICS, Metric, Report
from magicap.metrics import evaluate as score
from magicap.presets import DEFAULT, PRESETS


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "eval",
        help="score captions against references",
        description="Score captions against references: BLEU, METEOR, ROUGE-L, CIDEr-D, SPICE, CLIPScore,\n"
        "diversity. Metrics that cannot be computed here are named with the reason; they are never 0.",
        epilog="predictions: JSON lines of 'magicap caption --json', COCO result JSON, or lists of\n"
        "{image_name, captions, prediction}, which bring their references.\n"
        "references: captions.jsonl, Karpathy JSON, COCO annotation JSON, Flickr8k.token.txt, or a folder\n"
        "of images with metadata.jsonl.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("predictions", metavar="FILE", help="captions that some captioner wrote")
    parser.add_argument("--references", metavar="FILE|FOLDER", help="the images' reference captions")
    parser.add_argument("--split", help="which split of the references: test, val, dev, train")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", choices=METRICS, help=f"some of {', '.join(METRICS)} (all)"
    )
    parser.add_argument(
        "--images", nargs="+", metavar="TAR|FOLDER", help="the pictures, which CLIPScore needs"
    )
    parser.add_argument(
        "--judge", default=DEFAULT, metavar="NAME|FOLDER",
        help=f"whose scorer gives CLIPScore: {', '.join(PRESETS)} or a captioner's folder (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--partial", action="store_true", help="score an incomplete set too, and mark its figures"
    )
    parser.add_argument(
        "--json", action="store_true", help="values, signatures and reasons as one JSON object"
    )
    parser.add_argument("--per-image", metavar="CSV", help="write every image's own scores here")


def run(options: argparse.Namespace) -> int:
    """Read and match everything before anything is computed, then print the figures."""
    predictions = read_predictions(options.predictions)
    scored = match(predictions, _references(predictions, options), partial=options.partial)
    if options.per_image:
        _refuse_unwritable(Path(options.per_image))
    about = {"model": predictions.model or f"file-{_digest(options.predictions)}", **scored.about}
    report = score(
        scored.candidates,
        scored.references,
        metrics=options.metrics,
        more=_clip_score(scored, options),
        about=about,
    )
    if options.per_image:
        _write_per_image(Path(options.per_image), scored, report)
    _print(report, scored, as_json=options.json)
    return 0


def _references(predictions: Predictions, options: argparse.Namespace) -> Sequence[CaptionedImage]:
    if options.references is None:
        if predictions.references is None:
            raise BadSettings(
                f"{predictions.source} brings no references: give the data set's with --references"
            )
        return predictions.references
    rows = read_captions(options.references, None if options.split is None else (options.split,))
    splits = sorted({row.split for row in rows})
    if len(splits) > 1:
        raise BadSettings(f"{options.references} holds the splits {', '.join(splits)}: name one with --split")
    return rows


def _clip_score(scored: Scored, options: argparse.Namespace) -> dict[str, Metric]:
    if not options.images:
        return {}
    from magicap.evaluation.systems import clip_score

    return {"clipscore": clip_score(load_captioner(options.judge).scorer, scored.images, options.images)}


def _print(report: Report, scored: Scored, *, as_json: bool) -> None:
    if as_json:
        scores = {
            name: {"value": value.value, "signature": dict(value.signature)}
            for name, value in report.scores.items()
        }
        print(json.dumps({"n": len(scored.images), "scores": scores, "absent": report.absent}, indent=2))
        return
    rows = [[name, value.shown, value.signature_text] for name, value in report.scores.items()]
    print(
        aligned(["metric", "score", "signature"], [[name, shown, f" {line}"] for name, shown, line in rows])
    )
    for name, reason in report.absent.items():
        print(f"magicap: {name} is absent: {reason}", file=sys.stderr)
    if "partial" in scored.about:
        print(
            f"magicap: partial: {scored.about['partial']}; figures of other sets do not compare",
            file=sys.stderr,
        )


def _write_per_image(path: Path, scored: Scored, report: Report) -> None:
    columns = {name: value.per_image for name, value in report.scores.items() if value.per_image is not None}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption", *columns])
        for i, (image, caption) in enumerate(zip(scored.images, scored.candidates, strict=True)):
            writer.writerow([image, caption, *(f"{values[i]:.6g}" for values in columns.values())])


def _refuse_unwritable(path: Path) -> None:
    """Before minutes of work, not after."""
    try:
        path.open("a").close()
    except OSError as error:
        raise BadData(f"{path} cannot be written: {error.strerror}; name another file") from error


def _digest(path: str) -> str:
    return hashlib.blake2b(Path(path).read_bytes(), digest_size=6).hexdigest()
