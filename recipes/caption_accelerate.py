"""Caption shards of pictures on all GPUs of one machine or several: torchrun or accelerate launch start it.

    torchrun --nproc-per-node 8 recipes/caption_accelerate.py --sources 'tars/*.tar' --out captions
    python recipes/caption_accelerate.py --sources pictures/ --out captions

The first line starts a process a GPU, the second one process. On several machines that share the disk of
--sources and --out, start torchrun on each with --nnodes, --node-rank and --master-addr, or start processes
by any scheduler, at any time: they share nothing but the folder --out. Each takes a shard that nobody
captions (a tar file, a Parquet table, or so many pictures of a folder) and writes its file, such as
captions/00000-train.parquet. Once all are there, captions/_SUCCESS has the counts.

The same command goes on after whatever ended it, behind the last batch, on any number of processes. Where one
is killed, torchrun ends the others, or starts all anew with --max-restarts. A shard whose source cannot be
read fails: it has no file, is named in the end with exit code 1, and is tried by the next run.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial

import torch
from cli import run
from sharding import ShardOptions, ShardsFailed, finish, note, plan_of, tell

from magicap.captioners.load import load_captioner
from magicap.runs.readers import ReaderPool
from magicap.runs.shard_work import caption_shards
from magicap.runs.shards import ShardPlan


@dataclass(frozen=True)
class Config(ShardOptions):
    cpu: bool = False
    """Stay on the CPU even where a GPU is at hand."""


@dataclass(frozen=True)
class Worker:
    """What torchrun or accelerate launch tells a process that it started.

    It joins no process group: workers exchange nothing, and with torch 2.15 a group cannot be joined again
    after torchrun has restarted its processes.
    """

    rank: int
    """Among all processes, from 0. It may change with a restart: shards are claimed by their ids alone."""

    count: int
    """Of all processes."""

    local_rank: int
    """Among those of this machine, from 0."""

    @classmethod
    def of_environment(cls) -> Worker:
        """This process; the only one where nothing started it."""
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        return cls(*(int(os.environ.get(name, default)) for name, default in names.items()))

    def device(self, cpu: bool) -> str | None:
        """A GPU of this machine for each process; None: as a captioner chooses."""
        if cpu or not torch.cuda.is_available():
            return "cpu" if cpu else None
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"


def main(config: Config) -> None:
    worker = Worker.of_environment()
    plan = plan_of(config)
    plan.forget_failures()
    failures = caption(config, plan, worker) if plan.left() else {}
    try:
        line = finish(plan, failures)
    except ShardsFailed:
        if worker.rank == 0:
            raise
        sys.exit(1)
    if worker.rank == 0:
        note(line)


def caption(config: Config, plan: ShardPlan, worker: Worker) -> dict[str, str]:
    """Caption shards with one captioner, until all are done; gives those that failed, and why."""
    device = worker.device(config.cpu)
    if device is not None and device.startswith("cuda"):
        torch.cuda.set_device(device)
    first = len(plan.shards) * worker.rank // worker.count  # so that workers meet at few shards
    with ReaderPool(config.readers, config.image_timeout) as readers:
        captioner = load_captioner(config.preset, device=device, dtype=config.dtype)
        return caption_shards(plan, captioner, readers, first=first, on_outcome=partial(tell, plan))


if __name__ == "__main__":
    run(main, Config)
