"""Files of an index as items with vectors: a picture is one, a video is its moments, a sampled frame each.

Shapes: N moments, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress, groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from magicap.errors import BadImage
from magicap.images.formats import is_video
from magicap.models.finite import are_unit, broken_image
from magicap.retrieval.items import Item, OnError
from magicap.video.vectors import encode_video

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer


def known_moments(items: Iterable[Item], every: float) -> dict[Item, list[Item]]:
    """From a video's file, as it was then, to its moments among some items.

    Args:
        every: seconds between samples; moments of a video that was sampled otherwise are left out.
    """
    moments: dict[Item, list[Item]] = {}
    for item in items:
        if item.time is not None and item.every == every:
            moments.setdefault(replace(item, time=None, every=0.0), []).append(item)
    return moments


def in_batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items that are encoded together, in order: a video alone, of others so many."""
    for of_videos, group in groupby(items, lambda item: item.path is not None and is_video(item.path)):
        alike = list(group)
        step = 1 if of_videos else size
        yield from (alike[start : start + step] for start in range(0, len(alike), step))


@dataclass(frozen=True)
class FileEncoder:
    """Encodes files: pictures together, or one video, as :func:`in_batches` has them."""

    scorer: ImageTextScorer

    every: float
    """Seconds between the sampled frames of a video."""

    moments: dict[Item, list[Item]]
    """From a video's file to its moments; those that are encoded are added."""

    on_error: OnError
    """Called with the error of each file that cannot be read."""

    def __call__(self, batch: Sequence[Item]) -> tuple[list[Item], Tensor]:
        """The items of the files that can be read, N in all, and their unit vectors (N, D).

        Raises:
            MissingPackage: PyAV is not installed, and there is a video.
        """
        if is_video(str(batch[0].path)):
            return self._moments_of(batch[0])
        pixels: dict[Item, Tensor] = {}
        for item in batch:
            try:
                pixels[item] = self.scorer.pixels(str(item.path))
            except BadImage as error:
                self.on_error(error)
        if not pixels:
            return [], torch.empty(0, self.scorer.width)
        vectors = self.scorer.encode_pixels(torch.stack(list(pixels.values())))
        usable = are_unit(vectors)
        for item, is_usable in zip(pixels, usable.tolist(), strict=True):
            if not is_usable:
                self.on_error(broken_image(item.path))
        return list(compress(pixels, usable.tolist())), vectors[usable]

    def _moments_of(self, file: Item) -> tuple[list[Item], Tensor]:
        try:
            video = encode_video(self.scorer, str(file.path), self.every)
        except BadImage as error:
            self.on_error(error)
            return [], torch.empty(0, self.scorer.width)
        self.moments[file] = [replace(file, time=time, every=self.every) for time in video.times]
        return self.moments[file], video.vectors
