"""Many clients at once against ``magicap serve``: are answers those of one client alone, and how fast?

Starts a service of its own. First every picture is asked for alone; then CLIENTS ask for SECONDS, each as
soon as it has its answer, and every answer must be the one of before. Then clients that leave, more clients
than the queue holds, and SIGTERM under load. The captioner's own rate is measured before and after.

    python eval/service_load.py --pictures pictures/ --clients 200 --seconds 60 --timeout 60
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from transformers import HfArgumentParser

from magicap import Captioner, Greedy
from magicap.images.folders import find_images

BOUNDARY = "magicap-boundary"
TOLERANCE = 2e-3
"""Of figures beside a caption: batches of other sizes round their last digits otherwise."""


@dataclass(frozen=True)
class Config:
    pictures: str = field(metadata={"help": "folder of pictures"})
    preset: str = field(default="embedded", metadata={"help": "captioner that is served"})
    decoding: str = field(
        default="", metadata={"help": "decoding that requests name; empty: the captioner's"}
    )
    count: int = field(default=64, metadata={"help": "pictures"})
    clients: int = field(default=200, metadata={"help": "clients at once"})
    seconds: float = field(default=60.0, metadata={"help": "how long they ask"})
    timeout: float = field(default=30.0, metadata={"help": "the service's time limit"})
    json: str | None = field(default=None, metadata={"help": "write the figures here, too"})


@dataclass
class Load:
    """What became of requests."""

    answers: int = 0
    wrong: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    """Requests whose connection ended before an answer."""

    seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} of status {status}" for status, count in sorted(self.statuses.items()))
        return f"{counts}; {self.wrong} unlike the serial answer, {self.lost} lost"

    def latency(self) -> str:
        if len(self.seconds) < 2:
            return "no latencies"
        cuts = quantiles(self.seconds, n=100)
        return f"p50 {cuts[49]:.2f} s, p95 {cuts[94]:.2f} s, p99 {cuts[98]:.2f} s"


class Client:
    """One connection that is kept, and what is asked over it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, request: bytes) -> tuple[int, bytes]:
        """Status and body; errors of the connection are raised."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        assert length is not None, head
        body = await reader.readexactly(int(length[1]))
        if b"connection: close" in head.lower():
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def request(picture: bytes, decoding: str) -> bytes:
    """A form with one picture."""
    fields = f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=decoding\r\n\r\n{decoding}\r\n" * bool(
        decoding
    )
    head = f"{fields}--{BOUNDARY}\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n"
    body = head.encode() + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    return (
        f"POST /v1/caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    ).encode() + body


def is_same(body: bytes, alone: bytes) -> bool:
    """Whether an answer is the one that came when nobody else asked."""
    result, expected = json.loads(body)["results"][0], json.loads(alone)["results"][0]
    agree = [abs((result[name] or 0) - (expected[name] or 0)) < TOLERANCE for name in ("score", "confidence")]
    return result["captions"] == expected["captions"] and all(agree)


class Service:
    """``magicap serve`` as a process."""

    def __init__(self, config: Config) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start = time.monotonic()
        command = ["serve", "--port", str(self.port), "--preset", config.preset]
        command += ["--timeout", str(config.timeout)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "magicap", *command], stderr=subprocess.DEVNULL
        )

    async def first_answer(self, asked: bytes) -> float:
        """Seconds from the process's start to the first caption."""
        while True:
            try:
                status, _ = await Client(self.port).post(asked)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                assert status == 200, status
                return time.monotonic() - self.start

    def memory(self) -> float:
        """Resident MiB of the process and its readers."""
        pids = [str(self.process.pid)]
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            pids += (task / "children").read_text().split()
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def waiting(self) -> float:
        """Pictures in the queue."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        jobs = re.search(r"\nmagicap_queue_jobs ([\d.]+)", text)
        assert jobs is not None, text
        return float(jobs[1])


async def load(
    service: Service, requests: list[bytes], alone: list[bytes], clients: int, seconds: float
) -> Load:
    """So many clients, each asking again once it is answered."""
    done, end = Load(), time.monotonic() + seconds

    async def ask(number: int) -> None:
        client, place = Client(service.port), number
        while time.monotonic() < end:
            start, which = time.monotonic(), place % len(requests)
            try:
                status, body = await client.post(requests[which])
            except ConnectionRefusedError:
                return
            except (OSError, asyncio.IncompleteReadError):
                done.lost += 1
                return
            done.statuses[status] += 1
            if status == 200:
                done.answers += 1
                done.seconds.append(time.monotonic() - start)
                done.wrong += not is_same(body, alone[which])
            elif status == 503:
                return
            place += clients
            if status == 429:
                await asyncio.sleep(0.5)
        client.close()

    await asyncio.gather(*(ask(number) for number in range(clients)))
    return done


async def leaving(service: Service, requests: list[bytes], count: int) -> tuple[float, float]:
    """Clients that leave at once: how many waited, and how many do a second and a half later."""
    clients = []
    for number in range(count):
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(requests[number % len(requests)])
        await writer.drain()
        clients.append((reader, writer))
    await asyncio.sleep(1.5)
    before = await service.waiting()
    for _, writer in clients:
        writer.transport.abort()
    await asyncio.sleep(1.5)
    return before, await service.waiting()


def own_rate(captioner: Captioner, paths: list[Path], decoding: str) -> float:
    """Pictures a second of the captioner's own batches."""
    search = Greedy() if decoding == "greedy" else None
    assert decoding in ("", "greedy"), "the captioner's own rate is measured for its default and for greedy"
    start = time.monotonic()
    captioner.caption(list(paths), search)
    return len(paths) / (time.monotonic() - start)


async def trial(config: Config) -> dict[str, str]:
    """All of it, one after the other; a line each."""
    paths = list(find_images([config.pictures]))[: config.count]
    requests = [request(path.read_bytes(), config.decoding) for path in paths]
    captioner = Captioner.from_pretrained(config.preset)
    own_rate(captioner, paths, config.decoding)  # fills the prefix cache, as the service's will be
    service, said = Service(config), {}

    def say(name: str, text: str) -> None:
        said[name] = text
        print(f"{name}: {text}", flush=True)

    say("start to first answer", f"{await service.first_answer(requests[0]):.1f} s")
    client = Client(service.port)
    alone = [(await client.post(one))[1] for one in requests]
    before = own_rate(captioner, paths, config.decoding)
    start, sizes = time.monotonic(), [service.memory()]
    asking = asyncio.create_task(load(service, requests, alone, config.clients, config.seconds))
    while not asking.done():
        await asyncio.wait({asking}, timeout=config.seconds / 4)
        sizes.append(service.memory())
    done = await asking
    rate = done.answers / (time.monotonic() - start)
    after = own_rate(captioner, paths, config.decoding)
    say(f"{config.clients} clients", f"{done}; {done.latency()}")
    share = rate / ((before + after) / 2)
    say("rate", f"{rate:.1f} pictures/s, own batches {before:.1f} and {after:.1f}: {share:.0%}")
    say("memory in MiB, before and in quarters", ", ".join(f"{size:.0f}" for size in sizes))
    waited, left = await leaving(service, requests, 100)
    say("100 clients that leave", f"{waited:.0f} waited, {left:.0f} after they left")
    say("400 clients", f"{await load(service, requests, alone, 400, 10)}; {service.memory():.0f} MiB")
    say("SIGTERM under load", await stopped(service, requests, alone))
    return said


async def stopped(service: Service, requests: list[bytes], alone: list[bytes]) -> str:
    """What becomes of the requests of 64 clients when the service is told to end."""
    asking = asyncio.create_task(load(service, requests, alone, 64, 60))
    await asyncio.sleep(5)
    service.process.send_signal(signal.SIGTERM)
    start = time.monotonic()
    done = await asking
    code = await asyncio.to_thread(service.process.wait)
    return f"{done}; exit code {code} after {time.monotonic() - start:.1f} s"


if __name__ == "__main__":
    (options,) = HfArgumentParser(Config).parse_args_into_dataclasses()
    figures = asyncio.run(trial(options))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
