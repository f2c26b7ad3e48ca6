"""How sure a captioner is, and whether it is right: figures and a reliability diagram.

    python eval/confidence.py --preset embedded --out docs/confidence.svg --splits val test \\
        --references $MAGICAP_DATA/coco/captions.jsonl $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/coco/images-val.tar $MAGICAP_DATA/flickr8k/images-test.tar

A caption is right when its CIDEr-D, by the corpus of its own data set, is above 50 (of 100 times CIDEr-D).
All data sets are rated together, then each alone. Intervals are of a bootstrap over the pictures. Of few
pictures the calibration error is above 0 even where the confidence is exact, and more so in a bootstrap.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import numpy as np
from transformers import HfArgumentParser

from magicap import load_captioner
from magicap.captioners.presets import DEFAULT
from magicap.drawing import require_drawable, save_drawing
from magicap.errors import BadSettings, MagicapError
from magicap.evaluation.matching import choose_references
from magicap.evaluation.reliability import (
    FIGURES,
    KEPT,
    Rated,
    bootstrap_interval,
    kept_threshold,
    reliability_bins,
    reliability_diagram,
)
from magicap.evaluation.systems import open_pictures
from magicap.metrics import cider_d
from magicap.training.progress import progress


@dataclass(frozen=True)
class Config:
    references: list[str] = field(metadata={"help": "data sets with the references"})
    images: list[str] = field(metadata={"help": "tar files or folders of their pictures"})
    splits: list[str] = field(metadata={"help": "the split of each data set"})
    preset: str = field(default=DEFAULT, metadata={"help": "a preset or a captioner's folder"})
    out: str | None = field(default=None, metadata={"help": "the diagram: a .png, .svg or .pdf file"})
    resamples: int = field(default=2000, metadata={"help": "resamples of the bootstrap"})
    seed: int = field(default=0, metadata={"help": "seed of the bootstrap"})
    device: str | None = field(default=None, metadata={"help": "where the models run"})


def main(config: Config) -> None:
    if len(config.splits) != len(config.references):
        raise BadSettings(f"--splits: expected {len(config.references)}, one for each of --references")
    if config.out:
        require_drawable(config.out, [*config.references, *config.images])
    sets = rated_sets(config)
    together = Rated(
        np.concatenate([rated.confidence for rated in sets.values()]),
        np.concatenate([rated.cider_d for rated in sets.values()]),
    )
    print_figures({"all": together, **sets} if len(sets) > 1 else sets, config)
    print(
        f"\n{100 * KEPT:.0f} % of all are kept at a confidence of {kept_threshold(together):.3f}; groups:\n"
    )
    print("| confidence | right | n |\n|--:|--:|--:|")
    for one in reliability_bins(together):
        print(f"| {one.confidence:.3f} | {one.right:.3f} | {one.count} |")
    if config.out:
        save_drawing(lambda: reliability_diagram(together), config.out)


def rated_sets(config: Config) -> dict[str, Rated]:
    """The captions of every data set, by the data set and its split."""
    captioner = load_captioner(config.preset, device=config.device)
    if not captioner.knows_confidence():
        raise BadSettings(
            f"{config.preset} does not know how sure it is; recipes/calibrate_confidence.py fits that"
        )
    sets = {}
    for path, split in zip(config.references, config.splits, strict=True):
        rows = choose_references(path, split)
        pictures = open_pictures([row.image for row in rows], config.images)
        captions = []
        with progress(len(rows), f"captioning {split}", unit="picture") as bar:
            for caption in captioner.caption(pictures.read(row.image) for row in rows):
                if caption.error is not None:
                    raise caption.error
                captions.append(caption)
                bar.update(1)
        score = cider_d([caption.text for caption in captions], [row.captions for row in rows])["CIDEr-D"]
        sets[f"{path}, {split}"] = Rated(
            np.array([caption.confidence for caption in captions]), np.asarray(score.per_image)
        )
    return sets


def print_figures(sets: dict[str, Rated], config: Config) -> None:
    """A row each: figures with their intervals."""
    print("| pictures | n | right | mean confidence | " + " | ".join(FIGURES) + " |")
    print("|---" + "|--:" * (len(FIGURES) + 3) + "|")
    for name, rated in sets.items():
        cells = [f"{100 * rated.right.mean():.1f} %", f"{100 * rated.confidence.mean():.1f} %"]
        for figure in FIGURES.values():
            low, high = bootstrap_interval(rated, figure, config.resamples, config.seed)
            cells.append(f"{figure(rated):.3f} ({low:.3f} to {high:.3f})")
        print(f"| {name} | {len(rated.confidence)} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"confidence.py: {error}")
