"""What a detector beside a captioner's scorer brings: late fusion of what it finds with the picture's vector.

A head of two layers maps the detector's classes into the scorer's space; it learns by InfoNCE from captioned
pictures without seeing the scorer's vectors, which fit these pictures too well. Times a weight it is added
to the vector of a picture, and the default decoding captions that.

    python eval/detector_fusion.py --detector yolox_nano_fp16.safetensors --cache runs/detected \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/coco/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/coco/images-train.tar \\
        --test $MAGICAP_DATA/coco_more/captions.jsonl --test_images $MAGICAP_DATA/coco_more/images-dev.tar

A detector that was trained on COCO may have seen COCO's pictures of any split, with boxes.

Shapes: N pictures, K of the detector's classes, D embedding width.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from calibration import captions_of, score
from frozen_features import Head, classes_of, learn
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap import Captioner
from magicap.data import CaptionedImage, ImageFiles, read_captions
from magicap.errors import MagicapError
from magicap.evaluation.tables import aligned
from magicap.images.reader import open_image
from magicap.metrics.retrieval import retrieval_recall
from magicap.regions.detector import YoloxNano

HEADER = ("weight", "R@1 to text", "R@1 to picture", "CIDEr-D")


@dataclass(frozen=True)
class Config:
    detector: str = field(metadata={"help": "weights of YOLOX-Nano"})
    captions: list[str] = field(metadata={"help": "data sets whose train split is learned from"})
    images: list[str] = field(metadata={"help": "tar files or folders with their pictures"})
    test: str = field(metadata={"help": "data set that is reported on"})
    test_images: list[str] = field(metadata={"help": "tar files or folders with its pictures"})
    cache: str = field(metadata={"help": "folder for what this detector finds in these pictures"})
    test_split: str = field(default="dev", metadata={"help": "the split of --test"})
    limit: int | None = field(default=None, metadata={"help": "the first so many pictures of --test"})
    preset: str = field(default="embedded", metadata={"help": "a zero-shot captioner"})
    weights: list[float] = field(
        default_factory=lambda: [0.0, 0.1, 0.2, 0.3, 0.5], metadata={"help": "of the detector's vector"}
    )
    steps: int = field(default=900, metadata={"help": "steps of 512 pictures, a caption each"})
    seed: int = field(default=1, metadata={"help": "of choices, weights and dropout"})


def main(config: Config) -> None:
    captioner, detector = Captioner.from_pretrained(config.preset), YoloxNano(config.detector)
    scorer = captioner.scorer
    train = [row for path in config.captions for row in read_captions(path, ("train",)) if row.captions]
    test = [row for row in read_captions(config.test, (config.test_split,)) if row.captions][: config.limit]
    detected = detected_classes(
        detector, train, config.images, Path(config.cache) / f"train-{len(train)}.safetensors"
    )
    name = f"{Path(config.test).parent.name}-{config.test_split}-{len(test)}.safetensors"
    tested = detected_classes(detector, test, config.test_images, Path(config.cache) / name)

    texts = scorer.encode_texts([text for row in train for text in row.captions])
    torch.manual_seed(config.seed)
    head = Head(detected.shape[1], scorer.width, class_vector=False)
    nothing = torch.empty(len(train), 0)  # in place of class vectors
    captions = texts.split([len(row.captions) for row in train])
    learn(head, detected, nothing, captions, steps=config.steps, seed=config.seed)
    with torch.inference_mode():
        added = head.eval()(tested, nothing)
    with ImageFiles(config.test_images) as files:
        vectors = scorer.encode_images([files.read(row.image) for row in test])
    references = scorer.encode_texts([text for row in test for text in row.captions])
    lines = []
    for weight in config.weights:
        fused = F.normalize(vectors + weight * added, dim=1)
        lines.append(
            [f"{weight:g}", *(f"{figure:.1f}" for figure in figures(captioner, fused, test, references))]
        )
    print(aligned(HEADER, lines))


def figures(
    captioner: Captioner, vectors: Tensor, test: list[CaptionedImage], references: Tensor
) -> tuple[float, float, float]:
    """Recall@1 to text and to picture, and CIDEr-D, in percent, of pictures' vectors (N, D).

    Args:
        references: (C, D) vectors of their captions, picture by picture.
    """
    owner = torch.tensor([number for number, row in enumerate(test) for _ in row.captions])
    recall = retrieval_recall(vectors @ references.T, owner, (1,))
    captions = captions_of(captioner, vectors, captioner.decoding)
    cider = score(captions, [row.captions for row in test])
    return recall["image_to_text_r1"], recall["text_to_image_r1"], cider


@torch.inference_mode()
def detected_classes(
    detector: YoloxNano, rows: list[CaptionedImage], images: list[str], cache: Path
) -> Tensor:
    """(N, 2K) what a detector finds in pictures, from the cache where it is there; the time it takes."""
    if not cache.is_file():
        start = time.perf_counter()
        with ImageFiles(images) as files:
            pictures = tqdm(rows, desc=cache.stem, disable=not sys.stderr.isatty())
            detected = [classes_of(detector, open_image(files.read(row.image))) for row in pictures]
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({"detected": torch.stack(detected)}, cache)
        milliseconds = 1000 * (time.perf_counter() - start) / len(rows)
        print(f"{cache.stem}: {milliseconds:.0f} ms a picture, its reading included", file=sys.stderr)
    return load_file(cache)["detected"]


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"detector_fusion.py: {error}")
