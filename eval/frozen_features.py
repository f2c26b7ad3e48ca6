"""What a sentence encoder, a class vector and a detector bring, on an image tower that is not trained.

A head of two layers maps frozen features of pictures into the space of a sentence encoder; it learns from
captioned pictures by InfoNCE. Of the captions of a memory that are near a picture, the one with the largest
expected CIDEr-D is taken: no beams and no language model, so only the image side differs between rows.

    python eval/frozen_features.py --weights vit_tiny_patch16_224.safetensors --detector yolox.safetensors \\
        --captions $MAGICAP_DATA/flickr8k/captions.jsonl $MAGICAP_DATA/coco/captions.jsonl \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/coco/images-train.tar \\
        --test $MAGICAP_DATA/coco/captions.jsonl --test_images $MAGICAP_DATA/coco/images-val.tar \\
        --memory $MAGICAP_DATA/text/coco_restval.txt --encoders minilm static=encoder/ --cache runs/features

Shapes: N pictures, C captions, E the encoder's width, K of the detector's classes.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from PIL.Image import Image
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from tqdm import tqdm
from transformers import HfArgumentParser

from magicap.data import CaptionedImage, ImageFiles, normalise_caption, read_captions, read_sentences
from magicap.decoding.minimum_bayes_risk import by_utility, evidence_from_neighbours
from magicap.errors import MagicapError
from magicap.evaluation.tables import aligned
from magicap.images.reader import open_image
from magicap.metrics import evaluate
from magicap.metrics.retrieval import retrieval_recall
from magicap.models.class_vector import ClassVector
from magicap.regions.detector import YoloxNano
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.training.losses import info_nce
from magicap.training.teacher import encode_with_teacher

WIDTH, DROPOUT, LOGIT_SCALE, RATE, BATCH = 1024, 0.2, 14.0, 1e-3, 512
EVIDENCE, TEMPERATURE = 400, 2.0
HELD = 0.3  # score above which a place of the detector counts as holding a class
TEMPLATE = "a photo of a {}."
HEADER = ("encoder", "head", "class vector", "detector", "R@1 to text", "R@1 to picture", "CIDEr-D")


@dataclass(frozen=True)
class Config:
    weights: str = field(metadata={"help": "safetensors file of timm's vit_tiny_patch16_224"})
    captions: list[str] = field(metadata={"help": "data sets whose train split is learned from"})
    images: list[str] = field(metadata={"help": "tar files or folders with their pictures"})
    test: str = field(metadata={"help": "data set that is reported on"})
    test_images: list[str] = field(metadata={"help": "tar files or folders with its pictures"})
    memory: str = field(metadata={"help": "text file or data set of captions that may be retrieved"})
    cache: str = field(metadata={"help": "folder in which features are kept"})
    test_split: str = field(default="val", metadata={"help": "the split of --test"})
    encoders: list[str] = field(
        default_factory=lambda: ["minilm"],
        metadata={"help": "NAME=FOLDER of sentence-transformers; NAME alone: the packaged all-MiniLM-L6-v2"},
    )
    detector: str | None = field(default=None, metadata={"help": "weights of YOLOX-Nano; none: no such rows"})
    sentences: int = field(default=60_000, metadata={"help": "captions of the memory, chosen at random"})
    steps: int = field(default=900, metadata={"help": f"steps of {BATCH} pictures, a caption each"})
    seed: int = field(default=1, metadata={"help": "of choices, weights and dropout"})


@dataclass(frozen=True)
class Split:
    """Captioned pictures and what frozen networks say of them."""

    rows: list[CaptionedImage]
    features: dict[str, Tensor]
    """``pooled`` (N, 192) class tokens, ``patches`` (N, 192) means of patches, ``detected`` (N, 2K)."""

    probability: Tensor
    """(N, 1000) of ImageNet's classes."""

    def inputs(self, *, detector: bool) -> Tensor:
        """What a head reads, a row a picture."""
        names = ["pooled", "patches", *(["detected"] if detector else [])]
        return torch.cat([*(self.features[name] for name in names), self.probability.sqrt()], dim=1)


@dataclass(frozen=True)
class Texts:
    """Texts of this run in an encoder's space, unit vectors."""

    classes: Tensor
    train: list[Tensor]
    """Of each picture (its captions, E)."""

    test: list[Tensor]
    memory: CaptionMemory


class Head(nn.Module):
    """Features, and the class vectors where they take part, to unit vectors (N, E)."""

    def __init__(self, inputs: int, width: int, *, class_vector: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, WIDTH), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(WIDTH, width)
        )
        self.matrix = nn.Linear(width, width, bias=False) if class_vector else None
        if self.matrix is not None:
            nn.init.eye_(self.matrix.weight)
        self.log_scale = nn.Parameter(torch.tensor(LOGIT_SCALE).log())

    def forward(self, features: Tensor, class_vectors: Tensor) -> Tensor:
        out = self.layers(features)
        return F.normalize(out if self.matrix is None else out + self.matrix(class_vectors), dim=-1)


def main(config: Config) -> None:
    network: Any = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    network.load_state_dict(load_file(config.weights))
    detector = None if config.detector is None else YoloxNano(config.detector)
    train_rows = [row for path in config.captions for row in read_captions(path, ("train",)) if row.captions]
    test_rows = [row for row in read_captions(config.test, (config.test_split,)) if row.captions]
    cache = Path(config.cache)
    train = read_split(train_rows, config.images, network.eval(), detector, cache / "train.safetensors")
    test = read_split(test_rows, config.test_images, network, detector, cache / "test.safetensors")
    lines = []
    for spec in config.encoders:
        name, _, folder = spec.partition("=")
        texts = encode(folder or None, train, test, config)
        naming = ClassVector(network.get_classifier(), texts.classes)
        class_vectors = [naming.name(split.probability) for split in (train, test)]
        rows = [(False, True, False)]
        rows += [(True, *row) for row in product((False, True), [False, True] if detector else [False])]
        for head, with_class_vector, with_detector in rows:
            vectors = F.normalize(class_vectors[1], dim=-1)
            if head:
                torch.manual_seed(config.seed)
                inputs = train.inputs(detector=with_detector)
                model = Head(inputs.shape[1], texts.classes.shape[1], class_vector=with_class_vector)
                learn(model, inputs, class_vectors[0], texts.train, steps=config.steps, seed=config.seed)
                with torch.inference_mode():
                    vectors = model.eval()(test.inputs(detector=with_detector), class_vectors[1])
            said = ["yes" if part else "no" for part in (head, with_class_vector, with_detector)]
            lines.append([name, *said, *(f"{x:.1f}" for x in figures(vectors, test, texts))])
    print(aligned(HEADER, lines))


@torch.inference_mode()
def read_split(
    rows: list[CaptionedImage],
    images: Sequence[str],
    network: Any,
    detector: YoloxNano | None,
    cache: Path,
) -> Split:
    """Features of pictures, from the cache where they are there."""
    if not cache.is_file():
        as_tensor = create_transform(**resolve_data_config({}, model=network))
        encoded: dict[str, list[Tensor]] = {"pooled": [], "patches": [], "detected": [], "logits": []}
        with ImageFiles(images) as files:
            for row in tqdm(rows, desc=cache.stem, disable=not sys.stderr.isatty()):
                picture = open_image(files.read(row.image))
                tokens = network.forward_features(as_tensor(picture)[None])
                encoded["pooled"].append(tokens[0, 0])
                encoded["patches"].append(tokens[0, 1:].mean(dim=0))
                encoded["logits"].append(network.forward_head(tokens)[0])
                encoded["detected"].append(classes_of(detector, picture))
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: torch.stack(values) for name, values in encoded.items()}, cache)
    features = load_file(cache)
    return Split(rows, features, features.pop("logits").softmax(dim=1))


def classes_of(detector: YoloxNano | None, picture: Image) -> Tensor:
    """(2K,) the largest score of each class, and the root of how many places hold it; (0,) of no detector."""
    if detector is None:
        return torch.empty(0)
    scores = detector.scores(picture)
    return torch.cat([scores.amax(dim=0), (scores > HELD).sum(dim=0).float().sqrt()])


def encode(encoder: str | None, train: Split, test: Split, config: Config) -> Texts:
    """All texts of this run by one encoder."""
    names = [name.split(",")[0] for name in map(ImageNetInfo().index_to_description, range(1000))]
    sentences = list(dict.fromkeys(read_sentences(config.memory)))
    sentences = random.Random(config.seed).sample(sentences, min(config.sentences, len(sentences)))

    def of(rows: list[CaptionedImage]) -> list[Tensor]:
        texts = [normalise_caption(text) for row in rows for text in row.captions]
        return list(encode_with_teacher(encoder, texts).split([len(row.captions) for row in rows]))

    classes = encode_with_teacher(encoder, [TEMPLATE.format(name) for name in names])
    memory = CaptionMemory(sentences, encode_with_teacher(encoder, sentences))
    return Texts(classes, of(train.rows), of(test.rows), memory)


def learn(
    head: Head,
    inputs: Tensor,
    class_vectors: Tensor,
    captions: Sequence[Tensor],
    *,
    steps: int,
    seed: int,
) -> None:
    """InfoNCE between pictures and one of their captions each; the rate falls to zero along a cosine."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    size = min(BATCH, len(inputs))
    for _ in tqdm(range(steps), desc="head", disable=not sys.stderr.isatty()):
        rows = rng.sample(range(len(inputs)), size)
        texts = torch.stack([rng.choice(captions[row]) for row in rows])
        vectors = head(inputs[rows], class_vectors[rows])
        loss = info_nce(vectors, texts, torch.arange(size), head.log_scale.exp().clamp(max=100))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.inference_mode()
def figures(vectors: Tensor, test: Split, texts: Texts) -> tuple[float, float, float]:
    """Recall@1 to text and to picture, and CIDEr-D of the consensus, all in percent."""
    owner = torch.tensor([number for number, row in enumerate(test.rows) for _ in row.captions])
    recall = retrieval_recall(vectors @ torch.cat(texts.test).T, owner, (1,))
    nearest = texts.memory.nearest(vectors, EVIDENCE)
    chosen = [
        evidence.texts[int(by_utility(evidence.expected_utility([]))[0])]
        for evidence in evidence_from_neighbours(texts.memory, *nearest, temperature=TEMPERATURE)
    ]
    report = evaluate(chosen, [row.captions for row in test.rows], metrics=["cider_d"])
    return recall["image_to_text_r1"], recall["text_to_image_r1"], 100 * report.scores["CIDEr-D"].value


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"frozen_features.py: {error}")
