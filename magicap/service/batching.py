"""Concurrent requests searched together: one thread runs the models, and takes what waits as batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Protocol

from magicap.errors import BadSettings, MagicapError
from magicap.images.transform import PreparedImage
from magicap.service.errors import busy, stopping

_LOG = logging.getLogger(__name__)
_SMOOTHING = 0.2  # weight of the newest batch in the mean time of a job


def _ignore(reported: Any) -> None:
    """Nobody is interested."""


class Task(Protocol):
    """What is to be done with pictures. Jobs of equal tasks are done together."""

    def __hash__(self) -> int: ...

    def run(self, jobs: Sequence[Job]) -> Sequence[Any]:
        """The results of jobs, one each."""


@dataclass(eq=False)
class Job:
    """One picture, or another input, and what is to be done with it."""

    task: Task
    image: PreparedImage | None = None
    seed: int = 0
    report: Callable[[Any], None] = _ignore
    """Called by the worker with what there is to report before the result."""

    future: Future[Any] = field(default_factory=Future)
    is_unwanted: bool = False
    """Whether whoever asked has left: its result goes nowhere."""


class BatchingQueue:
    """Jobs in the order in which they came, done in batches by a thread of its own.

    A batch is the oldest job and those of the same task behind it: as many as wait, so that an idle service
    answers at once and a busy one computes together.

    Args:
        most: jobs that may wait.
        batch_size: jobs that are done together.
        on_batch: called with the number of jobs of each batch and the seconds that it took.
    """

    def __init__(
        self, most: int, batch_size: int, on_batch: Callable[[int, float], None] = lambda count, seconds: None
    ) -> None:
        self._most, self._batch_size, self._on_batch = most, batch_size, on_batch
        self._jobs: deque[Job] = deque()
        self._reserved = 0  # places of jobs that are still being made
        self._changed = threading.Condition()
        self._is_closed = False
        self._seconds_a_job = 0.1
        self._thread = threading.Thread(target=self._work, name="magicap-models", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Jobs that wait, and places that are reserved."""
        return len(self._jobs) + self._reserved

    @property
    def is_alive(self) -> bool:
        """Whether its thread takes jobs."""
        return self._thread.is_alive() and not self._is_closed

    def reserve(self, count: int) -> None:
        """Keep places for jobs that are still being made; :meth:`release` gives them up.

        Raises:
            ServiceError: there is no room for them.
        """
        with self._changed:
            self._require_room(count)
            self._reserved += count

    def release(self, count: int) -> None:
        """Give up places that were reserved."""
        with self._changed:
            self._reserved -= count

    def submit(self, jobs: Sequence[Job]) -> None:
        """Have jobs done: all of them, or none.

        Raises:
            ServiceError: there is no room for them, or the queue is closed.
        """
        with self._changed:
            self._require_room(len(jobs))
            self._jobs.extend(jobs)
            self._changed.notify()

    def require_room(self) -> None:
        """Refuse early, before a body is read.

        Raises:
            ServiceError: there is no room for a job, or the queue is closed.
        """
        with self._changed:
            self._require_room(1)

    def withdraw(self, jobs: Sequence[Job]) -> None:
        """Give up the places of jobs whose results nobody wants any more."""
        with self._changed:
            for job in jobs:
                job.is_unwanted = True
                if job in self._jobs:
                    self._jobs.remove(job)

    def close(self) -> None:
        """Take no more jobs, give up those that wait, and end the thread once its batch is done."""
        with self._changed:
            self._is_closed = True
            self._jobs.clear()
            self._changed.notify()
        self._thread.join()

    def _require_room(self, count: int) -> None:
        if self._is_closed:
            raise stopping()
        if len(self) + count > self._most:
            # until what waits now is done, as far as that can be said
            raise busy(max(1, ceil(len(self) * self._seconds_a_job)))

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            start = time.monotonic()
            try:
                _run(batch)
                seconds = time.monotonic() - start
                self._seconds_a_job += _SMOOTHING * (seconds / len(batch) - self._seconds_a_job)
                self._on_batch(len(batch), seconds)
            except Exception:  # of ours: the thread must outlive it
                _LOG.exception("a batch of %d could not be finished", len(batch))

    def _next(self) -> list[Job] | None:
        """The oldest job with those that go with it; None: the queue is closed and empty."""
        with self._changed:
            while not self._jobs:
                if self._is_closed:
                    return None
                self._changed.wait()
            task = self._jobs[0].task
            batch = [job for job in self._jobs if job.task == task][: self._batch_size]
            chosen = set(batch)
            self._jobs = deque(job for job in self._jobs if job not in chosen)
            return batch


def _run(batch: list[Job]) -> None:
    """Do the jobs of a batch and give each its result or its error."""
    try:
        results = list(batch[0].task.run(batch))
        if len(results) != len(batch):
            raise RuntimeError(f"expected a result a job, found {len(results)} for {len(batch)}")
    except Exception as error:
        if len(batch) == 1 or isinstance(error, BadSettings):  # which would fail them one by one, too
            for job in batch:
                job.future.set_exception(error)
            return
        if not isinstance(error, MagicapError):
            _LOG.exception("a batch of %d failed; its jobs are tried one by one", len(batch))
        for job in batch:
            if not job.is_unwanted:
                job.report = _ignore  # it was called for some tokens already
                _run([job])
        return
    for job, result in zip(batch, results, strict=True):
        job.future.set_result(result)
