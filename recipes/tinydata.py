"""Stand-ins for the data of the chain: drawn shapes, sentences about them, trunks with random weights.

Everything lies where the YAML files look for it, so that they are read as they are; only sizes and numbers of
steps are overridden (:data:`TINY`).
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from cli import arguments_of
from PIL import Image, ImageDraw
from safetensors.torch import save_file

COLOURS = ("red", "blue", "green", "yellow", "white", "black")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
GROUNDS = ("grey", "pink", "brown", "orange", "purple", "beige")
TEMPLATES = (
    "A {0} {1} on a {2} field.",
    "There is a {0} {1} in front of a {2} wall.",
    "One {0} {1} lies on {2} paper.",
    "The {1} is {0} and the ground is {2}.",
    "Somebody drew a {0} {1} on a {2} sheet.",
)
CLASSES = SHAPES
"""Names of what the stand-in for the ImageNet classifier tells apart."""

UNSEEN = "unseen.png"
"""A picture that nothing is trained on."""

TRUNK, ENCODER = "test_vit", "mobilenetv2_035"
SIZE = 160
"""Side of a drawn picture, in pixels; what :data:`TRUNK` reads."""

_TRAINED = {"max_steps": 4, "mixed_precision": "no", "cpu": True}
_SCORED = _TRAINED | {"locked_batch_size": 26, "finetune_batch_size": 26, "workers": 0}
_CLASSIFIED = {"classifier": TRUNK, "class_names": "classes.txt"}
_ASSEMBLED = {"memory_size": 400, "memory_samples": 50, "neighbours": 50}
_CAPTIONED = _TRAINED | {
    "image_model": ENCODER,
    "image_size": 64,
    "width": 16,
    "embedding": 16,
    "attention": 16,
    "min_count": 1,
    "batch_size": 8,
    "finetune_epochs": 1,
    "scst_epochs": 1,
    "workers": 0,
}
TINY: Mapping[str, Mapping[str, Any]] = {
    "tokenizer": {"vocabulary_size": 400},
    "language_model": _TRAINED
    | {"max_steps": 40, "layers": 1, "width": 16, "heads": 2, "batch_size": 16, "learning_rate": 1e-2},
    "text_tower": _TRAINED
    | {
        "image_model": TRUNK,
        "image_size": SIZE,
        "width": 16,
        "text_layers": 2,
        "text_heads": 2,
        "batch_size": 64,
    },
    "unpaired_scorer": _CLASSIFIED | {"top": 3},
    "classifier_scorer": _CLASSIFIED | {"top": 2},
    "scorer": _SCORED,
    "scorer_longer": _SCORED,
    "base_captioner": _ASSEMBLED,
    "soft_prompt": _TRAINED | {"batch_size": 16},
    "fine_grained": _TRAINED | {"width": 8, "hidden": 16, "batch_size": 8},
    "embedded": _ASSEMBLED | {"memory_width": 8},
    "confidence": {"folds": 2, "cpu": True},
    "unpaired": {"memory_size": 400, "memory_width": 8},
    "adversarial": _TRAINED | {"batch_size": 4, "samples": 2, "discriminator_layers": 1},
    "cnn_lstm": _CAPTIONED | {"xe_epochs": 2},
    "cnn_lstm_longer": _CAPTIONED | {"xe_epochs": 0, "finetune_epochs": 0},
}
"""Step to the options that keep it small."""


def overrides() -> dict[str, list[str]]:
    """:data:`TINY` as a recipe's command line has it."""
    return {step: arguments_of(options) for step, options in TINY.items()}


def point_variables_to(folder: Path) -> None:
    """Let the YAML files read what :func:`make` has written below a folder."""
    os.environ |= {"MAGICAP_DATA": str(folder / "data"), "MAGICAP_COCO_MANY": str(folder / "coco_many")}


def make(folder: Path) -> None:
    """Write everything that the chain reads below a folder, and :data:`UNSEEN`."""
    data, many = folder / "data", folder / "coco_many"
    scenes = list(itertools.product(COLOURS, SHAPES, GROUNDS))
    random.Random(0).shuffle(scenes)
    left = iter(scenes)
    for place, split, count in [
        (data / "flickr8k", "train", 24),
        (data / "flickr8k", "dev", 8),
        (data / "coco", "train", 8),
        (data / "coco_more", "train", 8),
        (data / "coco_more", "dev", 6),
        (many, "train", 16),
        (data / "coco_many", "small", 4),
    ]:
        _write_pictures(place, split, list(itertools.islice(left, count)))
    (data / "text").mkdir()
    texts = [sentence for scene in left for sentence in sentences(scene)]
    (data / "text" / "coco_restval.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    _write_rows(
        data / "text" / "flickr30k.jsonl",
        [
            {"image": f"{n}.jpg", "split": "train", "flickr8k_split": None, "captions": sentences(scene)}
            for n, scene in enumerate(scenes[-20:])
        ],
    )
    _write_weights(folder / "weights")
    (folder / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    picture_of(("red", "circle", "grey")).save(folder / UNSEEN)


def sentences(scene: Sequence[str]) -> list[str]:
    """Five captions of a scene: colour, shape, ground."""
    return [template.format(*scene) for template in TEMPLATES]


def _write_pictures(folder: Path, split: str, scenes: Sequence[Sequence[str]]) -> None:
    """A tar file of pictures, and their rows behind those that ``captions.jsonl`` has."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with tarfile.open(folder / f"images-{split}.tar", "w") as tar:
        for scene in scenes:
            buffer = io.BytesIO()
            picture_of(scene).save(buffer, "JPEG")
            member = tarfile.TarInfo(f"{folder.name}-{'-'.join(scene)}.jpg")
            member.size = buffer.tell()
            buffer.seek(0)
            tar.addfile(member, buffer)
            rows.append({"image": member.name, "split": split, "captions": sentences(scene)})
    _write_rows(folder / "captions.jsonl", rows)


def _write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with open(file, "a", encoding="utf-8") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)


def picture_of(scene: Sequence[str]) -> Image.Image:
    """A shape on a ground."""
    colour, shape, ground = scene
    image = Image.new("RGB", (SIZE, SIZE), ground)
    draw, low, middle, high = ImageDraw.Draw(image), SIZE // 4, SIZE // 2, SIZE * 3 // 4
    if shape == "circle":
        draw.ellipse((low, low, high, high), fill=colour)
    elif shape == "square":
        draw.rectangle((low, low, high, high), fill=colour)
    elif shape == "triangle":
        draw.polygon([(middle, low), (low, high), (high, high)], fill=colour)
    elif shape == "cross":
        draw.line((low, low, high, high), fill=colour, width=12)
        draw.line((low, high, high, low), fill=colour, width=12)
    else:
        draw.ellipse((low, low, high, high), outline=colour, width=12)
    return image


def _write_weights(folder: Path) -> None:
    """Random weights under the names of the trained ones that the YAML files read."""
    folder.mkdir()
    torch.manual_seed(0)
    classifier = timm.create_model(TRUNK, num_classes=len(CLASSES))
    save_file(classifier.state_dict(), folder / "vit_tiny_patch16_224.safetensors")
    encoder = timm.create_model(ENCODER, pad_type="same")
    save_file(encoder.state_dict(), folder / "mobilenet_v2_folded_dequant.safetensors")
