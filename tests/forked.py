"""Functions run in several processes that talk to each other, as torchrun starts them, but forked."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import torch


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``function(*arguments)`` returns in each of some processes, or the error that it raises there."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = get_context("fork")
    queue = context.SimpleQueue()
    children = [
        context.Process(target=_child, args=(queue, rank, count, port, function, arguments))
        for rank in range(count)
    ]
    for child in children:
        child.start()
    results = dict(queue.get() for _ in children)
    for child in children:
        child.join()
    return [results[rank] for rank in range(count)]


def _child(
    queue: Any, rank: int, count: int, port: int, function: Callable[..., Any], arguments: Any
) -> None:
    from accelerate.state import AcceleratorState, PartialState

    from magicap.training import processes

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    AcceleratorState._reset_state()  # noqa: SLF001 - accelerate has no public way
    PartialState._reset_state()  # noqa: SLF001
    try:
        processes.start(cpu=True)
        result = function(*arguments)
    except Exception as error:
        traceback.print_exc()
        result = error
    queue.put((rank, result))
    os._exit(0)
