"""A service of tiny captioners for tests, asked without a socket."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
from PIL import Image
from starlette.testclient import TestClient

from magicap.service.app import create_app
from magicap.service.batching import Job
from magicap.service.limits import ServiceLimits
from magicap.service.presets import ServedPresets
from magicap.service.service import Service


class Held:
    """Work that waits until it is let go."""

    def __init__(self) -> None:
        self.go, self.batches = threading.Event(), []  # type: ignore[var-annotated]

    def run(self, jobs: Sequence[Job]) -> list[int]:
        self.batches.append([job.seed for job in jobs])
        assert self.go.wait(20)
        return [job.seed for job in jobs]


def until(holds: Callable[[], bool]) -> None:
    for _ in range(500):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to be")


@contextmanager
def served(
    presets: Sequence[str], limits: ServiceLimits | None = None, index: Any = None, **app: Any
) -> Iterator[tuple[Service, TestClient]]:
    """A service, and a client that asks it; errors of ours become answers, as they do over a socket."""
    service = Service(ServedPresets(presets), limits or ServiceLimits(), index, readers=0)
    try:
        with TestClient(create_app(service, **app), raise_server_exceptions=False) as client:
            yield service, client
    finally:
        service.close()


@contextmanager
def serving(*options: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """``magicap serve`` as a process: its address and itself, once it is ready; SIGTERM ends it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "magicap", "serve", "--port", port, *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None, f"{' '.join(command)} ended with {process.returncode}"
            try:
                httpx2.get(f"{address}/readyz")
                break
            except httpx2.TransportError:
                time.sleep(0.1)
        yield address, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(60)


def png(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    """A picture of coloured noise."""
    import numpy as np

    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def events(text: str) -> list[tuple[str, Any]]:
    """Server-sent events as names with their data."""
    parts = [part.split("\n", 1) for part in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]
