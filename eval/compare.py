"""Several captioners or prediction files on the same images: figures, error bars, baselines, a report.

    python eval/compare.py --references $MAGICAP_DATA/flickr8k/captions.jsonl --split test \\
        --images $MAGICAP_DATA/flickr8k/images-test.tar --training $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --systems magic=embedded theirs=predictions.json --html report.html --csv figures.csv

A system is NAME=FILE (captions, as 'magicap eval' reads them) or NAME=PRESET (a preset or a captioner's
folder, zero-shot or supervised). Captions are kept in --keep as they are made, so a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import HfArgumentParser

from magicap.captioners.base import BaseCaptioner
from magicap.captioners.folder import require_part
from magicap.captioners.load import load_captioner
from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.captioners.zero_shot import Captioner
from magicap.data import CaptionedImage, ImageFiles, normalise_caption, read_sentences
from magicap.errors import BadSettings, MagicapError
from magicap.evaluation.baselines import baseline_decodings, best_constant_caption, training_captions
from magicap.evaluation.comparison import Comparison, System, compare
from magicap.evaluation.matching import assign, choose_references, match, require_complete, split_entry
from magicap.evaluation.predictions import Predictions, read_predictions
from magicap.evaluation.report import html_report
from magicap.evaluation.systems import caption_images, clip_score, open_pictures
from magicap.evaluation.tables import aligned, comparison_csv, comparison_notes, comparison_table, markdown
from magicap.files import require_writable, write_whole
from magicap.metrics import METRICS, Metric, Report, evaluate

load = functools.cache(load_captioner)  # one preset often is a system, a baseline and CLIPScore's model

FORMER_OPTIONS = {"--floors_of": "--baselines_of", "--judge": "--clipscore_model"}
"""Options of an earlier release and their names now."""


def zero_shot(source: str) -> Captioner:
    captioner = load(source)
    assert isinstance(captioner, Captioner)  # Config has refused the others
    return captioner


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
        default=None, metadata={"help": "captions for the baselines (their train split)"}
    )
    baselines_of: str = field(default=DEFAULT, metadata={"help": "whose models make the baselines"})
    clipscore_model: str = field(default=DEFAULT, metadata={"help": "whose scorer gives CLIPScore"})
    against: str | None = field(default=None, metadata={"help": "differences from this one (the first)"})
    metrics: list[str] = field(default_factory=list, metadata={"help": f"some of {', '.join(METRICS)} (all)"})
    title: str | None = field(default=None, metadata={"help": "of the report"})
    limit: int | None = field(default=None, metadata={"help": "only the first so many images"})
    unseen: bool = field(
        default=False, metadata={"help": "leave out images with a reference that stands in --training"}
    )
    partial: bool = field(default=False, metadata={"help": "score images that all systems captioned, marked"})
    keep: str = field(default="runs/compare", metadata={"help": "folder for captions as they are made"})
    html: str | None = field(default=None, metadata={"help": "write the report here"})
    html_grid: bool = field(default=True, metadata={"help": "with pictures, captions and references"})
    csv: str | None = field(default=None, metadata={"help": "write all figures here"})
    markdown: str | None = field(default=None, metadata={"help": "write the table here"})
    confidence: float = field(default=0.95, metadata={"help": "of the intervals"})
    resamples: int = field(default=2000, metadata={"help": "of the bootstrap"})
    batch_size: int = field(default=16, metadata={"help": "pictures searched together"})
    seed: int = field(default=0, metadata={"help": "of searches that sample, and of the bootstrap"})

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise BadSettings(f"--limit must be at least 1, found {self.limit}")
        if unknown := [name for name in self.metrics if name not in METRICS]:
            raise BadSettings(f"no metric {unknown[0]!r}: expected some of {', '.join(METRICS)}")
        if self.unseen and self.training is None:
            raise BadSettings("--unseen leaves out what stands in --training; name that too")
        inputs = [self.references, *(spec.partition("=")[2] for spec in self.systems)]
        for path in (self.html, self.csv, self.markdown):
            if path is not None:
                require_writable(path, inputs)
        require_part(self.baselines_of, "language model")
        require_part(self.clipscore_model, "scorer")


def main(config: Config) -> None:
    sources = named(config.systems)
    files = {name: read_predictions(source) for name, source in sources.items() if Path(source).is_file()}
    rows, about = images_of(config, files)
    against = config.against or next(iter(sources))
    if against not in sources:
        raise BadSettings(f"no system {against!r} to compare against: expected one of {', '.join(sources)}")
    with ExitStack() as opened:
        pictures = None
        if config.images:
            pictures = opened.enter_context(open_pictures([row.image for row in rows], config.images))
        bench = Bench(config, rows, pictures)
        systems = [
            read(name, files[name], rows) if name in files else bench.searched(name, load(source))
            for name, source in sources.items()
        ]
        systems += bench.baselines()
        comparison = compare(
            config.title or default_title(config),
            [row.image for row in rows],
            [row.captions for row in rows],
            systems,
            bench.reports(systems, about),
            against=against,
            confidence=config.confidence,
            resamples=config.resamples,
            seed=config.seed,
        )
        print(aligned(*comparison_table(comparison)) + "\n\n" + comparison_notes(comparison))
        write(config, comparison, pictures)


def named(specs: Sequence[str]) -> dict[str, str]:
    """Name -> file, preset or folder."""
    sources: dict[str, str] = {}
    for spec in specs:
        name, equals, source = spec.partition("=")
        if not (name and equals and source):
            raise BadSettings(f"a system is written NAME=FILE or NAME=PRESET, found {spec!r}")
        if name in sources:
            raise BadSettings(f"systems need names of their own, found {name!r} twice")
        if not Path(source).exists() and source not in PRESETS:
            raise BadSettings(
                f"{name}={source}: expected a file, a captioner's folder or {', '.join(PRESETS)}"
            )
        sources[name] = source
    return sources


def images_of(config: Config, files: dict[str, Predictions]) -> tuple[list[CaptionedImage], dict[str, str]]:
    """The images to compare on, and the entries of signatures about them."""
    references = [predictions.references for predictions in files.values() if predictions.references]
    if config.references is None:
        require_same_references(references)
    rows = choose_references(config.references, config.split, references[0] if references else None)
    compared = {row.image for row in rows[: config.limit]}
    for predictions in files.values():
        captions, unknown = assign(predictions, rows)
        missing = [row.image for row in rows if row.image in compared and row.image not in captions]
        if not config.partial:
            require_complete(predictions, unknown, missing)
        compared -= set(missing)
    if not compared:
        raise BadSettings("the systems have no image in common")
    about = split_entry(rows)
    if len(compared) < len(rows):
        about["partial"] = f"{len(compared)} of {len(rows)} images"
    kept = [row for row in rows if row.image in compared]
    if config.unseen:
        kept = without_training_captions(kept, config)
        about["unseen"] = f"{len(kept)} images, no reference of which stands in {config.training}"
    return kept, about


def without_training_captions(rows: Sequence[CaptionedImage], config: Config) -> list[CaptionedImage]:
    """The images none of whose references is a training caption."""
    training = set(read_sentences(str(config.training)))
    kept = [row for row in rows if training.isdisjoint(map(normalise_caption, row.captions))]
    if not kept:
        raise BadSettings(f"every image has a reference that stands in {config.training}")
    return kept


def require_same_references(references: Sequence[Sequence[CaptionedImage]]) -> None:
    """Refuse files that bring different references of an image."""
    first = {row.image: row.captions for row in references[0]} if references else {}
    for others in references[1:]:
        if any(first.get(row.image, row.captions) != row.captions for row in others):
            raise BadSettings("the files bring different references: give the data set's with --references")


def read(name: str, predictions: Predictions, rows: Sequence[CaptionedImage]) -> System:
    scored = match(predictions, rows, partial=True)  # images_of has refused what is incomplete
    return System(name, scored.candidates, about=predictions.about, finished=scored.finished)


def default_title(config: Config) -> str:
    source = config.references or config.systems[0].partition("=")[2]
    return f"{Path(source).resolve().parent.name} {config.split or ''}".strip()


@dataclass(frozen=True)
class Bench:
    """What captioners are run and scored on."""

    config: Config
    rows: Sequence[CaptionedImage]
    pictures: ImageFiles | None

    def searched(
        self, name: str, captioner: BaseCaptioner[Any], decoding: Any = None, *, baseline: bool = False
    ) -> System:
        if self.pictures is None:
            raise BadSettings(f"{name} captions pictures: give their tar files or folders with --images")
        with tqdm(total=len(self.rows), desc=name, unit="picture", disable=None) as bar:
            system = caption_images(
                name,
                captioner,
                decoding or captioner.decoding,
                [row.image for row in self.rows],
                self.pictures,
                batch_size=self.config.batch_size,
                seed=self.config.seed,
                keep=Path(self.config.keep),
                on_progress=bar.update,
            )
        return replace(system, baseline=baseline)

    def baselines(self) -> list[System]:
        """Every baseline that the options allow; the others are named on stderr."""
        if self.config.training is None:
            print("compare.py: no baselines: they need training captions (--training)", file=sys.stderr)
            return []
        training = training_captions(self.config.training, [row.image for row in self.rows])
        constant = best_constant_caption(training)
        about = {"caption": constant}
        systems = [System("best constant caption", [constant] * len(self.rows), baseline=True, about=about)]
        if self.pictures is None:
            print("compare.py: no baselines of search and retrieval: they need --images", file=sys.stderr)
            return systems
        captioner = zero_shot(self.config.baselines_of)
        return systems + [
            self.searched(name, captioner, decoding, baseline=True)
            for name, decoding in baseline_decodings(captioner, training).items()
        ]

    def reports(self, systems: Sequence[System], about: dict[str, str]) -> list[Report]:
        extra_metrics: dict[str, Metric] = {}
        if self.pictures is not None:
            scorer = zero_shot(self.config.clipscore_model).scorer
            extra_metrics["CLIPScore"] = clip_score(scorer, [row.image for row in self.rows], self.pictures)
        references = [row.captions for row in self.rows]
        metrics = self.config.metrics or None
        return [
            evaluate(
                system.captions,
                references,
                metrics=metrics,
                extra_metrics=extra_metrics,
                finished=system.finished,
                about={**about, **(system.about or {})},
            )
            for system in tqdm(systems, desc="scores", unit="system", disable=None)
        ]


def write(config: Config, comparison: Comparison, pictures: ImageFiles | None) -> None:
    if config.csv is not None:
        write_whole(config.csv, comparison_csv(comparison))
    if config.markdown is not None:
        table = markdown(*comparison_table(comparison))
        write_whole(config.markdown, f"{table}\n\n{comparison_notes(comparison)}\n")
    if config.html is not None:
        picture = pictures.read if pictures is not None and config.html_grid else None
        write_whole(config.html, html_report(comparison, picture, grid=config.html_grid))


def with_names_of_now(arguments: Sequence[str]) -> list[str]:
    """Arguments with the names that options have now; a notice on stderr for each that was renamed."""
    renamed = []
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if option in FORMER_OPTIONS:
            now = FORMER_OPTIONS[option]
            print(
                f"compare.py: {option} is now {now}; the old name goes with the next release", file=sys.stderr
            )
            option = now
        renamed.append(f"{option}{equals}{value}")
    return renamed


if __name__ == "__main__":
    try:
        arguments = with_names_of_now(sys.argv[1:])
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses(args=arguments))
    except MagicapError as error:
        sys.exit(f"compare.py: {error}")
    except KeyboardInterrupt:
        sys.exit("compare.py: interrupted; the same command goes on from here")
