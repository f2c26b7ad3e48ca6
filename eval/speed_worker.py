"""One checkout's default captioner in a process of its own, told by lines of JSON what to do.

``eval/speed.py --against PATH`` starts two of these, each with another checkout on PYTHONPATH. So nothing is
used here but what every checkout has: ``Captioner.from_pretrained`` and ``caption``.

    PYTHONPATH=PATH python eval/speed_worker.py < commands.jsonl

A command is ``{"load": FOLDER, "threads": N}``, files of pictures, read in the order of their names; or
``{"batch_size": N}``, which captions them all. Each is answered by one line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

import magicap
from magicap import Captioner


class Worker:
    """The captioner and the pictures."""

    def __init__(self, folder: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self.pictures = [path.read_bytes() for path in sorted(Path(folder).iterdir())]
        self.captioner: Any = Captioner.from_pretrained(device="cpu")

    def ready(self) -> dict[str, Any]:
        """Which package this is."""
        return {"package": str(Path(magicap.__file__).parent), "fingerprint": self.captioner.fingerprint}

    def caption(self, batch_size: int) -> dict[str, Any]:
        """All pictures, from their bytes; nothing is kept of what was captioned before."""
        prefixes = self.captioner.cache if hasattr(self.captioner, "cache") else self.captioner.trie
        prefixes.clear()
        wall, cpu = time.perf_counter(), time.process_time()
        if batch_size == 1:
            captions = [self.captioner.caption(picture) for picture in self.pictures]
        else:
            captions = self.captioner.caption(self.pictures, batch_size=batch_size)
        return {
            "wall": time.perf_counter() - wall,
            "cpu": time.process_time() - cpu,
            "captions": [str(caption) for caption in captions],
            "peak_bytes": peak_bytes(),
        }


def peak_bytes() -> int:
    """The most memory that this process was resident in.

    Not by getrusage, which begins with what the process that started this one held.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status names no peak (VmHWM)")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    worker: Worker | None = None
    for line in sys.stdin:
        command = json.loads(line)
        if worker is None:
            worker = Worker(command["load"], command["threads"])
            answer = worker.ready()
        else:
            answer = worker.caption(command["batch_size"])
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
