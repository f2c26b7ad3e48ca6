"""Floating point operations of some work, as torch counts them; what evaluations and tests count with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from magicap.models.float_layers import can_prepack
from magicap.models.threads import threads_for

Result = TypeVar("Result")


def counted(work: Callable[[], Result]) -> tuple[Result, int]:
    """What some work gives, and two for each multiplication and addition of its products and convolutions.

    Only this thread's are counted, so a batch is not cut into sub-batches meanwhile.
    """
    prepacked: dict[Any, Any] = {}
    if can_prepack():
        prepacked[torch.ops.mkldnn._linear_pointwise] = _linear  # noqa: SLF001 - its only name
    one_thread = threads_for(0, torch.device("cpu"))
    with one_thread, FlopCounterMode(display=False, custom_mapping=prepacked) as counter:
        result = work()
    return result, counter.get_total_flops()


def _linear(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]
