"""Pictures with some of their captions, as batches that a scorer learns from."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from magicap.data import CaptionedImage, normalise_caption, read_captions
from magicap.training.batches import Batch, Domains, Epoch, even_parts, shuffled
from magicap.training.checks import require_rows
from magicap.training.teacher import respell


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


def sample_pictures(
    sets: Sequence[Sequence[CaptionedImage]], count: int | None, seed: int
) -> list[list[CaptionedImage]]:
    """So many pictures of all data sets together; those of fewer pictures are among those of more.

    Args:
        sets: the pictures of each.
        count: how many are drawn; None: all.
        seed: of the draw.
    """
    order = [(number, row) for number, rows in enumerate(sets) for row in rows]
    if count is None or count >= len(order):
        return [list(rows) for rows in sets]
    random.Random(seed).shuffle(order)
    chosen = order[:count]
    return [[row for owner, row in chosen if owner == number] for number in range(len(sets))]


def captions_of(rows: Iterable[CaptionedImage]) -> list[str]:
    """All captions, as scorers read them."""
    return [normalise_caption(text) for row in rows for text in row.captions]


class Pairs(Dataset[Batch]):
    """Pictures of one epoch, each with some of its captions.

    Order, captions and augmentation follow from the seed and the row alone, so that a resumed run sees what
    an uninterrupted one would have seen.

    Args:
        rows: the pictures.
        picture: from number and row of a picture to what a batch holds of it; None for captions alone.
        captions_per_image: how many captions are sampled for a picture, fewer where it has fewer.
        seed: of this epoch.
    """

    def __init__(
        self,
        rows: Sequence[CaptionedImage],
        picture: Callable[[int, CaptionedImage], Tensor] | None,
        captions_per_image: int,
        seed: int,
    ) -> None:
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
        item["seed"] = rng.getrandbits(62)
        if self.picture is not None:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(rng.getrandbits(63))  # of the CPU alone
                item["image"] = self.picture(number, row)
        return item

    def epoch(self, size: int, workers: int = 0, domains: Domains | None = None) -> Epoch:
        """All pictures in a random order, in even steps.

        Args:
            size: pictures a step, at most.
            workers: processes that make the batches; none: this one does. The batches are the same.
            domains: data sets that the rows are made of, each with its share of every step.
        """
        size = min(size, len(self))
        steps = shuffled(len(self), size, self.seed) if domains is None else domains.batches(size, self.seed)
        return Epoch(self, steps, collate, workers)

    def in_order(self, batch_size: int, workers: int = 0) -> DataLoader[Any]:
        """All rows, once, in their order."""
        return Epoch(self, even_parts(range(len(self)), batch_size), collate, workers).batches()


def collate(rows: Sequence[Batch]) -> Batch:
    """Captions and pictures of some rows.

    Returns:
        ``images`` (B, ...) where there are any; ``rows`` (B,), numbers of the rows; ``seeds``, a random
        number of each; ``texts``, the captions of all rows; ``respelled``, the same as people write them;
        ``owner`` (N,), the row of the batch that a caption belongs to.
    """
    batch: Batch = {"images": torch.stack([row["image"] for row in rows])} if "image" in rows[0] else {}
    return batch | {
        "rows": torch.tensor([row["row"] for row in rows]),
        "seeds": [row["seed"] for row in rows],
        "texts": [text for row in rows for text in row["texts"]],
        "respelled": [text for row in rows for text in row["respelled"]],
        "owner": torch.tensor([number for number, row in enumerate(rows) for _ in row["texts"]]),
    }
