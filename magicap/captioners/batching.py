"""How many pictures are searched together: as many as a GPU's memory holds, and no more than pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

ON_CPU = 32
"""Pictures together on a processor, which two cores share (docs/experiments.md)."""

FIRST_ON_GPU = 8
"""Pictures of the first batch on a GPU, by which the need of memory is measured."""

MOST_ON_GPU = 256

_SHARE = 0.5  # of free memory; longer captions need more than the first batch showed


class GpuMemory(NamedTuple):
    """Bytes of a GPU."""

    free: int
    """Not in use, as if what is cached for reuse were given back."""

    peak: int
    """The most that was in use at once since the last measurement, above what is in use now."""


def cuda_memory(device: torch.device) -> GpuMemory:
    """Memory of a GPU now, its peak counted anew from here on."""
    used, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    peak = torch.cuda.max_memory_allocated(device) - used
    torch.cuda.reset_peak_memory_stats(device)
    return GpuMemory(torch.cuda.mem_get_info(device)[0] + reserved - used, peak)


@dataclass
class BatchSize:
    """How many pictures the next batch holds: a fixed number, or what the batches before have measured."""

    device: torch.device
    fixed: int | None = None
    measure: Callable[[torch.device], GpuMemory] = cuda_memory
    _on_gpu: int = field(default=FIRST_ON_GPU, init=False)

    def __post_init__(self) -> None:
        if self._measures:
            self.measure(self.device)

    @property
    def now(self) -> int:
        """Pictures of the next batch."""
        if self.fixed is not None:
            return self.fixed
        return self._on_gpu if self._measures else ON_CPU

    def measured(self, count: int) -> None:
        """A batch of ``count`` pictures is done."""
        if self._measures:
            gpu = self.measure(self.device)
            room = int(_SHARE * gpu.free * count / max(1, gpu.peak))
            self._on_gpu = max(1, min(room, 2 * self._on_gpu, MOST_ON_GPU))

    @property
    def _measures(self) -> bool:
        return self.fixed is None and self.device.type == "cuda"
