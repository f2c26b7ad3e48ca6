"""Pictures with some of their captions, as batches that a scorer learns from."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from magicap.data import CaptionedImage, normalise_caption, read_captions
from magicap.training.checks import require_rows
from magicap.training.loop import Batch
from magicap.training.teacher import respell

COARSE_SHARE = 0.2  # of views with fewer pixels than the tower reads
COARSEST = 112  # pixels, the shortest long side of these
Tensors = TypeVar("Tensors", Tensor, tuple[Tensor, ...])


def read_captioned_images(
    path: str | Path, splits: Collection[str], at_least: int = 1
) -> list[CaptionedImage]:
    """The pictures of these splits that have enough captions; at least one picture.

    Args:
        path: a data set of any form that :func:`magicap.data.read_captions` knows.
        splits: the splits to read.
        at_least: how many captions a picture must have.

    Raises:
        BadData: the data set cannot be read, or has no such picture.
    """
    rows = [row for row in read_captions(path, splits) if len(row.captions) >= at_least]
    require_rows(rows, path, splits)
    return rows


@dataclass(frozen=True)
class Domains:
    """Data sets whose rows stand one set behind the other, and the share of each in a batch."""

    sizes: Sequence[int]
    """How many rows each set has."""

    shares: Sequence[float]
    """Share of each set in every batch; together 1."""

    def batches(self, batch_size: int, seed: int) -> list[list[int]]:
        """Numbers of rows, batch by batch: in all as many as there are rows, small sets more often than once.

        With sizes 4 and 2, equal shares and batches of two each batch holds one of 0..3 and one of 4..5.
        """
        order = random.Random(seed)
        steps = sum(self.sizes) // batch_size
        ends = [round(batch_size * share) for share in accumulate(self.shares)]
        counts = [end - start for start, end in pairwise([0, *ends])]
        starts = [0, *accumulate(self.sizes)]
        rows = []
        for start, size, count in zip(starts, self.sizes, counts, strict=False):
            passes = -(-steps * count // size)  # rounded up
            rows.append([start + n for _ in range(passes) for n in order.sample(range(size), size)])
        return [
            [
                number
                for numbers, count in zip(rows, counts, strict=True)
                for number in numbers[step * count : (step + 1) * count]
            ]
            for step in range(steps)
        ]


class Pairs(Dataset[Batch]):
    """Pictures of one epoch, each with some of its captions.

    Order, captions and augmentation follow from the seed and the row alone, so that a resumed run sees what
    an uninterrupted one would have seen.
    """

    def __init__(
        self,
        rows: Sequence[CaptionedImage],
        picture: Callable[[int, CaptionedImage], Tensor] | None,
        captions_per_image: int,
        seed: int,
    ) -> None:
        """
        Args:
            rows: the pictures.
            picture: from number and row of a picture to what a batch holds of it; None for captions alone.
            captions_per_image: how many captions are sampled for a picture, fewer where it has fewer.
            seed: of this epoch.
        """
        self.rows, self.picture, self.captions_per_image = rows, picture, captions_per_image
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Batch:
        row = self.rows[number]
        rng = random.Random(f"{self.seed}-{number}")
        captions = rng.sample(row.captions, min(self.captions_per_image, len(row.captions)))
        texts = [normalise_caption(text) for text in captions]
        item: Batch = {"texts": texts, "respelled": [respell(text, rng) for text in texts], "row": number}
        if self.picture is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(rng.getrandbits(63))  # of the CPU alone
                item["image"] = self.picture(number, row)
        return item

    def loader(self, batch_size: int, workers: int = 0, domains: Domains | None = None) -> DataLoader[Any]:
        """Whole batches in a random order; with fewer rows than one batch, a batch of all of them.

        Args:
            workers: processes that make the batches; none: this one does. The batches are the same.
            domains: data sets that the rows are made of, each with its share of every batch.
        """
        size = min(batch_size, len(self))
        if domains is not None:
            batches: Any = domains.batches(size, self.seed)
            generator = (
                torch.Generator()
            )  # or starting an epoch again would disturb training's random numbers
            return DataLoader(
                self, batch_sampler=batches, generator=generator, collate_fn=collate, num_workers=workers
            )
        order = torch.Generator().manual_seed(self.seed)
        return DataLoader(
            self, size, shuffle=True, generator=order, collate_fn=collate, drop_last=True, num_workers=workers
        )

    def in_order(self, batch_size: int, workers: int = 0) -> DataLoader[Any]:
        """All rows, once, in their order."""
        generator = torch.Generator()  # or reading them would disturb training's random numbers
        return DataLoader(self, batch_size, generator=generator, collate_fn=collate, num_workers=workers)


def collate(rows: Sequence[Batch]) -> Batch:
    """Captions and pictures of some rows.

    Returns:
        ``texts``, the captions of all rows; ``respelled``, the same as people write them; ``owner`` (N,), the
        row of the batch that a caption belongs to; ``rows`` (B,), numbers of the rows; and ``images``
        (B, ...) where there are any.
    """
    batch: Batch = {
        "texts": [text for row in rows for text in row["texts"]],
        "respelled": [text for row in rows for text in row["respelled"]],
        "rows": torch.tensor([row["row"] for row in rows]),
        "owner": torch.tensor([number for number, row in enumerate(rows) for _ in row["texts"]]),
    }
    if "image" in rows[0]:
        batch["images"] = torch.stack([row["image"] for row in rows])
    return batch


def augmentation(preprocess: dict[str, Any]) -> Callable[[Any, Sequence[str]], Tensor]:
    """Random views of a picture: crops, colours, few pixels, mirrored where no caption names a side.

    Args:
        preprocess: ``preprocess_cfg`` of an open_clip config: ``size``, ``mean``, ``std``.

    Returns:
        A function of a picture (RGB, PIL) and its captions that gives (3, size, size).
    """
    view = v2.Compose(
        [
            v2.PILToTensor(),
            v2.RandomResizedCrop(preprocess["size"], scale=(0.5, 1.0), ratio=(0.8, 1.25), antialias=True),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(preprocess["mean"], preprocess["std"]),
        ]
    )
    mirror = v2.RandomHorizontalFlip(0.5)
    largest = max(COARSEST, *np.atleast_1d(preprocess["size"]).tolist())

    def augment(image: Any, captions: Sequence[str]) -> Tensor:
        if float(torch.rand(())) < COARSE_SHARE:
            side = int(torch.randint(COARSEST, largest + 1, ()))
            image = ImageOps.contain(image, (side, side))
        tensor: Tensor = view(image)
        return tensor if names_a_side(captions) else mirror(tensor)

    return augment


def names_a_side(captions: Sequence[str]) -> bool:
    """Whether mirroring the picture would make one of its captions false."""
    return any(re.search(r"\b(left|right)\b", text, re.IGNORECASE) for text in captions)


def load_or_compute(path: Path, compute: Callable[[], Tensors]) -> Tensors:
    """The tensor or tensors of a file, which is computed and written whole if there is none yet."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        torch.save(compute(), new)
        new.rename(path)
    tensors: Tensors = torch.load(path, weights_only=True)
    return tensors
