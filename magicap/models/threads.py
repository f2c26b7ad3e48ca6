"""How many threads share a product on a processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SMALL = 8e6  # floating point operations of a product that a second thread makes no faster


@contextmanager
def threads_for(operations: float, device: torch.device) -> Iterator[None]:
    """One thread where products are small, else as many as there are.

    Small products cost the threads that share them more in waiting than they save, on a busy machine much
    more: each waits until the others are scheduled.

    Args:
        operations: floating point operations of a typical product.
        device: where it is computed; on a GPU nothing changes.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1 or operations >= _SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
