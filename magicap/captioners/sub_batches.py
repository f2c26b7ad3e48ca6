"""A batch of pictures searched in sub-batches, side by side on the cores of a processor.

A beam's products are small: threads that share each of them wait for one another at every step, and what
is no product has one thread alone. So each sub-batch has one thread for all of its work.

Shapes: B pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch import Tensor

from magicap.results import Caption, CaptionProgress, Competitors

_LEAST = 4  # pictures that a thread of its own pays for

SubBatch = tuple[Tensor, Sequence[int]]
"""Pixels and seeds of some pictures, one behind the other."""


def in_sub_batches(pixels: Tensor, seeds: Sequence[int], device: torch.device) -> list[SubBatch]:
    """A batch in as many sub-batches as torch has threads; one where pictures are few, or on another device.

    Args:
        pixels: (B, 3, H, W).
        seeds: B seeds.
        device: where the models are.
    """
    count = min(torch.get_num_threads(), len(seeds) // _LEAST) if device.type == "cpu" else 1
    if count < 2:
        return [(pixels, seeds)]
    rows = [[*sub_batch.tolist()] for sub_batch in torch.arange(len(seeds)).tensor_split(count)]
    return [
        (pixels[sub_batch[0] : sub_batch[-1] + 1], seeds[sub_batch[0] : sub_batch[-1] + 1])
        for sub_batch in rows
    ]


def caption_side_by_side(
    search: Callable[[SubBatch], list[Caption]], sub_batches: Sequence[SubBatch]
) -> list[Caption]:
    """Captions of all sub-batches, in order.

    Args:
        search: captions a sub-batch; called in several threads at once.
    """
    if len(sub_batches) == 1:
        return search(sub_batches[0])
    with _one_thread_each(len(sub_batches)) as pool:
        return [caption for captions in pool.map(search, sub_batches) for caption in captions]


def progress_side_by_side(
    search: Callable[[SubBatch], CaptionProgress], sub_batches: Sequence[SubBatch]
) -> CaptionProgress:
    """The same, with what competes after each token; they go on together, token by token."""
    if len(sub_batches) == 1:
        return (yield from search(sub_batches[0]))
    starts = [sum(len(seeds) for _, seeds in sub_batches[:number]) for number in range(len(sub_batches))]
    searches = [search(sub_batch) for sub_batch in sub_batches]
    captions: dict[int, list[Caption]] = {}
    with _one_thread_each(len(sub_batches)) as pool:
        while len(captions) < len(sub_batches):
            going_on = [number for number in range(len(sub_batches)) if number not in captions]
            competing: list[tuple[int, Competitors]] = []
            for number, (step, ended) in zip(
                going_on, pool.map(_next, [searches[number] for number in going_on]), strict=True
            ):
                if ended is not None:
                    captions[number] = ended
                competing += [(starts[number] + row, competitors) for row, competitors in step]
            if competing or len(captions) < len(sub_batches):
                yield competing
    return [caption for number in range(len(sub_batches)) for caption in captions[number]]


def _next(search: CaptionProgress) -> tuple[list[tuple[int, Competitors]], list[Caption] | None]:
    """What competes after the next token, or the captions."""
    try:
        return next(search), None
    except StopIteration as end:
        return [], end.value


@contextmanager
def _one_thread_each(count: int) -> Iterator[ThreadPoolExecutor]:
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(count, "magicap-search", torch.set_num_threads, (1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # the number is that of threads to come, too
