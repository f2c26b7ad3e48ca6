"""Changed files, read in forked processes with limits on memory and time: what is neither read nor refused.

``make fuzz SEED=1`` prints a line a door and a line a finding, which names the input as DOOR:NUMBER;
``make fuzz SEED=1 ARGS="--only DOOR:NUMBER"`` reads that one again, with its traceback.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fuzz.doors import Door, others, pictures
from fuzz.mutations import mutated

from magicap.errors import MagicapError

MEMORY = 1536 << 20
"""Bytes that a process may take beyond the libraries."""

SECONDS = 10
"""Processor time of one input."""

BATCH = 100
"""Inputs that one process reads, one after the other."""


@dataclass
class Outcome:
    """What became of a door's inputs."""

    counts: Counter[str] = field(default_factory=Counter)
    """Of ``read``, ``refused`` and ``found``."""

    findings: list[str] = field(default_factory=list)
    """``DOOR:NUMBER: what happened``."""


def fuzz(doors: Sequence[Door], seed: int, count: int) -> Iterator[tuple[Door, Outcome]]:
    """Read so many changed files, shared among the doors."""
    for place, door in enumerate(doors):
        numbers = range(count * place // len(doors), count * (place + 1) // len(doors))
        outcome = Outcome()
        start = numbers.start
        while start < numbers.stop:
            start = _batch(door, seed, range(start, min(start + BATCH, numbers.stop)), outcome)
        yield door, outcome


def _batch(door: Door, seed: int, numbers: range, outcome: Outcome) -> int:
    """Read some inputs in a process; the number to go on with, if it was ended by one of them."""
    receiving, sending = os.pipe()
    if not (process := os.fork()):
        os.close(receiving)
        _child(door, seed, numbers, sending)
    os.close(sending)
    with os.fdopen(receiving, encoding="utf-8", errors="replace") as lines:
        answers = [line.rstrip("\n").split("\t") for line in lines]
    _, status = os.waitpid(process, 0)
    for number, what, message in answers:
        outcome.counts[what] += 1
        if what == "found":
            outcome.findings.append(f"{door.name}:{number}: {message}")
    after = int(answers[-1][0]) + 1 if answers else numbers.start
    if status and after < numbers.stop:
        outcome.counts["found"] += 1
        name = signal.Signals(status & 0x7F).name if status & 0x7F else f"exit {status >> 8}"
        outcome.findings.append(f"{door.name}:{after}: the process was ended ({name})")
        for file, whole in door.files.items():
            file.write_bytes(whole)
        return after + 1
    return numbers.stop


def _child(door: Door, seed: int, numbers: range, answers: int) -> None:
    """Answer a line an input: its number, what became of it, and why; never returns."""
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        warnings.simplefilter("ignore")
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for number in numbers:
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # SIGPROF ends the process
            what, message = read(door, seed, number)
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(answers, f"{number}\t{what}\t{message}\n".encode(errors="replace"))
        code = 0
    finally:
        os._exit(code)


def read(door: Door, seed: int, number: int, *, raising: bool = False) -> tuple[str, str]:
    """Read one changed file: ``read``, ``refused``, or ``found``, and the error on one line."""
    draw = random.Random(f"{seed}/{door.name}/{number}")
    file, whole = draw.choice([*door.files.items()])
    file.write_bytes(door.mended(mutated(whole, draw)))
    try:
        door.read(file)
    except MagicapError as error:
        return "refused", _line(error)
    except Exception as error:
        if raising:
            traceback.print_exc()
        last = traceback.extract_tb(error.__traceback__)[-1]
        return "found", f"{file.name}: {_line(error)} ({Path(last.filename).name}, line {last.lineno})"
    finally:
        file.write_bytes(whole)
    return "read", ""


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def main() -> int:
    """Print what was read, refused and found; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--others", type=int, default=2000)
    parser.add_argument("--only", metavar="DOOR:NUMBER")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = [(pictures(Path(folder)), options.pictures), (others(Path(folder)), options.others)]
        if options.only:
            name, number = options.only.rsplit(":", 1)
            door = next(door for doors, _ in kinds for door in doors if door.name == name)
            print(*read(door, options.seed, int(number), raising=True))
            return 0
        found = 0
        for doors, count in kinds:
            for door, outcome in fuzz(doors, options.seed, count):
                counts = ", ".join(f"{outcome.counts[what]} {what}" for what in ("read", "refused", "found"))
                print(f"{door.name}: {counts}", flush=True)
                print(*outcome.findings, sep="\n", end="\n" * bool(outcome.findings), flush=True)
                found += len(outcome.findings)
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
