"""Caption boxes of pictures from vectors of several kinds, and hold the captions against what is in there.

    python eval/regions.py --images $MAGICAP_DATA/coco/images-val.tar --detector yolox_nano.safetensors

Boxes are the quarters of each picture, or with ``--boxes objects`` what the detector finds (a score of at
least 0.5). Vectors of a box, a row each:

- ``whole``: of the picture, whatever the box: what there is without regions;
- ``mean:W``: the mean of the crop's, weighed by 1 - W, and the picture's, by W; 0 is the crop alone, and
  ``caption(picture, region=box)`` has ``magicap.regions.vectors.SURROUNDINGS``;
- ``margin:M``: of the crop with a margin of so many of its sides around it;
- ``patches``: the last states of the tower's patches in the box, averaged in place of the pooled ones;
- ``attention:N``: the class token sees the patches in the box alone, in the last N blocks.

Figures are means over boxes. ``top 5``: of a vector without a caption, which share of the things in the box
is among the five of the detector's 80 classes whose names are nearest? ``CIDEr-D`` (times 100) and
``cosine`` (of sentence vectors by all-MiniLM-L6-v2) say how near a caption is to that of the cut-out box as
a picture of its own, so ``mean:0`` has the largest by definition. ``named`` and ``others`` ask the detector
instead: of the things in the box, and of those that are elsewhere in the picture alone, which share does the
caption name? The second table has differences to ``whole``, with 95 % intervals and two-sided p-values by
paired bootstrap over pictures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor
from transformers import HfArgumentParser

from magicap import BadSettings, Captioner, DecodingContext
from magicap.arrays import FloatArray, IntArray
from magicap.captioners.presets import DEFAULT
from magicap.data.pictures import ImageFiles
from magicap.decoding.searches import search_of
from magicap.errors import MagicapError
from magicap.images.reader import open_image
from magicap.images.region import Box, outer_box
from magicap.metrics.cider import pairwise_cider_d
from magicap.models.fine_grained.local_features import patch_states
from magicap.regions.detector import CLASSES, YoloxNano
from magicap.regions.proposals import Proposal, area, common_area
from magicap.regions.vectors import region_vectors
from magicap.training.progress import progress
from magicap.training.teacher import encode_with_teacher

BATCH = 32
MEASURES = ["CIDEr-D", "cosine", "named", "others"]
SURE = 0.5  # score of a thing that is taken to be there
MOST = 100  # things of a picture
RESAMPLES = 10_000

OTHER_NAMES = {
    "person": "people man men woman women boy girl child children kid baby player guy lady couple crowd "
    "skier surfer snowboarder skateboarder rider batter catcher umpire pitcher",
    "bicycle": "bike",
    "motorcycle": "motorbike bike",
    "airplane": "plane jet aircraft",
    "couch": "sofa",
    "tv": "television",
    "cell phone": "phone",
    "dining table": "table",
    "potted plant": "plant flower",
    "sports ball": "ball",
    "donut": "doughnut",
    "hot dog": "hotdog",
    "teddy bear": "bear",
    "truck": "vehicle",
    "car": "vehicle",
    "cow": "cattle",
    "wine glass": "glass",
    "baseball bat": "bat",
    "baseball glove": "glove",
    "tennis racket": "racket racquet",
    "refrigerator": "fridge",
    "skis": "ski skiing",
    "surfboard": "board surf surfing",
    "skateboard": "board skating skateboarding",
    "snowboard": "board snowboarding",
    "handbag": "bag purse",
    "boat": "ship",
    "stop sign": "sign",
    "laptop": "computer",
}
"""What captions call the detector's classes beside their own names."""


@dataclass(frozen=True)
class Config:
    images: list[str] = field(metadata={"help": "tar files or folders with pictures"})
    detector: str = field(metadata={"help": "YOLOX-Nano's weights, which say what is where"})
    boxes: str = field(default="quarters", metadata={"help": "quarters, or objects: what the detector finds"})
    vectors: list[str] = field(
        default_factory=lambda: ["whole", "mean:0", "mean:0.25"], metadata={"help": "of boxes, a row each"}
    )
    vectors_only: bool = field(default=False, metadata={"help": "write no captions: top 5 alone"})
    pictures: int = field(default=100, metadata={"help": "the first so many in which things are found"})
    preset: str = field(default=DEFAULT, metadata={"help": "a preset or a captioner's folder"})
    seed: int = field(default=0, metadata={"help": "of the bootstrap"})


@dataclass(frozen=True)
class Case:
    """A picture and its boxes."""

    picture: Image
    boxes: list[Box]
    inside: list[set[str]]
    """By box the names of what is in it."""

    outside: list[set[str]]
    """By box the names of what is only elsewhere."""


def main(config: Config) -> None:
    captioner = Captioner.from_pretrained(config.preset)
    cases = list(read_cases(config))
    owner = np.repeat(np.arange(len(cases)), [len(case.boxes) for case in cases])
    print(f"{len(cases)} pictures, {len(owner)} boxes\n")
    vectors = {kind: vectors_of_all(captioner, kind, cases) for kind in config.vectors}
    columns = [ranked(captioner, rows, cases) for rows in vectors.values()]
    names = ["top 5"]
    if not config.vectors_only:
        names += MEASURES
        crops = vectors.get("mean:0")
        crops = vectors_of_all(captioner, "mean:0", cases) if crops is None else crops
        cut_outs = captions(captioner, crops)
        texts = [cut_outs if kind == "mean:0" else captions(captioner, vectors[kind]) for kind in vectors]
        columns = [
            np.column_stack([column, measured(captioner, row, cut_outs, cases)])
            for column, row in zip(columns, texts, strict=True)
        ]
    print_tables(names, dict(zip(vectors, columns, strict=True)), owner, config.seed)


def print_tables(names: Sequence[str], figures: dict[str, FloatArray], owner: IntArray, seed: int) -> None:
    """Means, and differences to ``whole`` where it is there.

    Args:
        names: of the measures.
        figures: by kind of vectors (boxes, measures).
        owner: (boxes,) which picture each belongs to.
    """
    print(f"| vectors | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
    for kind, values in figures.items():
        print(f"| {kind} | {' | '.join(f'{100 * mean:.1f}' for mean in np.nanmean(values, axis=0))} |")
    if "whole" not in figures:
        return
    print(f"\n| vectors, less whole | {' | '.join(names)} |\n|---|{'--:|' * len(names)}")
    for kind, values in figures.items():
        if kind != "whole":
            tests = [tested(row, owner, seed) for row in (values - figures["whole"]).T]
            print(f"| {kind} | {' | '.join(tests)} |")


def read_cases(config: Config) -> Iterable[Case]:
    """The first pictures in which the detector finds something, by name."""
    detector = YoloxNano(config.detector, SURE)
    count = 0
    with ImageFiles(config.images) as files:
        for name in sorted(files):
            picture = open_image(files.read(name))
            things = detector.propose(picture, MOST)
            if things and count < config.pictures:
                count += 1
                yield as_case(picture, things, config.boxes)


def as_case(picture: Image, things: Sequence[Proposal], kind: str) -> Case:
    x, y = picture.width // 2, picture.height // 2
    quarters = [
        (left, top, right, bottom)
        for top, bottom in ((0, y), (y, picture.height))
        for left, right in ((0, x), (x, picture.width))
    ]
    boxes = [thing.box for thing in things] if kind == "objects" else quarters
    inside, outside = [], []
    for box in boxes:
        shares = {thing: common_area(thing.box, box) / area(thing.box) for thing in things}
        if kind == "objects":
            inside.append({str(thing.label) for thing in things if thing.box == box})
        else:
            inside.append({str(thing.label) for thing, share in shares.items() if share >= 0.5})
        partly = {thing.label for thing, share in shares.items() if share >= 0.1}
        outside.append({str(thing.label) for thing in things if thing.label not in partly})
    return Case(picture, boxes, inside, outside)


def vectors_of_all(captioner: Captioner, kind: str, cases: Sequence[Case]) -> Tensor:
    """(boxes, D) of all boxes of all pictures, one behind the other."""
    return torch.cat([vectors_of(captioner, kind, case.picture, case.boxes) for case in cases])


def captions(captioner: Captioner, vectors: Tensor) -> list[str]:
    """Of all boxes; one for all that have the same vector."""
    texts: list[str] = []
    search = search_of(captioner.decoding)
    different, rows = vectors.unique(dim=0, return_inverse=True)
    with progress(len(different), "captioning", unit="vector") as bar:
        for batch in different.split(BATCH):
            context = DecodingContext(captioner.cache, batch, range(len(batch)), captioner.memory)
            texts += search.captions(context, captioner.decoding)
            bar.update(len(batch))
    return [texts[row] for row in rows.tolist()]


@torch.inference_mode()
def vectors_of(captioner: Captioner, kind: str, picture: Image, boxes: Sequence[Box]) -> Tensor:
    """(B, D) unit vectors of boxes of one picture."""
    scorer, (name, _, number) = captioner.scorer, kind.partition(":")
    if name == "whole":
        return scorer.encode_images([picture]).expand(len(boxes), -1)
    if name == "mean":
        crops = scorer.encode_images([picture.crop(box) for box in boxes])
        return region_vectors(crops, scorer.encode_images([picture]), float(number))
    if name == "margin":
        wider = [with_margin(box, float(number), picture.size) for box in boxes]
        return scorer.encode_images([picture.crop(box) for box in wider])
    if name not in ("patches", "attention"):
        raise BadSettings(f"--vectors: expected whole, mean, margin, patches or attention, found {kind!r}")
    visual = scorer.model.visual
    pixels = scorer.transform.normalise(scorer.pixels(picture)[None])
    if name == "patches":
        grid = patch_states(visual, pixels, 1.0)  # (1, W, rows, columns)
        masks = masks_of(boxes, picture.size, (grid.shape[2], grid.shape[3]))
        means = torch.stack([grid[0, :, mask].mean(dim=1) for mask in masks])
        return F.normalize(visual.head(visual.trunk.norm(means)), dim=-1)
    return F.normalize(attended(visual, pixels, boxes, picture.size, int(number)), dim=-1)


def attended(visual: Any, pixels: Tensor, boxes: Sequence[Box], size: tuple[int, int], blocks: int) -> Tensor:
    """(B, D) of a timm ViT whose class token sees the patches of a box alone in the last blocks."""
    masks = torch.stack(masks_of(boxes, size, visual.trunk.patch_embed.grid_size)).flatten(1)
    tokens = 1 + masks.shape[1]
    seen = torch.ones(len(boxes), 1, tokens, tokens, dtype=torch.bool)
    seen[:, 0, 0, 1:] = masks
    handles = [
        block.register_forward_pre_hook(
            lambda _, args, settings: (args, {**settings, "attn_mask": seen}), with_kwargs=True
        )
        for block in visual.trunk.blocks[-blocks:]
    ]
    try:
        vectors: Tensor = visual(pixels.expand(len(boxes), -1, -1, -1))
    finally:
        for handle in handles:
            handle.remove()
    return vectors


def masks_of(boxes: Sequence[Box], size: tuple[int, int], grid: tuple[int, int]) -> list[Tensor]:
    """Which patches (rows, columns) of the picture lie in each box, at least in part."""
    rows, columns = grid
    masks = []
    for left, top, right, bottom in boxes:
        across, down = columns / size[0], rows / size[1]
        edges = (left * across, top * down, right * across, bottom * down)
        x0, y0, x1, y1 = outer_box(edges, (columns, rows))
        mask = torch.zeros(rows, columns, dtype=torch.bool)
        mask[y0:y1, x0:x1] = True
        masks.append(mask)
    return masks


def with_margin(box: Box, margin: float, size: tuple[int, int]) -> Box:
    x, y = margin * (box[2] - box[0]), margin * (box[3] - box[1])
    return outer_box((box[0] - x, box[1] - y, box[2] + x, box[3] + y), size)


def ranked(captioner: Captioner, vectors: Tensor, cases: Sequence[Case]) -> FloatArray:
    """(boxes, 1) share of the things in a box whose names are among the five nearest classes."""
    names = captioner.scorer.encode_texts([f"a photo of a {name}" for name in CLASSES])
    nearest = [{CLASSES[row] for row in rows} for rows in (vectors @ names.T).topk(5).indices.tolist()]
    shares = [
        len(things & classes) / len(things) if things else np.nan
        for things, classes in zip(flat(cases, "inside"), nearest, strict=True)
    ]
    return np.array(shares)[:, None]


def measured(
    captioner: Captioner, texts: list[str], cut_outs: list[str], cases: Sequence[Case]
) -> FloatArray:
    """(boxes, measures), NaN where there is nothing that could be named."""
    assert captioner.memory is not None
    frequencies = captioner.memory.document_frequencies
    similarities = [
        pairwise_cider_d([cut_out, text], 1, frequencies)[1, 0]
        for text, cut_out in zip(texts, cut_outs, strict=True)
    ]
    vectors = encode_with_teacher(None, [*texts, *cut_outs])
    cosines = (vectors[: len(texts)] * vectors[len(texts) :]).sum(dim=1).tolist()
    named = [share_named(text, things) for text, things in zip(texts, flat(cases, "inside"), strict=True)]
    others = [share_named(text, things) for text, things in zip(texts, flat(cases, "outside"), strict=True)]
    return np.array([similarities, cosines, named, others]).T


def flat(cases: Sequence[Case], side: str) -> list[set[str]]:
    return [things for case in cases for things in getattr(case, side)]


def share_named(text: str, things: set[str]) -> float:
    """Which share of things a caption names; NaN of none."""
    assert things <= set(CLASSES)
    padded = f" {text.lower().replace('.', ' ').replace(',', ' ')} "
    named = [
        any(
            f" {name} " in padded or f" {name}s " in padded
            for name in [thing, *OTHER_NAMES.get(thing, "").split()]
        )
        for thing in things
    ]
    return float(np.mean(named)) if named else float("nan")


def tested(differences: FloatArray, owner: IntArray, seed: int) -> str:
    """Mean difference with its interval and p-value, pictures drawn with replacement."""
    counted = ~np.isnan(differences)
    pictures = owner.max() + 1
    sums = np.bincount(owner[counted], differences[counted], pictures)
    counts = np.bincount(owner[counted], minlength=pictures)
    rows = np.random.default_rng(seed).integers(0, pictures, (RESAMPLES, pictures))
    means = sums[rows].sum(axis=1) / np.maximum(1, counts[rows].sum(axis=1))
    low, high = np.percentile(means, [2.5, 97.5])
    p_value = min(1.0, 2 * (1 + min((means <= 0).sum(), (means >= 0).sum())) / (RESAMPLES + 1))
    return f"{100 * sums.sum() / counts.sum():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}], p {p_value:.4f}"


if __name__ == "__main__":
    try:
        main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
    except MagicapError as error:
        sys.exit(f"regions.py: {error}")
