"""Processes that read pictures beside the models: a picture that hangs or crashes one costs a row, no run."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from magicap.errors import BadImage
from magicap.images.reader import LIMITS, ImageLimits
from magicap.images.transform import ImageTransform, PreparedImage
from magicap.runs.reader import InThread, Reader, ReaderFailed, ReaderProcess
from magicap.runs.records import WAITS, Record, SourceUnavailable, retrying

TIMEOUT, CRASHED = "timeout", "crashed"
"""Codes of errors beside those of the reader: a picture took too long, or ended the process that read it."""

_SENT = 2  # pictures that a process has at once: the next one waits where it is wanted
_ATTEMPTS = 2  # at a picture that ends its process, which something else may have done
_CHECKS_A_SECOND = 4


@dataclass(eq=False)
class _Task:
    """One picture to read."""

    record: Record
    transform: ImageTransform
    limits: ImageLimits
    future: Future[PreparedImage] = field(default_factory=Future)
    ended: int = 0
    """How many processes it was the first of when they ended."""

    unreachable: int = 0
    """How often a network or a busy machine failed it."""


class ReaderPool:
    """Reader processes, each fed by a thread of its own.

    Args:
        workers: how many processes; 0: a thread of this process reads, for which there is no time limit.
        timeout: seconds that reading one picture may take.
        limits: what a picture may cost.
    """

    def __init__(self, workers: int, timeout: float = 60.0, limits: ImageLimits = LIMITS) -> None:
        self._limits = limits
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._readers: list[Reader] = [ReaderProcess(timeout) for _ in range(workers)] or [InThread()]
        self._is_closed = threading.Event()
        self._threads = [
            threading.Thread(target=self._feed, args=[reader], name="magicap-reader", daemon=True)
            for reader in self._readers
        ]
        watch = threading.Thread(target=self._end_overdue, name="magicap-reader-watch", daemon=True)
        for thread in (*self._threads, watch):
            thread.start()

    def submit(self, record: Record, transform: ImageTransform) -> Future[PreparedImage]:
        """Have a picture read, in turn.

        The future may be cancelled until a reader begins with the picture. Its errors: BadImage, the picture
        cannot be read; SourceUnavailable, its source is gone for the moment; ReaderFailed, no process can be
        started.
        """
        task = _Task(record, transform, self._limits)
        self._tasks.put(task)
        return task.future

    def close(self) -> None:
        """End the processes; what is not read yet is cancelled."""
        self._is_closed.set()
        for reader in self._readers:
            reader.end()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        for reader in self._readers:
            reader.clear()
        while (task := self._next(wait=False)) is not None:
            task.future.set_exception(CancelledError())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _feed(self, reader: Reader) -> None:
        """Keep one reader at work."""
        with suppress(ReaderFailed):  # which whoever asks for a picture is told
            reader.start()
        sent: deque[_Task] = deque()
        while not self._is_closed.is_set():
            while len(sent) < _SENT and (task := self._next(wait=not sent)) is not None:
                _send(reader, task, sent)
            if sent and not self._is_closed.is_set():
                try:
                    _receive(reader, sent)
                except Exception as error:  # whoever waits for the picture raises it
                    sent.popleft().future.set_exception(error)
        for task in sent:
            task.future.set_exception(CancelledError())

    def _next(self, *, wait: bool) -> _Task | None:
        """The next picture that is still wanted; None where there is none now, or the pool was closed."""
        try:
            while (task := self._tasks.get(block=wait)) is not None:
                if task.future.set_running_or_notify_cancel():
                    return task
        except queue.Empty:
            pass
        return None

    def _end_overdue(self) -> None:
        while not self._is_closed.wait(1 / _CHECKS_A_SECOND):
            for reader in self._readers:
                reader.end_if_overdue()


def _send(reader: Reader, task: _Task, sent: deque[_Task]) -> None:
    """Give a picture to a reader."""
    try:
        reader.send(retrying(task.record.load, task.record.id), task.transform, task.limits)
    except Exception as error:  # whoever waits for the picture raises it
        task.future.set_exception(error)
    else:
        sent.append(task)


def _receive(reader: Reader, sent: deque[_Task]) -> None:
    """Take what a reader made of the first of its pictures; give it those again that it lost."""
    answer = reader.receive()
    task = sent[0]
    if answer is None:
        _send_again(reader, sent)
        return
    result, future = answer.result, sent.popleft().future
    if isinstance(result, PreparedImage):
        future.set_result(result)
    elif not answer.is_transient:
        future.set_exception(BadImage(result.code, result.message, source=task.record.id))
    elif task.unreachable < len(WAITS):
        time.sleep(WAITS[task.unreachable])
        task.unreachable += 1
        _send(reader, task, sent)
    else:
        future.set_exception(SourceUnavailable(f"{result}; run the same command again once it is back"))


def _send_again(reader: Reader, sent: deque[_Task]) -> None:
    """Give a reader that ended its pictures again, less the first one if it was tried often enough."""
    lost = list(sent)
    sent.clear()
    lost[0].ended += 1
    if lost[0].ended == _ATTEMPTS:
        lost[0].future.set_exception(_ended(lost[0].record, reader))
        del lost[0]
    for task in lost:
        _send(reader, task, sent)


def _ended(record: Record, reader: Reader) -> BadImage:
    if reader.was_overdue:
        message = (
            f"expected to read it within {reader.timeout:g} seconds, found it unread; shrink or convert it"
        )
        return BadImage(TIMEOUT, message, source=record.id)
    message = "expected a picture that decoders survive, found one that ended the reading process; convert it"
    return BadImage(CRASHED, message, source=record.id)
