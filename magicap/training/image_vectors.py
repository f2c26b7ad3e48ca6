"""Vectors of many pictures by a frozen scorer, computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from magicap.data import ImageFiles
from magicap.errors import BadImage
from magicap.models.scorer import ImageTextScorer
from magicap.training.batches import even_parts
from magicap.training.phases import load_or_compute
from magicap.training.progress import progress

Unreadable = Callable[[str, BadImage], object]
"""Called with the name of a picture that cannot be read, and why."""


def image_vectors(
    scorer: ImageTextScorer,
    images: ImageFiles,
    names: Sequence[str],
    file: Path | None,
    on_unreadable: Unreadable | None = None,
) -> Tensor:
    """(N, D) unit vectors of pictures, in the order of their names.

    Args:
        images: where the pictures are.
        file: where the vectors are kept for a run that resumes; None: nowhere.
        on_unreadable: called for each picture that cannot be read, which is then left out; None: an error.

    Raises:
        BadImage: a picture cannot be read.
        ImageNotFound: there is none of a name.
    """

    def encode() -> Tensor:
        parts = [torch.empty(0, scorer.width)]
        with progress(len(names), "encoding pictures", unit="picture") as bar:
            for numbers in even_parts(range(len(names)), 32):
                parts += _encoded(scorer, images, [names[n] for n in numbers], on_unreadable)
                bar.update(len(numbers))
        return torch.cat(parts)

    return load_or_compute(file, encode)


def _encoded(
    scorer: ImageTextScorer, images: ImageFiles, names: Sequence[str], on_unreadable: Unreadable | None
) -> Iterator[Tensor]:
    """Vectors of a batch, together or, where one of them cannot be read, one by one."""
    try:
        yield scorer.encode_images([images.read(name) for name in names]).float().cpu()
    except BadImage as error:
        if on_unreadable is None:
            raise
        if len(names) == 1:
            on_unreadable(names[0], error)
            return
        for name in names:
            yield from _encoded(scorer, images, [name], on_unreadable)
