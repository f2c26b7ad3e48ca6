"""Does a caption say what is special about its picture? Distinct captions, and self-retrieval.

Self-retrieval: of all captions of a file, how many find their own picture among all pictures of the split, by
a scorer that did not steer them (Dai and Lin 2017; Liu et al. 2018). A scorer judging captions that it chose
itself would be its own judge, so --scorer should name another.

    python eval/self_retrieval.py --captions ours=ours.jsonl before=before.jsonl --scorer another/scorer \\
        --references $MAGICAP_DATA/flickr8k/captions.jsonl --split test \\
        --images $MAGICAP_DATA/flickr8k/images-test.tar
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import torch
from transformers import HfArgumentParser

from magicap import ImageTextScorer
from magicap.errors import MagicapError
from magicap.evaluation.matching import choose_references, match
from magicap.evaluation.predictions import read_predictions
from magicap.evaluation.systems import open_pictures
from magicap.metrics.retrieval import retrieval_recall

RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Config:
    captions: list[str] = field(metadata={"help": "NAME=FILE, captions in any form that magicap eval reads"})
    scorer: str = field(metadata={"help": "folder, hf-hub: id or open_clip name of the scorer that judges"})
    references: str = field(metadata={"help": "data set of the pictures"})
    images: list[str] = field(metadata={"help": "tar files or folders with the pictures"})
    split: str | None = field(default=None, metadata={"help": "its split, where it has several"})
    tag: str | None = field(default=None, metadata={"help": "open_clip's tag, where --scorer is a name"})
    device: str = field(default="cpu", metadata={"help": "where the scorer runs"})


def main(config: Config) -> None:
    scorer = ImageTextScorer.from_pretrained(config.scorer, config.tag, device=config.device)
    rows = choose_references(config.references, config.split)
    pictures = open_pictures([row.image for row in rows], config.images)
    vectors = scorer.encode_images([pictures.read(row.image) for row in rows])
    print("| captions | n | distinct | " + " | ".join(f"recall@{rank}" for rank in RANKS) + " |")
    print("|---" + "|--:" * (2 + len(RANKS)) + "|")
    for spec in config.captions:
        name, _, path = spec.partition("=")
        texts = match(read_predictions(path), rows).candidates
        recall = retrieval_recall(vectors @ scorer.encode_texts(texts).T, torch.arange(len(texts)), RANKS)
        recalls = " | ".join(f"{recall[f'text_to_image_r{rank}']:.1f}" for rank in RANKS)
        print(f"| {name} | {len(texts)} | {len(set(texts))} | {recalls} |")


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"self_retrieval.py: {error}")
