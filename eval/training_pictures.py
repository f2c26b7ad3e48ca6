"""How many augmented pictures a second the training loader gives, and where the time of one goes.

    python eval/training_pictures.py --captions $MAGICAP_DATA/flickr8k $MAGICAP_DATA/coco \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar $MAGICAP_DATA/coco/images-train.tar --shares 0.7 0.3

First the loader itself, on batches of the mix that ``--shares`` asks for: with no worker process, with one,
with two, in turn, and beside them the same work one library call after the other in floats, as it was before
views were drawn first. The first batches of a round are not counted, for workers begin before they are asked.
Then single pictures of each data set, step by step, in this process alone.

Nothing else should run: the load of the machine is printed, and times are medians.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from PIL import ImageOps
from torch import Tensor
from torchvision.transforms import v2
from transformers import HfArgumentParser

from magicap.data import CaptionedImage, ImageFiles
from magicap.evaluation.tables import aligned
from magicap.images.reader import open_image
from magicap.images.transform import ImageTransform
from magicap.training.augmentation import Augmentation, RandomViews, names_a_side
from magicap.training.batches import Domains, Epoch
from magicap.training.pairs import Pairs, collate, read_captioned_images

Picture = Callable[[int, CaptionedImage], Tensor]


@dataclass(frozen=True)
class Config:
    captions: list[str] = field(metadata={"help": "data sets, of which the train split is read"})
    images: list[str] = field(metadata={"help": "tar files or folders with their pictures"})
    shares: list[float] = field(
        default_factory=list, metadata={"help": "share of each data set in a batch; default: all alike"}
    )
    workers: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "processes to try"})
    size: int = field(default=224, metadata={"help": "side of a view, in pixels"})
    captions_per_image: int = field(default=3, metadata={"help": "captions sampled of a picture"})
    batch_size: int = field(default=96, metadata={"help": "pictures a batch"})
    batches: int = field(default=20, metadata={"help": "batches a round that are counted"})
    rounds: int = field(default=5, metadata={"help": "times that the ways take turns"})
    pictures: int = field(default=400, metadata={"help": "pictures of each data set, step by step"})
    coarsest: int = field(default=Augmentation.coarsest, metadata={"help": "see Augmentation"})
    coarse_share: float = field(default=Augmentation.coarse_share, metadata={"help": "see Augmentation"})
    squashed_share: float = field(default=Augmentation.squashed_share, metadata={"help": "see Augmentation"})


def main(config: Config) -> None:
    torch.set_num_threads(1)
    sets = [read_captioned_images(path, ("train",)) for path in config.captions]
    preprocess = {"size": config.size, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before")
    with ImageFiles(config.images) as images:
        views = RandomViews(images, preprocess, Augmentation.of(config))
        for rows in sets:
            rows[:] = [row for row in rows if row.image in images]
        compare_loaders(config, sets, views, InFloats(images, preprocess))
        print_steps(config, sets, views, preprocess)


class InFloats:
    """The views of the release before, as torchvision makes them of a picture that is decoded whole."""

    def __init__(self, images: ImageFiles, preprocess: dict[str, Any]) -> None:
        self.images, self.size = images, preprocess["size"]
        self.mirror = v2.RandomHorizontalFlip(0.5)
        self.view = v2.Compose(
            [
                v2.PILToTensor(),
                v2.RandomResizedCrop(self.size, scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(preprocess["mean"], preprocess["std"]),
            ]
        )

    def __call__(self, number: int, row: CaptionedImage) -> Tensor:
        image = open_image(self.images.read(row.image))
        if float(torch.rand(())) < 0.2:
            side = int(torch.randint(112, max(112, self.size) + 1, ()))
            image = ImageOps.contain(image, (side, side))
        view: Tensor = self.view(image)
        return view if names_a_side(row.captions) else self.mirror(view)


def compare_loaders(
    config: Config, sets: Sequence[list[CaptionedImage]], views: Picture, floats: Picture
) -> None:
    """Pictures a second of every way and number of workers, which take turns."""
    ways = [
        (name, view, n) for n in config.workers for name, view in (("views", views), ("in floats", floats))
    ]
    rates: dict[tuple[str, int], list[float]] = defaultdict(list)
    for number in range(config.rounds):
        for name, view, workers in ways:
            rates[name, workers].append(rate(config, epoch(config, sets, view, number, workers)))
    table = [
        (name, f"{n}", f"{statistics.median(counts):.0f}", f"{min(counts):.0f}", f"{max(counts):.0f}")
        for (name, n), counts in rates.items()
    ]
    print(aligned(("way", "workers", "pictures/s", "lowest", "highest"), table))
    print(
        f"medians of {config.rounds} rounds of {config.batches} batches of {config.batch_size}; "
        f"load {os.getloadavg()[0]:.1f} after"
    )


def epoch(
    config: Config, sets: Sequence[list[CaptionedImage]], view: Picture, seed: int, workers: int
) -> Epoch:
    pairs = Pairs([row for rows in sets for row in rows], view, config.captions_per_image, seed)
    shares = config.shares or [1 / len(sets)] * len(sets)
    return pairs.epoch(config.batch_size, workers, Domains([len(rows) for rows in sets], shares))


def rate(config: Config, epoch: Epoch) -> float:
    """Pictures a second, once the loader runs."""
    ahead = 4 * epoch.workers
    if len(epoch) < ahead + config.batches:
        raise SystemExit(f"expected at least {ahead + config.batches} batches, found {len(epoch)}")
    batches = iter(epoch.batches())
    for _ in islice(batches, ahead):
        pass
    started = time.perf_counter()
    count = sum(len(batch["images"]) for batch in islice(batches, config.batches))
    return count / (time.perf_counter() - started)


class Clock:
    """Milliseconds of the steps of every picture."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def step(self, name: str, share: int = 1) -> Iterator[None]:
        """Time a step that is done for so many pictures at once."""
        started = time.perf_counter()
        yield
        self.times[name].append(1000 * (time.perf_counter() - started) / share)


def print_steps(
    config: Config, sets: Sequence[list[CaptionedImage]], views: RandomViews, preprocess: dict[str, Any]
) -> None:
    """Median milliseconds of each step, for each data set."""
    clocks = []
    for rows in sets:
        clocks.append(Clock())
        chosen = rows[:: max(1, len(rows) // config.pictures)][: config.pictures]
        for start in range(0, len(chosen), 50):
            time_steps(config, chosen[start : start + 50], views, preprocess, clocks[-1])
    names = list(clocks[0].times)
    medians = [[statistics.median(clock.times[name]) for name in names] for clock in clocks]
    table = [(name, *(f"{column[n]:.3f}" for column in medians)) for n, name in enumerate(names)]
    table.append(("together", *(f"{sum(column):.3f}" for column in medians)))
    print(aligned(("ms a picture", *config.captions), table))


def time_steps(
    config: Config,
    rows: Sequence[CaptionedImage],
    views: RandomViews,
    preprocess: dict[str, Any],
    clock: Clock,
) -> None:
    """Each step of the pictures of one batch, as :func:`magicap.training.augmentation.random_view` goes."""
    pairs, items = Pairs(rows, None, config.captions_per_image, 0), []
    for number, row in enumerate(rows):
        with clock.step("captions"):
            item = pairs[number]
        with clock.step("read"):
            encoded = views.images.read(row.image)
        with clock.step("draw the view"):
            view = views.settings.draw(views.size)
        with clock.step("decode"):
            image = open_image(encoded, at_least=view.short_side)
        with clock.step("cut and resize"):
            pixels = view.cut(image)
        with clock.step("colours, mirror"):
            item["image"] = view.finish(pixels, may_mirror=not names_a_side(row.captions))
        items.append(item)
    with clock.step("collate", len(rows)):
        batch = collate(items)
    with clock.step("normalise, on the device", len(rows)):
        ImageTransform.of(preprocess).normalise(batch["images"])


if __name__ == "__main__":
    main(*HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses())
