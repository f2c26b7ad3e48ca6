"""At which cosine a pair is taken for near-duplicates: how many changed copies are found, and what else is.

    python eval/near_duplicates.py --images $MAGICAP_DATA/flickr8k/images-dev.tar --copies 200

Every picture is compared with every other, and the first --copies of them with changed copies of themselves.
Pairs of different pictures that reach a threshold are counted as false, though some are of one scene.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from PIL import Image
from transformers import HfArgumentParser

from magicap.captioners.presets import EMBEDDED
from magicap.data import ImageFiles
from magicap.evaluation.tables import aligned
from magicap.images.reader import open_image
from magicap.models.scorer import ImageTextScorer


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders of pictures"})
    copies: int = field(default=200, metadata={"help": "how many pictures are copied in each way"})
    limit: int | None = field(default=None, metadata={"help": "only the first so many pictures"})
    scorer: str = field(default=str(EMBEDDED / "scorer"), metadata={"help": "scorer's folder"})
    thresholds: list[float] = field(
        default_factory=lambda: [0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99], metadata={"help": "cosines"}
    )


def compressed(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


def smaller(picture: Image.Image) -> Image.Image:
    return picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))


def cropped(picture: Image.Image) -> Image.Image:
    x, y = picture.width // 20, picture.height // 20
    return picture.crop((x, y, picture.width - x, picture.height - y))


def mirrored(picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 30": compressed,
    "half the size": smaller,
    "5 % cut off each side": cropped,
    "mirrored": mirrored,
}


def main(config: Config) -> None:
    scorer = ImageTextScorer.from_pretrained(config.scorer)
    with ImageFiles(config.images) as files:
        pictures = [files.read(name) for name in list(files)[: config.limit]]
    vectors = torch.cat(
        [scorer.encode_images(pictures[n : n + 64]) for n in range(0, len(pictures), 64)]
    ).float()
    others = (vectors @ vectors.T).triu(diagonal=1)
    copied = {}
    for name, change in CHANGES.items():
        copies = scorer.encode_images(
            [change(open_image(data)) for data in pictures[: config.copies]]
        ).float()
        copied[name] = (vectors[: config.copies] * copies).sum(dim=1)
    print(f"{scorer.fingerprint}, n = {len(pictures)} pictures, {len(next(iter(copied.values())))} copied")
    table = [
        [
            f"{threshold:g}",
            *(f"{100 * float((cosines >= threshold).float().mean()):.1f} %" for cosines in copied.values()),
            f"{int((others >= threshold).sum()):,}",
        ]
        for threshold in config.thresholds
    ]
    print(aligned(("cosine", *copied, "other pairs"), table))


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
