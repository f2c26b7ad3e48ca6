"""Is magic search with weights calibrated without a captioned picture as good as with the best of a grid?

    python eval/calibration.py --presets embedded unpaired runs/mine \\
        --references $MAGICAP_DATA/flickr8k/captions.jsonl --split dev \\
        --images $MAGICAP_DATA/flickr8k/images-dev.tar --limit 100

Rows of each captioner: alpha, beta and CIDEr-D (times 100) of its calibrated settings, of the best of the
grid, and of the published settings for COCO, all on the same pictures. The best of the grid is chosen on
these very pictures, so it is flattered.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from tqdm import tqdm
from transformers import HfArgumentParser

from magicap import Captioner, MagicSearch
from magicap.adaptation.tuning_magic import ALPHAS, BETAS
from magicap.errors import MagicapError
from magicap.evaluation.matching import choose_references
from magicap.evaluation.systems import open_pictures
from magicap.evaluation.tables import aligned
from magicap.metrics import evaluate

HEADER = ("captioner", "settings", "alpha", "beta", "CIDEr-D")


@dataclass(frozen=True)
class Config:
    presets: list[str] = field(metadata={"help": "presets, or folders of zero-shot captioners"})
    references: str = field(metadata={"help": "data set of the pictures"})
    images: list[str] = field(metadata={"help": "tar files or folders with the pictures"})
    split: str | None = field(default=None, metadata={"help": "its split, where it has several"})
    limit: int | None = field(default=None, metadata={"help": "the first so many pictures"})
    top_k: int = field(default=45, metadata={"help": "candidates of a step"})
    seed: int = field(default=0, metadata={"help": "of the captions that stand in place of pictures"})


def main(config: Config) -> None:
    rows = choose_references(config.references, config.split)[: config.limit]
    pictures = open_pictures([row.image for row in rows], config.images)
    images = [pictures.read(row.image) for row in rows]
    references = [row.captions for row in rows]
    lines = []
    for preset in config.presets:
        captioner = Captioner.from_pretrained(preset)
        published = MagicSearch(top_k=config.top_k)
        tuned = captioner.calibrate(published, seed=config.seed)
        grid = [MagicSearch(config.top_k, alpha, beta) for alpha, beta in product(ALPHAS, BETAS)]
        tried = dict.fromkeys([published, tuned, *grid])
        scores = {
            settings: score(captioner, settings, images, references)
            for settings in tqdm(tried, desc=preset, disable=not sys.stderr.isatty())
        }
        best = max(grid, key=scores.__getitem__)
        for name, settings in (("calibrated", tuned), ("best of grid", best), ("published", published)):
            weights = f"{settings.alpha:g}", f"{settings.beta:g}"
            lines.append([preset, name, *weights, f"{scores[settings]:.1f}"])
    print(aligned(HEADER, lines))


def score(
    captioner: Captioner, settings: MagicSearch, images: Sequence[bytes], references: Sequence[Sequence[str]]
) -> float:
    """CIDEr-D times 100."""
    captions = [str(caption) for caption in captioner.caption(list(images), settings)]
    return 100 * evaluate(captions, references, metrics=["cider_d"]).scores["CIDEr-D"].value


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"calibration.py: {error}")
