"""The queue that batches: who goes together, what fails, what is given up, and a thread that outlives it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from served import Held, until

from magicap.errors import BadSettings
from magicap.results import Caption
from magicap.service.batching import BatchingQueue, Job
from magicap.service.errors import ServiceError
from magicap.service.tasks import CaptionTask


def test_jobs_of_one_task_are_done_together() -> None:
    first, second, sizes = Held(), Held(), []  # type: ignore[var-annotated]
    queue = BatchingQueue(10, 4, lambda count, seconds: sizes.append(count))
    jobs = [Job(first, seed=0)]
    queue.submit(jobs)
    until(lambda: len(first.batches) == 1)
    more = [Job(first if seed % 2 else second, seed=seed) for seed in range(1, 10)]
    queue.submit(more)
    gone = more[2]  # seed 3
    queue.withdraw([gone])
    first.go.set()
    second.go.set()
    assert [job.future.result(5) for job in [*jobs, *more] if job is not gone] == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert first.batches == [[0], [1, 5, 7, 9]]
    assert second.batches == [[2, 4, 6, 8]]
    until(lambda: len(sizes) == 3)
    queue.close()
    assert sizes == [1, 4, 4]
    assert not gone.future.done()
    with pytest.raises(ServiceError, match="stopped"):
        queue.submit([Job(first)])


def test_settings_that_do_not_fit_fail_a_batch_at_once() -> None:
    class Refusing:
        def __init__(self) -> None:
            self.runs = 0

        def run(self, jobs: Sequence[Job]) -> list[int]:
            self.runs += 1
            raise BadSettings("none of the captions has 50 words")

    held, refusing = Held(), Refusing()
    queue = BatchingQueue(20, 16)
    queue.submit([Job(held)])
    jobs = [Job(refusing) for _ in range(16)]
    queue.submit(jobs)
    held.go.set()
    for job in jobs:
        with pytest.raises(BadSettings):
            job.future.result(5)
    assert refusing.runs == 1
    queue.close()


def test_the_thread_outlives_what_it_is_given() -> None:
    class Short:
        def run(self, jobs: Sequence[Job]) -> list[int]:
            return []

    held = Held()
    queue = BatchingQueue(10, 4, lambda count, seconds: 1 / 0)  # type: ignore[arg-type,return-value]
    job = Job(Short())
    queue.submit([job])
    with pytest.raises(RuntimeError, match="a result a job"):
        job.future.result(5)
    held.go.set()
    last = Job(held, seed=4)
    queue.submit([last])
    assert last.future.result(5) == 4
    assert queue.is_alive
    queue.close()
    assert not queue.is_alive


def test_a_search_that_nobody_waits_for_is_given_up() -> None:
    steps: list[int] = []

    class Long:
        def caption_batch_with_progress(self, *_: Any, **__: Any) -> Any:
            for step in range(10_000):
                steps.append(step)
                time.sleep(0.005)
                yield []
            return [Caption("")]

    queue = BatchingQueue(10, 4)
    job = Job(CaptionTask(Long(), None))  # type: ignore[arg-type]
    queue.submit([job])
    until(lambda: len(steps) > 3)
    queue.withdraw([job])
    job.future.result(5)
    assert len(steps) < 1000
    queue.close()


def test_a_job_that_fails_fails_alone() -> None:
    class Picky:
        def run(self, jobs: Sequence[Job]) -> list[int]:
            if any(job.seed == 1 for job in jobs):
                raise ValueError("not one")
            return [job.seed for job in jobs]

    held, picky = Held(), Picky()
    queue = BatchingQueue(10, 4)
    queue.submit([Job(held)])
    jobs = [Job(picky, seed=seed) for seed in range(3)]
    queue.submit(jobs)
    held.go.set()
    assert (jobs[0].future.result(5), jobs[2].future.result(5)) == (0, 2)
    with pytest.raises(ValueError, match="not one"):
        jobs[1].future.result(5)
    queue.close()
