"""Processes that read pictures beside the models: a picture that hangs or crashes one costs a row, no run."""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Protocol, Self

from magicap.errors import BadImage, MagicapError
from magicap.images.transform import ImageTransform, PreparedImage, prepare
from magicap.runs.reader_process import READY
from magicap.runs.records import Record, is_transient, retrying

TIMEOUT, CRASHED = "timeout", "crashed"
"""Codes of errors beside those of the reader: a picture took too long, or ended the process that read it."""

_START_SECONDS = 120.0
_CHECKS_A_SECOND = 4
_MODULE = "magicap.runs.reader_process"


class ReaderFailed(MagicapError, RuntimeError):
    """A reader process that cannot be started."""


class ReaderPool:
    """Reader processes, each fed by a thread of its own.

    Args:
        workers: how many processes; 0: a thread of this process reads, for which there is no time limit.
        timeout: seconds that reading one picture may take.
    """

    def __init__(self, workers: int, timeout: float = 60.0) -> None:
        self._tasks: queue.SimpleQueue[tuple[Record, ImageTransform, Future[PreparedImage]] | None] = (
            queue.SimpleQueue()
        )
        self._readers: list[_Reader] = [_Process(timeout) for _ in range(workers)]
        self._readers = self._readers or [_InThread()]
        self._threads = [
            threading.Thread(target=self._feed, args=[reader], name="magicap-reader", daemon=True)
            for reader in self._readers
        ]
        self._is_closed = threading.Event()
        self._watch = threading.Thread(target=self._end_overdue, name="magicap-reader-watch", daemon=True)
        for thread in (*self._threads, self._watch):
            thread.start()

    def submit(self, record: Record, transform: ImageTransform) -> Future[PreparedImage]:
        """Have a picture read, in turn.

        The future's errors: BadImage, the picture cannot be read; SourceUnavailable, its source is gone for
        the moment; ReaderFailed, no process can be started.
        """
        future: Future[PreparedImage] = Future()
        self._tasks.put((record, transform, future))
        return future

    def close(self) -> None:
        """End the processes; what is not read yet stays so."""
        self._is_closed.set()
        for reader in self._readers:
            reader.end()
        for _ in self._threads:
            self._tasks.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _feed(self, reader: _Reader) -> None:
        with suppress(ReaderFailed):  # which whoever asks for a picture is told
            reader.start()
        while (task := self._tasks.get()) is not None and not self._is_closed.is_set():
            record, transform, future = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(_read(reader, record, transform))
            except Exception as error:  # whoever waits for the picture raises it
                future.set_exception(error)

    def _end_overdue(self) -> None:
        while not self._is_closed.wait(1 / _CHECKS_A_SECOND):
            for reader in self._readers:
                reader.end_if_overdue()


def _read(reader: _Reader, record: Record, transform: ImageTransform) -> PreparedImage:
    """A picture by a reader process; tried once more where it ended, which something else may have done."""

    def attempt() -> PreparedImage:
        image = record.load()
        for _ in range(2):
            answer = reader.ask(image, transform)
            if answer is not None:
                break
        if isinstance(answer, PreparedImage):
            return answer
        error = answer if isinstance(answer, BadImage) else _ended(record, reader.timeout, reader.was_overdue)
        if is_transient(error):
            raise error
        raise BadImage(error.code, error.message, source=record.id)

    return retrying(attempt, record.id)


def _ended(record: Record, timeout: float, was_overdue: bool) -> BadImage:
    if was_overdue:
        message = f"expected to read it within {timeout:g} seconds, found it unread; shrink or convert it"
        return BadImage(TIMEOUT, message, source=record.id)
    message = "expected a picture that decoders survive, found one that ended the reading process; convert it"
    return BadImage(CRASHED, message, source=record.id)


class _Reader(Protocol):
    """What reads one picture at a time."""

    timeout: float
    was_overdue: bool
    """Whether the last picture took too long."""

    def start(self) -> None:
        """Be ready.

        Raises:
            ReaderFailed: it cannot be.
        """

    def ask(self, image: Any, transform: ImageTransform) -> PreparedImage | BadImage | None:
        """What a picture's path or bytes become; None where that ended the reading process.

        Raises:
            ReaderFailed: no process can be started.
        """

    def end_if_overdue(self) -> None:
        """End the process if its picture takes too long."""

    def end(self) -> None:
        """End the process for good."""


class _InThread:
    """Reads in the thread that asks."""

    timeout, was_overdue = float("inf"), False

    def start(self) -> None:
        pass

    def ask(self, image: Any, transform: ImageTransform) -> PreparedImage | BadImage | None:
        try:
            return prepare(image, transform)
        except BadImage as error:
            return error

    def end_if_overdue(self) -> None:
        pass

    def end(self) -> None:
        pass


class _Process:
    """A reader process, started when it is needed."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.was_overdue = timeout, False
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = float("inf")
        self._lock = threading.Lock()
        self._is_closed = False

    def ask(self, image: Any, transform: ImageTransform) -> PreparedImage | BadImage | None:
        self.was_overdue = False
        self.start()
        self._deadline = time.monotonic() + self.timeout
        try:
            answer = self._exchange((image, transform))
        finally:
            self._deadline = float("inf")
        if answer is None or self.was_overdue:
            self._stop()
            return None
        return answer  # type: ignore[no-any-return]

    def end_if_overdue(self) -> None:
        with self._lock:
            if time.monotonic() > self._deadline and self._process is not None:
                self.was_overdue = True
                self._process.kill()

    def end(self) -> None:
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()

    def start(self) -> None:
        if self._process is not None:
            return
        # not multiprocessing, which would run the caller's main module once more
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": "1",
        }
        with self._lock:
            if self._is_closed:
                raise ReaderFailed("the readers were closed")
            self._process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        self._deadline = time.monotonic() + _START_SECONDS
        answer = self._answer()
        self._deadline = float("inf")
        if answer != READY:
            self._stop()
            raise ReaderFailed(
                f"expected a reader process to start, found that it ended; try {sys.executable} -m {_MODULE}"
            )

    def _exchange(self, task: Any) -> Any:
        process = self._process
        if process is None or process.stdin is None:
            return None
        try:
            pickle.dump(task, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
        except OSError:  # it has ended
            return None
        return self._answer()

    def _answer(self) -> Any:
        process = self._process
        if process is None or process.stdout is None:
            return None
        try:
            return pickle.load(process.stdout)  # of our own process
        except (EOFError, OSError, pickle.UnpicklingError):
            return None

    def _stop(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):  # what was to be written has nobody to read it
                        stream.close()
            process.wait()
