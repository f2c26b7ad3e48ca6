"""Recall of a scorer on a split, picture to text and text to picture, and what re-ranking makes of it.

    python eval/retrieval.py --captions $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-dev.tar --fine_grained runs/fine_grained/best

The global score is the cosine of whole picture and whole text. Fine-grained matching, where there is a folder
of it, scores the first few candidates of each query anew; the others stay behind them in their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import HfArgumentParser

from magicap.captioners.presets import EMBEDDED
from magicap.data import ImageFiles, normalise_caption, read_captions
from magicap.evaluation.tables import aligned
from magicap.metrics.retrieval import retrieval_recall
from magicap.models.fine_grained.scorer import FineGrainedScorer
from magicap.models.scorer import ImageTextScorer

RANKS = (1, 5, 10)
HEADER = ("score", *(f"{way} R@{k}" for way in ("to text", "to picture") for k in RANKS))


@dataclass(frozen=True)
class Config:
    captions: str = field(metadata={"help": "data set of any form that magicap.data reads"})
    images: list[str] = field(metadata={"help": "tar files or folders that hold the split's pictures"})
    split: str = field(default="dev", metadata={"help": "choose on dev, report on test once"})
    scorer: str = field(
        default=str(EMBEDDED / "scorer"), metadata={"help": "scorer's folder, hf-hub: id or open_clip name"}
    )
    tag: str | None = field(default=None, metadata={"help": "its weights' tag, where the scorer is a name"})
    fine_grained: str | None = field(
        default=None,
        metadata={"help": "folder that recipes/train_fine_grained.py wrote; none: no re-ranking"},
    )
    top: list[int] = field(
        default_factory=lambda: [20, 50], metadata={"help": "how many candidates are re-ranked"}
    )
    whole: bool = field(default=False, metadata={"help": "fine-grained score of all pairs too (slow)"})
    limit: int | None = field(default=None, metadata={"help": "only the first so many pictures"})


def main(config: Config) -> None:
    rows = [row for row in read_captions(config.captions, (config.split,)) if row.captions][: config.limit]
    if not rows:
        raise SystemExit(f"{config.captions} has no captions of the split {config.split!r}")
    scorer = ImageTextScorer.from_pretrained(config.scorer, config.tag)
    texts = [normalise_caption(text) for row in rows for text in row.captions]
    owner = torch.tensor([number for number, row in enumerate(rows) for _ in row.captions])
    with ImageFiles(config.images) as files:
        pictures = [files.read(row.image) for row in rows]
    if config.fine_grained is None:
        cosines = scorer.encode_images(pictures) @ scorer.encode_texts(texts).T
        table = [line("global", cosines, owner)]
    else:
        fine = FineGrainedScorer.from_pretrained(config.fine_grained, scorer)
        table = fine_grained_lines(config, fine, pictures, texts, owner)
    name = config.scorer if config.tag is None else f"{config.scorer} ({config.tag})"
    size = f"n = {len(rows)} pictures and {len(texts)} texts"
    print(f"{Path(name).name} {scorer.fingerprint}, {config.split}, {size}")
    print(aligned(HEADER, table))


def fine_grained_lines(
    config: Config, fine: FineGrainedScorer, pictures: Sequence[bytes], texts: Sequence[str], owner: Tensor
) -> list[list[str]]:
    """The global score, re-ranked with each number of candidates, and all pairs if asked for."""
    images, words = fine.encode_images(pictures), fine.encode_texts(texts)
    table = [line("global", images.vectors @ words.vectors.T, owner)]
    for top in config.top:
        to_text, to_picture = fine.rerank(images, words, top)
        table.append(line(f"first {top} re-ranked", to_text, owner, to_picture))
    if config.whole:
        table.append(line("all re-ranked", fine.compare(images, words), owner))
    return table


def line(name: str, similarity: Tensor, owner: Tensor, text_to_image: Tensor | None = None) -> list[str]:
    figures = retrieval_recall(similarity, owner.to(similarity.device), RANKS, text_to_image=text_to_image)
    ways = ("image_to_text", "text_to_image")
    return [name, *(f"{figures[f'{way}_r{k}']:.1f}" for way in ways for k in RANKS)]


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
