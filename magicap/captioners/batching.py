"""How many pictures are searched together: as many as memory holds, and no more than pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

ON_CPU = 16
"""Pictures together on a processor: more gain nothing (docs/results.md), fewer cost time."""

FIRST_ON_GPU = 8
"""Pictures of the batch by which a GPU's need is measured."""

MOST_ON_GPU = 256

_SHARE = 0.5  # of free memory; longer captions need more than the first batch showed


class GpuMemory(NamedTuple):
    """Bytes of a GPU."""

    free: int
    """Not in use, as if what is cached for reuse were given back."""

    peak: int
    """The most that was in use at once since :meth:`BatchSize.measured` asked, above what is in use now."""


def cuda_memory(device: torch.device) -> GpuMemory:
    """Memory of a GPU now, its peak counted anew from here on."""
    used, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    peak = torch.cuda.max_memory_allocated(device) - used
    torch.cuda.reset_peak_memory_stats(device)
    return GpuMemory(torch.cuda.mem_get_info(device)[0] + reserved - used, peak)


@dataclass
class BatchSize:
    """How many pictures the next batch holds: a given number, or from memory once a batch has been seen."""

    device: torch.device
    given: int | None = None
    memory: Callable[[torch.device], GpuMemory] = cuda_memory
    _fits: int = field(default=FIRST_ON_GPU, init=False)

    def __post_init__(self) -> None:
        if self._measures:
            self.memory(self.device)

    @property
    def now(self) -> int:
        """Pictures of the next batch."""
        if self.given is not None:
            return self.given
        return self._fits if self._measures else ON_CPU

    def measured(self, count: int) -> None:
        """A batch of ``count`` pictures is done."""
        if self._measures:
            memory = self.memory(self.device)
            fits = int(_SHARE * memory.free * count / max(1, memory.peak))
            self._fits = max(1, min(fits, 2 * self._fits, MOST_ON_GPU))

    @property
    def _measures(self) -> bool:
        return self.given is None and self.device.type == "cuda"
