"""Recipes that caption shards on several processes: a killed worker costs no row, and gives none twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tiny
from bulk import rows_in, write_pictures
from repository import RECIPES, recipe

from magicap.errors import BadSettings

PICTURES, PER_SHARD = 72, 6


@pytest.fixture(scope="module")
def places() -> Iterator[Path]:
    """Pictures, a tiny captioner, and what one process makes of them; a short path, as Ray's sockets need."""
    with tempfile.TemporaryDirectory(prefix="mc", dir="/tmp") as name:
        folder = Path(name)
        write_pictures(folder / "pictures", PICTURES)
        tiny.captioner(0, max_new_tokens=5).save_pretrained(folder / "preset")
        yield folder


@pytest.fixture(scope="module")
def alone(places) -> list[dict[str, Any]]:
    """The rows of a single process, without torchrun."""
    caption = recipe("caption_accelerate")
    sources, preset = [str(places / "pictures")], str(places / "preset")
    config = caption.Config(
        sources, str(places / "alone"), preset, pictures_per_shard=PER_SHARD, batch_size=1, cpu=True
    )
    caption.main(config)
    return rows_of(places / "alone")


def options(places: Path, out: str) -> list[str]:
    return [
        f"--sources={places / 'pictures'}",
        f"--out={places / out}",
        f"--preset={places / 'preset'}",
        f"--pictures_per_shard={PER_SHARD}",
        "--batch_size=1",
    ]


def accelerate(places: Path, out: str, count: int, restarts: int = 0) -> list[str]:
    """The command with so many ranks."""
    start = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", f"--max-restarts={restarts}"]
    script = str(RECIPES / "caption_accelerate.py")
    return [sys.executable, *start, script, *options(places, out), "--cpu"]


def begin(command: list[str], places: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(RECIPES.parent),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": str(places / "r"),
    }
    (places / "r").mkdir(exist_ok=True)
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], code: int | None = 0) -> str:
    """What a command wrote on stderr; None takes any exit code but 0."""
    try:
        _, complaints = process.communicate(timeout=100)
    except subprocess.TimeoutExpired:
        process.terminate()
        raise
    assert process.returncode == code if code is not None else process.returncode, complaints
    return complaints


def kill_one(process: subprocess.Popen[str], out: Path, title: str) -> None:
    """Kill a worker that a command started, in the middle of a shard, once another shard is done."""
    while True:
        assert process.poll() is None, process.communicate()
        children = psutil.Process(process.pid).children(recursive=True) if list(out.glob("*.parquet")) else []
        workers = [child for child in children if is_worker(child, title)]
        for worker in workers:
            worker.suspend()  # so that what is seen stays so
            if len(workers) > 1 and any((out / "_shards" / name).is_dir() for name in claimed_by(worker)):
                worker.send_signal(signal.SIGKILL)
                return
            worker.resume()
        time.sleep(0.005)


def claimed_by(process: psutil.Process) -> list[str]:
    """The shards that a process holds."""
    return [Path(file.path).stem for file in process.open_files() if file.path.endswith("-pictures.lock")]


def is_worker(process: psutil.Process, title: str) -> bool:
    try:
        return (
            any(title in word for word in process.cmdline())
            and "torch.distributed.run" not in process.cmdline()
        )
    except psutil.Error:  # it has ended
        return False


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of a run that is complete, by id, each once."""
    rows = sorted(rows_in(out), key=lambda row: row["id"])
    assert len({row["id"] for row in rows}) == len(rows) == PICTURES
    success = json.loads((out / "_SUCCESS").read_text())
    assert (success["rows"], success["shards"]) == (PICTURES, PICTURES // PER_SHARD)
    return rows


def test_an_actor_gives_columns_and_raises_nothing(places):
    caption = recipe("caption_ray")
    from sharding import ShardsFailed  # lies beside the recipes

    out, preset = str(places / "actor"), str(places / "preset")
    config = caption.Config(
        [str(places / "pictures")], out, preset, pictures_per_shard=PER_SHARD, max_actors=1, format="jsonl"
    )
    plan = caption.plan_of(config)
    first, second = plan.shards[:2]
    Path(second.source).rename(places / "away.txt")
    batch = {
        "shard": np.array([first.id, second.id]),
        "source": np.array([first.source, second.source]),
    }
    actor = caption.CaptionShard(plan.settings, preset, "cpu", "float32", 1, 60.0)
    columns = actor(batch)
    assert columns["shard"].tolist() == [first.id, second.id]
    assert (columns["rows"].tolist(), columns["rows"].dtype) == ([PER_SHARD, 0], np.int64)
    assert columns["errors"].dtype == np.int64
    assert columns["failure"][0] == ""
    assert "00001.txt: expected to read it, found nothing there" in columns["failure"][1]
    assert not plan.is_done(second)
    with pytest.raises(ShardsFailed, match=r"expected 12 shards, found 11 that failed; .*nothing there"):
        caption.finish(plan, {second.id: columns["failure"][1]})
    unloaded = caption.CaptionShard(plan.settings, str(places / "nosuch"), "cpu", "float32", 1, 60.0)
    assert "nosuch" in unloaded(batch)["failure"][0]


def test_options_that_contradict_each_other_are_refused():
    config = recipe("caption_ray").Config
    with pytest.raises(BadSettings, match="--max_actors must be at least --min_actors, 2, found 1"):
        config(["a"], "out", min_actors=2, max_actors=1)
    with pytest.raises(BadSettings, match="num_gpus"):
        config(["a"], "out", num_gpus=-1)
    with pytest.raises(BadSettings, match="give --sources PATH"):
        recipe("caption_accelerate").main(recipe("caption_accelerate").Config([], "out"))


@pytest.mark.slow
def test_one_rank_makes_what_one_process_makes(places, alone):
    end(begin(accelerate(places, "one", 1), places))
    assert rows_of(places / "one") == alone


@pytest.mark.slow
def test_torchrun_with_a_killed_rank_is_gone_on_with(places, alone):
    process = begin(accelerate(places, "two", 2), places)
    kill_one(process, places / "two", "caption_accelerate.py")
    end(process, None)
    assert not (places / "two/_SUCCESS").exists()
    written = {path: path.stat().st_mtime_ns for path in (places / "two").glob("*.parquet")}
    end(begin(accelerate(places, "two", 2), places))
    assert rows_of(places / "two") == alone
    assert {path: path.stat().st_mtime_ns for path in written} == written


@pytest.mark.slow
def test_torchrun_restarts_ranks_of_which_one_is_killed(places, alone):
    process = begin(accelerate(places, "three", 3, restarts=1), places)
    kill_one(process, places / "three", "caption_accelerate.py")
    end(process)
    assert rows_of(places / "three") == alone


@pytest.mark.slow
def test_ray_with_a_killed_actor_captions_every_shard_once(places, alone):
    command = [
        sys.executable,
        str(RECIPES / "caption_ray.py"),
        *options(places, "ray"),
        "--min_actors=2",
        "--max_actors=2",
    ]
    process = begin(command, places)
    kill_one(process, places / "ray", "ray::MapWorker")
    end(process)
    assert rows_of(places / "ray") == alone
    before = {path: path.stat().st_mtime_ns for path in (places / "ray").rglob("*.parquet")}
    assert "12 shards, 72 rows" in end(begin(command, places))  # all are skipped: no Ray is started
    assert {path: path.stat().st_mtime_ns for path in (places / "ray").rglob("*.parquet")} == before
