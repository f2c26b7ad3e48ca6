"""Two checkouts of this repository: their default captioners on the same pictures, in turn.

What ``eval/speed.py --against PATH`` runs; no script of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from speed_protocol import Seconds, in_turns

from magicap.errors import BadSettings
from magicap.evaluation.tables import aligned

HERE = Path(__file__).resolve().parents[1]
OURS, THEIRS = "ours", "theirs"
WORKER = Path(__file__).with_name("speed_worker.py")


class Checkout:
    """The captioner of one checkout, in a process that stays until the end."""

    def __init__(self, root: Path, pictures: Path, threads: int) -> None:
        """
        Args:
            root: the checkout.
            pictures: folder of the pictures.
            threads: that it may use.

        Raises:
            BadSettings: no checkout, or one whose package Python does not import.
        """
        self.root = root.resolve()
        if not (self.root / "magicap" / "__init__.py").is_file():
            raise BadSettings(f"--against: expected a checkout of this repository, found {root}")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],  # without the worker's folder, so with nothing of ours
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(self.root), "OMP_NUM_THREADS": str(threads)},
            cwd=self.root,
            text=True,
        )
        ready = self.ask(load=str(pictures), threads=threads)
        self.fingerprint: str = ready["fingerprint"]
        if Path(ready["package"]) != self.root / "magicap":
            self.close()
            raise BadSettings(f"{self.root} is to be measured, but Python imports {ready['package']}")

    def ask(self, **command: Any) -> dict[str, Any]:
        """The answer to one command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the captioner of {self.root} ended with {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process, which does so with its input."""
        self._process.communicate()


@dataclass
class Measurement:
    """One checkout with batches of one size."""

    seconds: Seconds = field(default_factory=Seconds)
    captions: list[str] = field(default_factory=list)
    peak_bytes: int = 0


Measurements = dict[tuple[str, int], Measurement]
"""By side and batch size."""


def compare_checkouts(
    folders: Mapping[str, Path],
    pictures: Sequence[bytes],
    batch_sizes: Sequence[int],
    rounds: int,
    threads: int,
) -> Measurements:
    """Caption the same pictures with both, round by round; a first round is not counted.

    Args:
        folders: the checkouts, by side.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number, picture in enumerate(pictures):
            (folder / f"{number:06}").write_bytes(picture)
        checkouts = {}
        for side, root in folders.items():
            checkouts[side] = Checkout(root, folder, threads)
            stack.callback(checkouts[side].close)
        if len({checkout.fingerprint for checkout in checkouts.values()}) > 1:
            print("the checkouts ship different models or memories, so their captions may differ")
        measurements: Measurements = {}
        for counted in (1, rounds):
            measurements = {(side, size): Measurement() for size in batch_sizes for side in folders}
            turns = {
                (side, size): partial(_measure, checkouts[side], size, measurement)
                for (side, size), measurement in measurements.items()
            }
            in_turns(turns, counted)
    return measurements


def _measure(checkout: Checkout, batch_size: int, measurement: Measurement) -> None:
    answer = checkout.ask(batch_size=batch_size)
    measurement.captions, measurement.peak_bytes = answer["captions"], answer["peak_bytes"]
    measurement.seconds.add(answer["wall"], answer["cpu"], len(measurement.captions))


def print_checkouts(measurements: Measurements) -> None:
    """A row for each size of batches, then the peaks of memory."""
    header = ["pictures together", "ours: pictures/s", "theirs: pictures/s", "ours over theirs", "spread"]
    header += ["ours: CPU s/picture", "theirs: CPU s/picture", "ours over theirs by CPU", "equal captions"]
    rows = []
    for size in dict.fromkeys(size for _, size in measurements):
        mine, other = measurements[OURS, size], measurements[THEIRS, size]
        equal = sum(a == b for a, b in zip(mine.captions, other.captions, strict=True))
        row = [f"{size}", f"{1 / mine.seconds.median:.2f}", f"{1 / other.seconds.median:.2f}"]
        row += [f"{other.seconds.median / mine.seconds.median:.3f}"]
        row += [f"{mine.seconds.spread:.0%} and {other.seconds.spread:.0%}"]
        row += [f"{mine.seconds.median_cpu:.4f}", f"{other.seconds.median_cpu:.4f}"]
        row += [f"{other.seconds.median_cpu / mine.seconds.median_cpu:.3f}"]
        rows.append([*row, f"{equal} of {len(mine.captions)} ({equal / len(mine.captions):.1%})"])
    print(aligned(header, rows))
    for side in (OURS, THEIRS):
        peak = max(measurement.peak_bytes for (of, _), measurement in measurements.items() if of == side)
        print(f"{side}: peak resident memory {peak / 1e9:.2f} GB")
