"""Several captioners or prediction files on the same images: figures, error bars, floors, and a report.

    python eval/compare.py --references $MAGICAP_DATA/flickr8k/captions.jsonl --split test \\
        --images $MAGICAP_DATA/flickr8k/images-test.tar --training $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --systems magic=embedded theirs=predictions.json --html report.html --csv figures.csv

A system is NAME=FILE (predictions, as 'magicap eval' reads them) or NAME=PRESET (a preset or a captioner's
folder). Captions are kept in --keep as they are made, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from magicap.evaluation.report import html_report
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap.captioner import Captioner
from magicap.data import CaptionedImage, ImageFiles, read_captions
from magicap.decoding.settings import Decoding
from magicap.errors import BadSettings, MagicapError
from magicap.evaluation.comparison import Comparison, System, compare
from magicap.evaluation.floors import best_constant_caption, floor_decodings
from magicap.evaluation.predictions import Predictions, match, read_predictions
from magicap.evaluation.systems import captioned, clip_score
from magicap.evaluation.tables import aligned, comparison_csv, comparison_notes, comparison_table, markdown
from magicap.metrics import METRICS, Metric, Report, evaluate
from magicap.presets import DEFAULT


@dataclass(frozen=True)
class Config:
    systems: list[str] = field(metadata={"help": "NAME=FILE or NAME=PRESET, any number"})
    references: str | None = field(
        default=None,
        metadata={"help": "the images' captions, in any form magicap.data reads (the first file's)"},
    )
    split: str | None = field(default=None, metadata={"help": "choose on dev, report on test once"})
    images: list[str] = field(
        default_factory=list, metadata={"help": "tar files or folders with the pictures"}
    )
    training: str | None = field(
        default=None, metadata={"help": "captions for the floors (their train split)"}
    )
    floors_of: str = field(default=DEFAULT, metadata={"help": "whose models make the floors"})
    judge: str | None = field(default=DEFAULT, metadata={"help": "whose scorer gives CLIPScore"})
    against: str | None = field(default=None, metadata={"help": "differences from this one (the first)"})
    metrics: list[str] = field(default_factory=list, metadata={"help": f"some of {', '.join(METRICS)} (all)"})
    title: str | None = field(default=None, metadata={"help": "of the report"})
    limit: int | None = field(default=None, metadata={"help": "only the first so many images"})
    partial: bool = field(default=False, metadata={"help": "score images that all systems captioned, marked"})
    keep: str = field(default="runs/compare", metadata={"help": "folder for captions as they are made"})
    html: str | None = field(default=None, metadata={"help": "write the report here"})
    html_grid: bool = field(default=True, metadata={"help": "with pictures, captions and references"})
    csv: str | None = field(default=None, metadata={"help": "write all figures here"})
    markdown: str | None = field(default=None, metadata={"help": "write the table here"})
    confidence: float = field(default=0.95, metadata={"help": "of the intervals"})
    resamples: int = field(default=2000, metadata={"help": "of the bootstrap"})
    batch_size: int = field(default=16, metadata={"help": "pictures searched together"})
    seed: int = field(default=0, metadata={"help": "of searches that draw, and of the bootstrap"})


def main(config: Config) -> None:
    sources = dict(named(spec) for spec in config.systems)
    files = {name: read_predictions(source) for name, source in sources.items() if Path(source).is_file()}
    rows, about = images_of(config, files)
    systems = [
        read(name, files[name], rows)
        if name in files
        else searched(name, Captioner.from_pretrained(source), rows, config)
        for name, source in sources.items()
    ]
    systems += floors(config, rows)
    comparison = compare(
        config.title
        or f"{Path(config.references or sources[systems[0].name]).parent.name} {config.split or ''}",
        [row.image for row in rows],
        [row.captions for row in rows],
        systems,
        reports(config, rows, systems, about),
        against=config.against or systems[0].name,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=config.seed,
    )
    print(aligned(*comparison_table(comparison)) + "\n\n" + comparison_notes(comparison))
    write(config, comparison)


def named(spec: str) -> tuple[str, str]:
    name, equals, source = spec.partition("=")
    if not (name and equals and source):
        raise BadSettings(f"a system is written NAME=FILE or NAME=PRESET, found {spec!r}")
    return name, source


def images_of(config: Config, files: dict[str, Predictions]) -> tuple[list[CaptionedImage], dict[str, str]]:
    """The images to compare on, and what signatures must say of them."""
    own = [predictions.references for predictions in files.values() if predictions.references]
    if config.references is not None:
        rows = read_captions(config.references, config.split)
    elif own:
        rows = list(own[0])
    else:
        raise BadSettings("no system brings its references: give the data set's with --references")
    if not rows:
        raise BadSettings(f"{config.references} has no split {config.split!r}")
    wanted = rows[: config.limit]
    if config.partial:
        everywhere = [set(match(file, rows, partial=True).images) for file in files.values()]
        wanted = [row for row in wanted if all(row.image in images for images in everywhere)]
    splits = sorted({row.split for row in rows if row.split})
    about = {"split": "+".join(splits)} if splits else {}
    if len(wanted) < len(rows):
        about["partial"] = f"{len(wanted)} of {len(rows)} images"
    return wanted, about


def read(name: str, predictions: Predictions, rows: Sequence[CaptionedImage]) -> System:
    wanted = {row.image for row in rows}
    scored = match(predictions, rows, partial=True)
    if set(scored.images) != wanted:
        match(predictions, rows)  # which says what is missing
    return System(
        name, scored.candidates, about={"model": predictions.model or Path(predictions.source).name}
    )


def searched(
    name: str,
    captioner: Captioner,
    rows: Sequence[CaptionedImage],
    config: Config,
    decoding: Decoding | None = None,
    *,
    floor: bool = False,
) -> System:
    if not config.images:
        raise BadSettings(f"{name} captions pictures: give their tar files or folders with --images")
    with tqdm(total=len(rows), desc=name, unit="picture", disable=None) as bar:
        system = captioned(
            name,
            captioner,
            decoding or captioner.decoding,
            [row.image for row in rows],
            config.images,
            batch_size=config.batch_size,
            seed=config.seed,
            kept=Path(config.keep, f"{name}.jsonl"),
            progress=bar.update,
        )
    return replace(system, floor=floor)


def floors(config: Config, rows: Sequence[CaptionedImage]) -> list[System]:
    """Every floor that what was given allows; the others are named on stderr."""
    if config.training is None:
        print("magicap: no floors: they need training captions (--training)", file=sys.stderr)
        return []
    training = read_captions(config.training, "train")
    constant = best_constant_caption(training)
    found = [System("best constant caption", [constant] * len(rows), floor=True, about={"caption": constant})]
    if not config.images:
        print("magicap: no floors of search and retrieval: they need pictures (--images)", file=sys.stderr)
        return found
    captioner = Captioner.from_pretrained(config.floors_of)
    return found + [
        searched(name, captioner, rows, config, decoding, floor=True)
        for name, decoding in floor_decodings(captioner, training).items()
    ]


def reports(
    config: Config, rows: Sequence[CaptionedImage], systems: Sequence[System], about: dict[str, str]
) -> list[Report]:
    more: dict[str, Metric] = {}
    if config.images and config.judge is not None:
        scorer = Captioner.from_pretrained(config.judge).scorer
        more["clipscore"] = clip_score(scorer, [row.image for row in rows], config.images)
    references = [row.captions for row in rows]
    return [
        evaluate(
            system.captions,
            references,
            metrics=config.metrics or None,
            more=more,
            about={**about, **(system.about or {})},
        )
        for system in tqdm(systems, desc="scores", unit="system", disable=None)
    ]


def write(config: Config, comparison: Comparison) -> None:
    if config.csv is not None:
        Path(config.csv).write_text(comparison_csv(comparison), encoding="utf-8")
    if config.markdown is not None:
        table = markdown(*comparison_table(comparison))
        Path(config.markdown).write_text(f"{table}\n\n{comparison_notes(comparison)}\n", encoding="utf-8")
    if config.html is not None:
        with ExitStack() as opened:
            picture = None
            if config.images and config.html_grid:
                picture = opened.enter_context(ImageFiles(config.images)).read
            page = html_report(comparison, picture, grid=config.html_grid)
        Path(config.html).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"compare.py: {error}")
