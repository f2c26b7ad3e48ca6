"""Which rows a step reads: the order of an epoch, and each process's part of a step.

An epoch is planned as the steps of all processes together, so it is the same however many share it, and a
run that was stopped goes on in its middle without reading what came before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.utils.data import DataLoader

from magicap.errors import BadSettings

Batch = dict[str, Any]


@dataclass(frozen=True)
class Epoch:
    """One pass over the training data."""

    rows: Any
    """What is read: a sequence or a map-style dataset, by number."""

    steps: Sequence[Sequence[int]]
    """The numbers of each step's rows, of all processes together."""

    collate: Callable[[Sequence[Any]], Batch]
    """From some rows to a batch."""

    workers: int = 0
    """Processes that make the batches; 0: the one that trains. The batches are the same."""

    def __len__(self) -> int:
        return len(self.steps)

    def batches(
        self, done: int = 0, process: int = 0, processes: int = 1, accumulation: int = 1
    ) -> DataLoader[Any]:
        """One process's micro-batches of the steps that are left, ``accumulation`` of them a step.

        Args:
            done: steps taken before.
            process: which process, from 0.
            processes: how many share each step.
            accumulation: micro-batches that each of them makes of its part.

        Raises:
            BadSettings: a step has fewer rows than there are parts.
        """
        parts = processes * accumulation
        if fewest := [step for step in self.steps[done:] if len(step) < parts]:
            raise BadSettings(
                f"expected at least {parts} rows a step, one for each of {processes} processes and "
                f"{accumulation} micro-batches, found {len(fewest[0])}; use fewer of them or more data"
            )
        batches: Any = [
            step[micro * processes + process :: parts]
            for step in self.steps[done:]
            for micro in range(accumulation)
        ]
        # A generator of its own: starting an epoch again must not disturb training's random numbers.
        return DataLoader(
            self.rows,
            batch_sampler=batches,
            collate_fn=self.collate,
            num_workers=self.workers,
            generator=torch.Generator(),
        )


def even_parts(order: Sequence[int], size: int) -> list[list[int]]:
    """Consecutive parts of at most ``size``, as few as can be and of equal length, give or take one.

    So the last batch of an epoch is neither dropped nor much smaller than the others.
    """
    count = -(-len(order) // size)  # rounded up
    ends = [len(order) * number // count for number in range(count + 1)]
    return [list(order[start:end]) for start, end in pairwise(ends)]


def shuffled(rows: int, size: int, seed: int) -> list[list[int]]:
    """All row numbers in a random order, in even parts."""
    return even_parts(random.Random(seed).sample(range(rows), rows), size)


def by_length(lengths: Sequence[int], size: int, seed: int | None = None) -> list[list[int]]:
    """Row numbers in batches of about equal length, so that little is padding; shuffled by a seed.

    Args:
        lengths: of each row, in tokens.
        size: rows a batch at most.
        seed: None: in order.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    if seed is not None:
        rng.shuffle(order)
    batches = []
    for part in even_parts(order, size * 50):
        batches += even_parts(sorted(part, key=lengths.__getitem__), size)
    if seed is not None:
        rng.shuffle(batches)
    return batches


@dataclass(frozen=True)
class Domains:
    """Data sets whose rows stand one set behind the other, and the share of each in a batch."""

    sizes: Sequence[int]
    """How many rows each set has."""

    shares: Sequence[float]
    """Share of each set in every batch; together 1."""

    def batches(self, size: int, seed: int) -> list[list[int]]:
        """Numbers of rows, batch by batch: in all at least as many as there are rows.

        A set that gets less than its part of that is read in part, one that gets more several times. With
        sizes 4 and 2, equal shares and batches of two each batch holds one of 0..3 and one of 4..5.
        """
        order = random.Random(seed)
        steps = -(-sum(self.sizes) // size)  # rounded up
        ends = [round(size * share) for share in accumulate(self.shares)]
        counts = [end - start for start, end in pairwise([0, *ends])]
        starts = [0, *accumulate(self.sizes)]
        rows = []
        for start, length, count in zip(starts, self.sizes, counts, strict=False):
            passes = -(-steps * count // length)
            rows.append([start + n for _ in range(passes) for n in order.sample(range(length), length)])
        return [
            [
                number
                for numbers, count in zip(rows, counts, strict=True)
                for number in numbers[step * count : (step + 1) * count]
            ]
            for step in range(steps)
        ]
