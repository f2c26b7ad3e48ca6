"""Is magic search with weights calibrated without a captioned picture as good as with the best of a grid?

    python eval/calibration.py --presets embedded --language_models runs/language_model/best \\
        --references $MAGICAP_DATA/flickr8k/captions.jsonl --split dev \\
        --images $MAGICAP_DATA/flickr8k/images-dev.tar --limit 200 --unpaired 200

Rows of each captioner: alpha, beta and CIDEr-D (times 100) of its settings calibrated on text alone, of those
calibrated with pictures without captions, of the best of the grid, and of the published settings for COCO,
all on the same pictures. The best of the grid is chosen on these very pictures, so it is flattered.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap import Captioner, MagicSearch
from magicap.adaptation.tuning_magic import ALPHAS, BETAS
from magicap.errors import MagicapError
from magicap.evaluation.matching import choose_references
from magicap.evaluation.systems import open_pictures
from magicap.evaluation.tables import aligned
from magicap.metrics import evaluate

_BATCH = 32
HEADER = ("captioner", "settings", "alpha", "beta", "CIDEr-D")


@dataclass(frozen=True)
class Config:
    references: str = field(metadata={"help": "data set of the pictures"})
    images: list[str] = field(metadata={"help": "tar files or folders with the pictures"})
    presets: list[str] = field(
        default_factory=list, metadata={"help": "presets, or folders of zero-shot captioners"}
    )
    language_models: list[str] = field(
        default_factory=list, metadata={"help": "language models, each in place of the default captioner's"}
    )
    split: str | None = field(default=None, metadata={"help": "its split, where it has several"})
    limit: int | None = field(
        default=None, metadata={"help": "the first so many pictures; default: all others"}
    )
    unpaired: int = field(
        default=200, metadata={"help": "the last so many pictures calibrate, without their captions"}
    )
    top_k: int = field(default=45, metadata={"help": "candidates of a step"})
    seed: int = field(default=0, metadata={"help": "of the captions that stand in place of pictures"})


def main(config: Config) -> None:
    rows = choose_references(config.references, config.split)
    if not config.presets and not config.language_models:
        sys.exit("calibration.py: expected captioners; name some with --presets or --language_models")
    others = len(rows) - config.unpaired
    tested, unpaired = rows[: config.limit or max(others, 0)], rows[max(others, 0) :]
    if len(tested) + config.unpaired > len(rows) or not tested:
        sys.exit(
            f"calibration.py: {len(rows)} pictures are too few for {len(tested)} that are captioned and "
            f"{config.unpaired} others; choose a smaller --limit or --unpaired"
        )
    pictures = open_pictures([row.image for row in (*tested, *unpaired)], config.images)
    images = [pictures.read(row.image) for row in tested]
    without_captions = [pictures.read(row.image) for row in unpaired]
    captioners = {preset: partial(Captioner.from_pretrained, preset) for preset in config.presets}
    captioners |= {model: partial(Captioner.from_parts, model) for model in config.language_models}
    lines = []
    for name, load in captioners.items():
        captioner, published = load(), MagicSearch(top_k=config.top_k)
        named = {"calibrated on text": captioner.calibrate(published, seed=config.seed)}
        if without_captions:
            tuned = captioner.calibrate(published, without_captions, seed=config.seed)
            named[f"calibrated, {len(without_captions)} pictures"] = tuned
        grid = [MagicSearch(config.top_k, alpha, beta) for alpha, beta in product(ALPHAS, BETAS)]
        vectors = captioner.scorer.encode_images(images)
        tried = dict.fromkeys([published, *named.values(), *grid])
        scores = {
            settings: score(captions_of(captioner, vectors, settings), [row.captions for row in tested])
            for settings in tqdm(tried, desc=name, disable=not sys.stderr.isatty())
        }
        named |= {"best of grid": max(grid, key=scores.__getitem__), "published": published}
        for kind, settings in named.items():
            weights = f"{settings.alpha:g}", f"{settings.beta:g}"
            lines.append([name, kind, *weights, f"{scores[settings]:.1f}"])
    print(aligned(HEADER, lines))


def captions_of(captioner: Captioner, vectors: Tensor, decoding: Any) -> list[str]:
    """A caption for each of N pictures' vectors (N, D)."""
    batches = vectors.split(_BATCH)
    return [
        str(caption)
        for batch in batches
        for caption in captioner.caption_vectors(batch, decoding, [0] * len(batch))
    ]


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D times 100."""
    return 100 * evaluate(captions, references, metrics=["cider_d"]).scores["CIDEr-D"].value


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"calibration.py: {error}")
