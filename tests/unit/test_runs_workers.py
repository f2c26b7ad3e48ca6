"""Workers: the rows that one process writes, whoever of them dies and whenever the run is stopped."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bulk
import psutil
import pytest
import tiny
import torch

from magicap import Captioner
from magicap.commands import bulk as command
from magicap.errors import BadSettings
from magicap.images.transform import prepare
from magicap.runs.readers import ReaderPool
from magicap.runs.run import Run
from magicap.runs.settings import RunSettings
from magicap.runs.state import Counts, open_state
from magicap.runs.worker_process import WorkerFailed
from magicap.runs.workers import CaptionWorkers

PATIENCE = 240.0  # seconds for a process to start, on a machine that is busy
THIRD = 3  # pictures before the third batch: its seed


class Doing:
    """A captioner that does something before each batch."""

    def __init__(self, preset: str, first: Any) -> None:
        self.captioner, self.first = Captioner.from_pretrained(preset), first

    def __getattr__(self, name: str) -> Any:
        return getattr(self.captioner, name)

    def caption(self, images: Any, *arguments: Any, **options: Any) -> Any:
        self.first(options["seed"])
        return self.captioner.caption(images, *arguments, **options)


def noting(preset: str, folder: Path, killed_by: str = "", failing_at: int | None = None) -> Any:
    """Loads a captioner that notes each of its batches in a file, dies with some and fails at one."""

    def first(seed: int) -> None:
        notes = folder / "notes"
        is_first = not notes.exists()
        with open(notes, "a") as file:
            file.write(f"{seed}\n")
        if (killed_by == "its first" and is_first) or (killed_by == "the third" and seed == THIRD):
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == failing_at:
            raise ZeroDivisionError("of this captioner")

    return Doing(preset, first)


def failing() -> Any:
    raise MemoryError("no room")


def waiting(preset: str, folder: Path, lines: int = 1) -> Any:
    """A captioner that begins once other processes have noted so many batches."""

    def first(seed: int) -> None:
        del seed
        _wait(folder, lambda seeds: len(seeds) >= lines)

    return Doing(preset, first)


def _wait(folder: Path, holds: Callable[[list[str]], bool]) -> None:
    """Until something holds of the batches that are noted."""
    until, notes = time.monotonic() + PATIENCE, folder / "notes"
    while time.monotonic() < until and not (notes.exists() and holds(notes.read_text().split())):
        time.sleep(0.01)


@pytest.fixture
def pictures(tmp_path):
    return bulk.pictures_in(tmp_path / "pictures", 40)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(
    captioner: Any, load: Any, source: Path, out: Path, others: int = 1, on_rows: Any = None, **settings: Any
) -> tuple[Counts, list[str]]:
    """A run with processes beside this one, in batches of four; its counts, and what it said of workers."""
    of = RunSettings((str(source),), str(out), **{"batch_size": 4, **settings})
    said: list[str] = []
    with (
        open_state(of) as state,
        ReaderPool(0) as readers,
        CaptionWorkers(captioner, load, others, said.append) as workers,
    ):
        counts = Run(of, state, captioner, readers, on_rows or (lambda *_: None), workers).finish()
    return counts, said


@pytest.mark.parametrize(
    ("name", "out"),
    [
        ("a.jsonl", {}),
        pytest.param("a", {"format": "parquet", "rows_per_file": 15}, marks=pytest.mark.slow),
    ],
)
def test_two_write_what_one_writes(pictures, preset, tmp_path, name, out):
    expected = bulk.run(Captioner.from_pretrained(preset), pictures, out=tmp_path / "one" / name, **out)
    found, said = run(
        waiting(preset, tmp_path), partial(noting, preset, tmp_path), pictures, tmp_path / "two" / name, **out
    )
    assert (found, said) == (expected, [])
    assert (tmp_path / "notes").exists()
    one, two = bulk.written(tmp_path / "one"), bulk.written(tmp_path / "two")
    assert one == two


@pytest.mark.slow  # starts processes, and waits for them
def test_a_worker_that_is_killed_leaves_its_batch_to_another(pictures, preset, tmp_path):
    bulk.run(Captioner.from_pretrained(preset), pictures, out=tmp_path / "one.jsonl")
    load = partial(noting, preset, tmp_path, killed_by="its first")
    counts, said = run(waiting(preset, tmp_path), load, pictures, tmp_path / "two.jsonl")
    assert counts.rows == 40
    assert said == ["a worker ended (signal 9); its pictures go to the 1 that are left"]
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


@pytest.mark.slow  # starts processes, and waits for them
def test_pictures_that_end_two_workers_end_the_run_which_can_be_gone_on_with(pictures, preset, tmp_path):
    load = partial(noting, preset, tmp_path, killed_by="the third")
    with pytest.raises(WorkerFailed, match=r"2 ended with the batch from picture 3 on; run the same"):
        run(_until_two_died(preset, tmp_path), load, pictures, tmp_path / "two.jsonl", others=2)
    counts = bulk.run(Captioner.from_pretrained(preset), pictures, out=tmp_path / "two.jsonl")
    bulk.run(Captioner.from_pretrained(preset), pictures, out=tmp_path / "one.jsonl")
    assert counts.rows == 40
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def _until_two_died(preset: str, folder: Path) -> Any:
    """A captioner that begins once two processes have died with the third batch."""

    def first(seed: int) -> None:
        del seed
        _wait(folder, lambda seeds: seeds.count(str(THIRD)) == 2)

    return Doing(preset, first)


@pytest.mark.slow
def test_what_a_worker_raises_the_run_raises(pictures, preset, tmp_path):
    load = partial(noting, preset, tmp_path, failing_at=THIRD)
    with pytest.raises(ZeroDivisionError, match="of this captioner"):
        run(waiting(preset, tmp_path, lines=3), load, pictures, tmp_path / "two.jsonl")


@pytest.mark.slow  # starts processes, and waits for them
@pytest.mark.parametrize(
    ("load", "why"),
    [
        (failing, "MemoryError: no room"),
        (partial(tiny.captioner, 1, max_new_tokens=5), "it loaded another captioner"),
    ],
)
def test_a_worker_that_cannot_begin_is_told_of(pictures, preset, tmp_path, load, why):
    captioner = Captioner.from_pretrained(preset)
    with CaptionWorkers(captioner, load, 1, (said := []).append) as workers:
        until = time.monotonic() + PATIENCE
        while not said and time.monotonic() < until:
            assert workers.submit([], captioner.decoding, 4, 0)() == []
    assert said == [f"a worker ended ({why}); its pictures go to the 1 that are left"]


@pytest.mark.slow  # starts processes, and waits for them
def test_stopped_no_process_is_left_and_another_number_goes_on(pictures, preset, tmp_path):
    def stop(rows: Any, counts: Counts) -> None:
        if counts.rows > 10:
            raise KeyboardInterrupt

    load = partial(noting, preset, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(waiting(preset, tmp_path), load, pictures, tmp_path / "two.jsonl", others=2, on_rows=stop)
    assert psutil.Process().children() == []
    assert torch.get_num_threads() == 1
    kept = []
    run(
        Captioner.from_pretrained(preset),
        load,
        pictures,
        tmp_path / "two.jsonl",
        on_rows=lambda rows, counts: kept.append(not rows),
    )
    assert kept[:4] == [True, True, True, True]
    assert not any(kept[5:])
    bulk.run(Captioner.from_pretrained(preset), pictures, out=tmp_path / "one.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_each_has_its_share_of_the_threads(preset):
    torch.set_num_threads(3)
    with CaptionWorkers(Captioner.from_pretrained(preset), failing, 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3


def test_on_a_gpu_it_is_refused(pictures, tmp_path):
    options = command.Options(out=str(tmp_path / "o.jsonl"), workers=2, readers=0)
    on_gpu = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(BadSettings, match=r"--workers 2: expected a processor, found cuda; .* --shard I/N"):
        command.run(options, [str(pictures)], None, lambda: on_gpu)
    options = command.Options(out=str(tmp_path / "o.jsonl"), workers=0)
    with pytest.raises(BadSettings, match=r"--workers: expected at least 1, found 0; .* are --readers"):
        command.run(options, [str(pictures)], None, lambda: on_gpu)


@pytest.mark.slow  # starts processes, and waits for them
def test_what_cannot_be_sent_to_a_worker_is_raised(pictures, preset, tmp_path):
    captioner = waiting(preset, tmp_path)
    with CaptionWorkers(captioner, partial(noting, preset, tmp_path), 1) as workers:
        picture = [prepare(tiny.pictures(1)[0], captioner.transform)]
        held, other = (workers.submit(picture, decoding, 4, 0) for decoding in (None, lambda context: []))
        with pytest.raises((AttributeError, pickle.PicklingError)):
            other()
        workers.submit(picture, None, 4, 0)()
        assert held() == captioner.captioner.caption(picture, seed=0)
