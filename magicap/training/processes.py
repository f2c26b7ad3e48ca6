"""Training in several processes: rows gathered from all of them, and means over all of their items.

Every function is right in one process too, where it costs nothing. Gradients are averaged over the processes
(DistributedDataParallel), so a loss is shared in one of two ways: each process returns the loss of all rows,
which it gathered (:func:`gather_rows`), or its own mean, weighed by its items (:func:`share_of_mean`). The
average over the processes is the loss of one process with all the rows in either case.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from magicap.extras import require

_PATIENCE = timedelta(hours=6)  # the others wait while the first process encodes, or validates


def start(cpu: bool = False) -> None:
    """Join the processes that torchrun or accelerate launch started; one process stays alone.

    Args:
        cpu: stay on the CPU even where a GPU is at hand.
    """
    require("accelerate").PartialState(cpu=cpu, timeout=_PATIENCE)


def end() -> None:
    """Leave the other processes, at the end of a program."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def count() -> int:
    """How many processes train together."""
    return dist.get_world_size() if _are_several() else 1


def number() -> int:
    """Which of them this is, from 0; the first alone writes files."""
    return dist.get_rank() if _are_several() else 0


def is_first() -> bool:
    """Whether this process is the one that writes files and validates."""
    return number() == 0


def wait() -> None:
    """Go on when all processes have come here."""
    if _are_several():
        dist.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """The first process goes through a block while the others wait, and then they do.

    What the first computes and keeps in a file the others read there.
    """
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def from_first(value: Any) -> Any:
    """The value that the first process has, in all of them; it is pickled."""
    if not _are_several():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without a gradient."""
    total = values.detach().clone()
    if _are_several():
        dist.all_reduce(total)
    return total


def share_of_mean(mean: Tensor, items: Tensor | float) -> Tensor:
    """A process's mean, so weighed that the average over the processes is the mean over all items.

    Args:
        mean: scalar, over this process's items.
        items: how many these are.
    """
    if not _are_several():
        return mean
    own = torch.as_tensor(items, dtype=torch.float32, device=mean.device)
    return mean * (own * count() / sum_over_processes(own))


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (N, ...) of all processes behind one another, differentiable; they may have unequal numbers.

    As open_clip's ``gather_features`` with gradients: what any process's loss says of a row reaches the
    process that made it.
    """
    if not _are_several():
        return rows
    return _GatherRows.apply(rows)  # type: ignore[no-any-return]


def gather_padded(rows: Tensor) -> Tensor:
    """As :func:`gather_rows` for rows (N, T, ...) whose T differs; zeros behind the shorter ones."""
    longest = max(_sizes(rows.shape[1], rows.device))
    shape = rows.shape[0], longest - rows.shape[1], *rows.shape[2:]
    return gather_rows(torch.cat([rows, rows.new_zeros(shape)], dim=1))


def gather_owners(owner: Tensor, rows: int) -> Tensor:
    """The owners (N,) of all processes' texts, counted through all of their rows.

    Args:
        owner: the row of this process that each of its texts belongs to.
        rows: how many rows this process has.
    """
    before = sum(_sizes(rows, owner.device)[: number()])
    return gather_rows(owner + before)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        sizes = _sizes(len(rows), rows.device)
        context.start, context.end = sum(sizes[: number()]), sum(sizes[: number() + 1])
        padded = torch.cat([rows, rows.new_zeros(max(sizes) - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[context.start : context.end]


def _sizes(size: int, device: torch.device) -> list[int]:
    """A number of each process, in their order."""
    sizes = torch.zeros(count(), dtype=torch.long, device=device)
    sizes[number()] = size
    numbers: list[int] = sum_over_processes(sizes).tolist()
    return numbers


def _are_several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
