"""How speeds are compared: on a machine that is quiet, all systems in turn, medians of rounds.

What ``eval/speed.py`` measures by; no script of its own.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

QUIET = 0.3
"""The load average of the last minute below which a machine is taken to be quiet."""

_PAUSE = 5.0  # seconds between two looks at the load

T = TypeVar("T")


def require_quiet(wait: float) -> bool:
    """Print the load, and wait until the machine is quiet, so many seconds at most; whether it is."""
    deadline = time.monotonic() + wait
    print(f"load average {' '.join(f'{load:.2f}' for load in os.getloadavg())}")
    while (load := os.getloadavg()[0]) >= QUIET:
        left = deadline - time.monotonic()
        if left <= 0:
            print(f"NOT QUIET: load {load:.2f}, expected below {QUIET}; ratios are worth more than seconds")
            return False
        time.sleep(min(_PAUSE, left))
    print(f"quiet: load {load:.2f}")
    return True


@dataclass
class Seconds:
    """What a picture took, of each round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Of wall time."""
        return statistics.median(self.wall)

    @property
    def median_cpu(self) -> float:
        return statistics.median(self.cpu)

    @property
    def spread(self) -> float:
        """Of wall time: how far the slowest round lies from the fastest, as a share of the median."""
        return (max(self.wall) - min(self.wall)) / self.median

    def add(self, wall: float, cpu: float, pictures: int) -> None:
        """One round of so many pictures."""
        self.wall.append(wall / pictures)
        self.cpu.append(cpu / pictures)


@contextmanager
def timed(seconds: Seconds, pictures: int) -> Iterator[None]:
    """Time what is done here to so many pictures."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    seconds.add(time.perf_counter() - wall, time.process_time() - cpu, pictures)


def in_turns(systems: Mapping[T, Callable[[], object]], rounds: int) -> None:
    """Let each system work once a round; those that come first in one round come last in the next."""
    names = list(systems)
    for _ in range(rounds):
        for name in names:
            systems[name]()
        names.reverse()
