"""What reads pictures one after the other: a process of its own, or the thread that asks."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any, Protocol

from magicap.errors import MagicapError
from magicap.images.reader import ImageLimits
from magicap.images.transform import ImageTransform
from magicap.runs.answers import Answer, answer
from magicap.runs.reader_process import READY

MODULE = "magicap.runs.reader_process"
"""What reader processes run."""

_START_SECONDS = 120.0
_PIPE = 1 << 20  # bytes that wait in a pipe: a picture goes in whole, and the process begins the next one


class ReaderFailed(MagicapError, RuntimeError):
    """A reader process that cannot be started."""


class Reader(Protocol):
    """What reads pictures in the order in which they are sent."""

    timeout: float
    """Seconds that reading one picture may take."""

    was_overdue: bool
    """Whether the last picture took longer."""

    def start(self) -> None:
        """Be ready.

        Raises:
            ReaderFailed: it cannot be.
        """

    def send(self, image: Any, transform: ImageTransform, limits: ImageLimits) -> None:
        """Give it a picture's path or bytes. It starts where it has ended.

        Raises:
            ReaderFailed: it cannot be started.
        """

    def receive(self) -> Answer | None:
        """What has become of the first picture that it has; None where the process has ended."""

    def end_if_overdue(self) -> None:
        """End the process if its picture takes too long."""

    def end(self) -> None:
        """End the process for good; whoever waits for its answer gets None."""

    def clear(self) -> None:
        """Let go of what the process had open."""


class InThread:
    """Reads in the thread that asks."""

    def __init__(self) -> None:
        self.timeout, self.was_overdue = float("inf"), False
        self._tasks: deque[tuple[Any, ImageTransform, ImageLimits]] = deque()

    def start(self) -> None:
        """Nothing to start."""

    def send(self, image: Any, transform: ImageTransform, limits: ImageLimits) -> None:
        """Queue a picture; :meth:`receive` reads it."""
        self._tasks.append((image, transform, limits))

    def receive(self) -> Answer | None:
        """Read the first picture of the queue, however long it takes."""
        return answer(*self._tasks.popleft())

    def end_if_overdue(self) -> None:
        """Nothing to end: a thread cannot be killed."""

    def end(self) -> None:
        """Nothing to end."""

    def clear(self) -> None:
        """Nothing is open."""


def started(module: str, threads: int = 1) -> subprocess.Popen[bytes]:
    """A process that runs a module of this package, and is spoken to by its stdin and stdout.

    Args:
        threads: that share a product there.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": str(threads),
    }
    # not multiprocessing, which would run the caller's main module once more
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module],  # -P: nothing is imported from the working folder
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def _widen(pipe: Any) -> None:
    """Let a pipe hold a whole picture, where the system knows how and this user may."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)


class ReaderProcess:
    """A process of :mod:`magicap.runs.reader_process`, started when it is needed."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.was_overdue = timeout, False
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline, self._waiting = float("inf"), 0
        self._lock = threading.Lock()
        self._is_closed = False

    def start(self) -> None:
        """Start the process where none runs, and wait up to 120 seconds until it is ready.

        Raises:
            ReaderFailed: the readers were closed, or the process ended before it was ready.
        """
        if self._process is not None:
            return
        with self._lock:
            if self._is_closed:
                raise ReaderFailed("the readers were closed")
            self._process = started(MODULE)
        self.was_overdue, self._waiting = False, 0
        for stream in (self._process.stdin, self._process.stdout):
            _widen(stream)
        self._deadline = time.monotonic() + _START_SECONDS
        is_ready = self._answer() == READY
        self._deadline = float("inf")
        if not is_ready:
            self._stop()
            raise ReaderFailed(
                "expected a reader process to start, found that it ended; see what it says: "
                f"{sys.executable} -P -m {MODULE}"
            )

    def send(self, image: Any, transform: ImageTransform, limits: ImageLimits) -> None:
        """Write a picture to the process, which is started where it has ended.

        The time of a picture begins to count when the one before it was received.

        Raises:
            ReaderFailed: the process cannot be started.
        """
        self.start()
        process = self._process
        self._waiting += 1
        if self._waiting == 1:  # it is begun at once
            self._deadline = time.monotonic() + self.timeout
        if process is not None and process.stdin is not None:
            with suppress(OSError):  # it has ended, which is seen when its answer is asked for
                pickle.dump((image, transform, limits), process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
                process.stdin.flush()

    def receive(self) -> Answer | None:
        """Wait for the answer to the first picture sent; None where the process crashed or was overdue."""
        answer = self._answer()
        if answer is None or self.was_overdue:
            self._stop()
            return None
        self._waiting -= 1
        self._deadline = time.monotonic() + self.timeout if self._waiting else float("inf")
        return answer  # type: ignore[no-any-return]

    def end_if_overdue(self) -> None:
        """Kill the process if its picture takes longer than ``timeout``; any thread may call it."""
        with self._lock:
            if time.monotonic() > self._deadline and self._process is not None:
                self.was_overdue = True
                self._process.kill()

    def end(self) -> None:
        """Kill the process and let no other be started; any thread may call it."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()

    def clear(self) -> None:
        """Kill the process, close its pipes and reap it."""
        self._stop()

    def _answer(self) -> Any:
        """What the process says next; None where it has ended, or is ended for want of an answer."""
        process = self._process
        if process is None or process.stdout is None:
            return None
        try:
            return pickle.load(process.stdout)  # of our own process
        except Exception:  # an answer that was cut short can raise nearly everything
            return None

    def _stop(self) -> None:
        with self._lock:
            process, self._process = self._process, None
            self._deadline, self._waiting = float("inf"), 0
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # what was to be written has nobody to read it
                        stream.close()
            process.wait()
