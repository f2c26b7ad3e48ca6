"""Choose how a captioner searches: the settings of beam magic search with the best CIDEr-D on dev pictures.

    python recipes/choose_decoding.py --base runs/soft_prompt --out runs/chosen \\
        --captions dataset_coco.json --images val2014
    magicap caption photo.jpg --preset runs/chosen

First --neighbours with --temperatures, then --ngram_weights, then --rerank_weights, each beside the best so
far. Captions are kept in <out>/dev as they are made: a second run of the same command goes on. Without
pictures neighbours and temperature alone are chosen, on captions of the memory that stand for pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

from cli import run

from magicap import BeamMagicSearch, Captioner
from magicap.adaptation.tuning import tune_decoding
from magicap.captioners.presets import DEFAULT
from magicap.checks import require_int
from magicap.data import CaptionedImage, ImageFiles
from magicap.decoding.searches import as_beam_magic
from magicap.decoding.settings import DECODINGS
from magicap.errors import BadSettings
from magicap.evaluation.systems import caption_images, open_pictures
from magicap.files import write_whole
from magicap.metrics import evaluate
from magicap.settings_io import to_dict
from magicap.training.pairs import read_captioned_images
from magicap.training.progress import progress

KEPT = "dev"
"""Folder, in the new captioner's, of the captions by each setting and their figures."""


@dataclass(frozen=True)
class Grid:
    """What is tried; a recipe inherits these fields as options."""

    neighbours: list[int] = field(default_factory=lambda: [200, 400, 800])
    """Numbers of captions of the memory that are tried as the evidence of a picture."""

    temperatures: list[float] = field(default_factory=lambda: [1.0, 2.0])
    """Temperatures of the evidence's weights that are tried, in standard deviations of its cosines."""

    ngram_weights: list[float] = field(default_factory=lambda: [0.1, 0.25, 0.5])
    """Weights of the retrieval n-gram model that are tried, 0 to 1."""

    rerank_weights: list[float] = field(default_factory=lambda: [0.0, 2.0, 4.0])
    """Weights of the picture when the caption is chosen that are tried, 0 to 10."""

    def __post_init__(self) -> None:
        for combination in self.rounds():
            for changes in combination:
                replace(BeamMagicSearch(), **changes)  # refuses what is out of its range

    def rounds(self) -> list[list[dict[str, Any]]]:
        """The settings that are tried together, round after round."""
        evidence = product(self.neighbours, self.temperatures)
        return [
            [{"neighbours": count, "temperature": temperature} for count, temperature in evidence],
            [{"ngram_weight": weight} for weight in self.ngram_weights],
            [{"rerank_weight": weight} for weight in self.rerank_weights],
        ]


@dataclass(frozen=True)
class Config(Grid):
    out: str = field(kw_only=True)
    """Folder of the captioner with the settings that were chosen."""

    base: str = DEFAULT
    """Preset or folder of the captioner, which must have a memory."""

    captions: str | None = None
    """Data set with captioned pictures that the captioner did not learn from."""

    images: list[str] = field(default_factory=list)
    """Folders or tar files with its pictures; default: none, and the settings are chosen on the memory."""

    split: str = "dev"
    """Split of the data set that is read."""

    limit: int = 500
    """The most pictures that are captioned, the first of the split."""

    batch_size: int = 16
    """Number of pictures that are captioned together."""

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the stored weights."""

    seed: int = 1
    """Seed of the captions that stand for pictures, and of their noise."""

    cpu: bool = False
    """Stay on the CPU even where a GPU is at hand."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int("--limit", self.limit, least=2)
        require_int("--batch_size", self.batch_size)
        if self.images and self.captions is None:
            raise BadSettings("--images are compared by people's captions of them: give --captions too")


def main(config: Config) -> None:
    captioner = Captioner.from_pretrained(config.base, device="cpu" if config.cpu else None)
    if captioner.memory is None:
        raise BadSettings(
            f"expected a captioner with a memory, found {config.base} without; "
            "recipes/assemble_captioner.py makes one"
        )
    settings = as_beam_magic(captioner.decoding)
    if config.images:
        captioner.decoding = chosen_on_pictures(captioner, settings, config)
    else:
        captioner.decoding = tune_decoding(settings, captioner.memory, seed=config.seed)
    captioner.save_pretrained(config.out, dtype=config.dtype)
    print(captioner.decoding)


def chosen_on_pictures(captioner: Captioner, settings: BeamMagicSearch, config: Config) -> BeamMagicSearch:
    """The settings with the best CIDEr-D on dev pictures; the figures of all go into a file."""
    rows = read_captioned_images(str(config.captions), (config.split,))[: config.limit]
    tried: dict[BeamMagicSearch, float] = {}
    best = settings
    rounds = config.rounds()
    with (
        open_pictures([row.image for row in rows], config.images) as pictures,
        progress(sum(map(len, rounds)) * len(rows), "captioning dev", unit="picture") as bar,
    ):
        for changes in rounds:
            for decoding in (replace(best, **change) for change in changes):
                if decoding in tried:
                    bar.update(len(rows))
                else:
                    tried[decoding] = cider_d(captioner, decoding, rows, pictures, config, bar.update)
            best = max(tried, key=lambda decoding: tried[decoding])
    lines = [
        json.dumps({"cider_d": value, **to_dict(decoding, DECODINGS)}, allow_nan=False)
        for decoding, value in tried.items()
    ]
    write_whole(Path(config.out, KEPT, "figures.jsonl"), "\n".join(lines) + "\n")
    return best


def cider_d(
    captioner: Captioner,
    decoding: BeamMagicSearch,
    rows: Sequence[CaptionedImage],
    pictures: ImageFiles,
    config: Config,
    on_progress: Callable[[int], object],
) -> float:
    """CIDEr-D, 0 to 10, of one decoding on dev pictures."""
    system = caption_images(
        "dev",
        captioner,
        decoding,
        [row.image for row in rows],
        pictures,
        batch_size=config.batch_size,
        keep=Path(config.out, KEPT),
        on_progress=on_progress,
    )
    scores = evaluate(system.captions, [row.captions for row in rows], metrics=["cider_d"]).scores
    return scores["CIDEr-D"].value


if __name__ == "__main__":
    run(main, Config)
