"""Runs that are killed, over and over, against one that is not: the same bytes, a row a picture.

Makes a folder of the pictures given, and of as many odd files as asked for: copies, cut ones, changed ones,
text and nothing under pictures' names. For every format one run is undisturbed, and one is killed three times
(SIGKILL), ended once (SIGTERM) and refused once, because a picture has changed, before it is let finish. JSON
lines are written to a disk that is too small first, where one can be mounted. Prints a table.

    python eval/interrupted_runs.py --pictures pictures/ --out /tmp/trial --options "--decoding magic"
"""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from magicap.runs.settings import STATE, STATE_BESIDE

BESIDE = ("txt", "imagefolder")
KILLS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True)
class Config:
    pictures: str = field(metadata={"help": "folder of pictures; they are linked, not changed"})
    out: str = field(metadata={"help": "folder to work in, made anew"})
    formats: list[str] = field(default_factory=lambda: ["parquet", "jsonl", "txt", "imagefolder"])
    odd: int = field(default=1000, metadata={"help": "odd files beside the pictures"})
    preset: str = field(default="embedded", metadata={"help": "captioner"})
    options: str = field(default="", metadata={"help": "more options of magicap caption"})
    rows_per_file: int = field(default=2000, metadata={"help": "of folders of files"})
    seed: int = field(default=0, metadata={"help": "for the odd files and the times of the kills"})


def main(config: Config) -> None:
    root = Path(config.out)
    shutil.rmtree(root, ignore_errors=True)
    source = root / "source"
    count = make_source(Path(config.pictures), source, config.odd, random.Random(config.seed))
    print(f"{count} files, {config.odd} of them odd; {config.preset} {config.options}")
    print(
        "| format | rows | errors | s | memory after a tenth, MB | at the end, MB | killed run | same bytes |"
    )
    print("|---|--:|--:|--:|--:|--:|---|---|")
    for kind in config.formats:
        trial(config, kind, root, count)


def trial(config: Config, kind: str, root: Path, count: int) -> None:
    """One format: undisturbed, then killed."""
    whole = Trial(config, kind, root, "undisturbed")
    began = time.monotonic()
    memory = whole.finish()
    seconds = time.monotonic() - began
    expected = whole.written()
    killed = Trial(config, kind, root, "killed")
    rng = random.Random(config.seed)
    for number, kill in enumerate(KILLS):
        killed.end_after(rng.uniform(0.05, 0.2) * seconds + killed.start_seconds, kill)
        if number == 1:
            killed.require_refusal_of_a_changed_picture()
    if kind == "jsonl":
        killed.fill_a_small_disk()
    killed.finish()
    written = killed.written()
    tenth = memory[len(memory) // 10]
    rows, errors = whole.counts()
    others = sum(written.get(name) != data for name, data in expected.items())
    same = "yes" if written == expected else f"NO: {len(written)} files, {others} differ"
    print(
        f"| {kind} | {rows} of {count} | {errors} | {seconds:.0f} | {tenth:.0f} | {memory[-1]:.0f} | "
        f"{', '.join(killed.events)} | {same} |",
        flush=True,
    )


class Trial:
    """One output of one format, beside others."""

    start_seconds = 6.0

    def __init__(self, config: Config, kind: str, root: Path, name: str) -> None:
        self.config, self.kind, self.folder = config, kind, root / f"{kind}-{name}"
        self.folder.mkdir()
        self.source = root / "source"
        self.events: list[str] = []
        self.out = [] if kind in BESIDE else ["--out", "out"]
        if kind in BESIDE:  # which write beside the pictures: each trial has links of its own
            self.source = self.folder / "source"
            shutil.copytree(root / "source", self.source, copy_function=os.link)

    def command(self) -> list[str]:
        config = self.config
        where = [*self.out, "--format", self.kind, "--rows-per-file", str(config.rows_per_file)]
        options = ["--preset", config.preset, *shlex.split(config.options), *where]
        # by its relative path, which is in the rows and the same in both trials
        source = os.path.relpath(self.source, self.folder)
        return [sys.executable, "-m", "magicap", "caption", *options, source]

    def start(self) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self.command(), cwd=self.folder, stderr=pipe, stdout=pipe, text=True)

    def finish(self) -> list[float]:
        """Run to the end; the memory of the process in MB, once a second."""
        process, memory = self.start(), [0.0]
        while process.poll() is None:
            time.sleep(1)
            memory.append(resident(process.pid) or memory[-1])
        text = process.communicate()[1]
        if "pictures a second" not in text and "and whole" not in text:
            raise RuntimeError(f"{self.kind}: exit code {process.returncode}\n{text}")
        return memory

    def end_after(self, seconds: float, number: signal.Signals) -> None:
        process = self.start()
        try:
            process.communicate(timeout=seconds)
            self.events.append("ended of itself")
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            process.communicate()
            self.events.append(number.name)

    def require_refusal_of_a_changed_picture(self) -> None:
        """The first picture gets another time of change: the run must refuse to go on. Then its own again."""
        first = min(self.source.rglob("*.jpg"))
        before = first.stat().st_mtime_ns
        os.utime(first, ns=(before, before + 10**9))
        process = self.start()
        text = process.communicate()[1]
        os.utime(first, ns=(before, before))
        refused = process.returncode == 2 and "sources as they were when the run began" in text
        self.events.append(
            "a changed picture refused" if refused else f"a changed picture NOT refused: {text}"
        )

    def fill_a_small_disk(self) -> None:
        """Go on where the disk is full soon: the state so far is moved to it, and back."""
        here, small = self.folder / "out", self.folder / "small"
        shutil.move(here, small)
        blocks = sum(path.stat().st_blocks for path in small.rglob("*"))
        here.mkdir()
        size = str(512 * blocks + (64 << 10))
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", here], check=False
        ).returncode:
            self.events.append("no small disk to be had")
        else:
            shutil.copytree(small, here, dirs_exist_ok=True)
            process = self.start()
            text = process.communicate()[1]
            shutil.rmtree(small)
            shutil.copytree(here, small)
            subprocess.run(["umount", here], check=True)
            was_full = process.returncode == 2 and "No space left on device" in text
            self.events.append("disk full" if was_full else f"disk NOT full: {text[-200:]}")
        here.rmdir()
        shutil.move(small, here)

    def written(self) -> dict[str, bytes]:
        """Every file that was written, by its path; not what the run notes for itself."""
        base = self.source if self.kind in BESIDE else self.folder / "out"
        files = (path for path in base.rglob("*") if path.is_file())
        paths = {str(path.relative_to(base)): path for path in files}
        states = (STATE, STATE_BESIDE)
        return {name: path.read_bytes() for name, path in paths.items() if not name.startswith(states)}

    def counts(self) -> tuple[int, int]:
        state = self.source / STATE_BESIDE if self.kind in BESIDE else self.folder / "out" / STATE
        values = json.loads((state / "_SUCCESS").read_text())
        return values["rows"], values["errors"]


def resident(pid: int) -> float:
    """Memory of a process in MB; 0 where it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def make_source(pictures: Path, target: Path, odd: int, rng: random.Random) -> int:
    """Links to all pictures and odd files beside them, in folders of a thousand; how many there are."""
    target.mkdir(parents=True)
    files = sorted(path for path in pictures.rglob("*") if path.is_file())
    names = [(path.name, path, 0) for path in files]
    names += [(f"odd {number:04d}.jpg", rng.choice(files), 1 + number % 5) for number in range(odd)]
    rng.shuffle(names)
    for number, (name, path, change) in enumerate(names):
        folder = target / f"{number // 1000:02d}"
        folder.mkdir(exist_ok=True)
        place = folder / f"{number:05d} {name}"
        data = path.read_bytes() if change else b""
        if change == 0:
            os.link(path, place)
        elif change == 1:  # the same content under another name
            place.write_bytes(data)
        elif change == 2:
            place.write_bytes(data[: rng.randrange(len(data))])
        elif change == 3:
            changed = bytearray(data)
            for _ in range(20):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            place.write_bytes(changed)
        else:
            place.write_bytes(b"" if change == 4 else b"<html>404</html>")
    return len(names)


@contextmanager
def unmounted_in_the_end(root: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for place in root.glob("*/out"):
            if place.is_mount():
                subprocess.run(["umount", place], check=False)


if __name__ == "__main__":
    (parsed,) = HfArgumentParser(Config, allow_abbrev=False).parse_args_into_dataclasses()
    with unmounted_in_the_end(Path(parsed.out)):
        main(parsed)
