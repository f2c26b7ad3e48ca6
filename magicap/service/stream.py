"""Server-sent events: the progress of one picture's caption."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel

from magicap.service.answers import error_detail
from magicap.service.batching import Job
from magicap.service.errors import ServiceError

UNBUFFERED = {"X-Accel-Buffering": "no"}
"""Headers of a stream: nginx passes events on as they come."""

_DONE = object()  # what a job's reports end with


def event(name: str, data: BaseModel) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n".encode()


def error_event(error: ServiceError, request_id: str) -> bytes:
    """The event that ends a stream whose status went out as 200 before it failed."""
    return event("error", error_detail(error, request_id))


class JobEvents:
    """What the worker reports of a job, for the event loop to take."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()

    def report(self, reported: Any) -> None:
        """Called by the worker's thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, reported)

    async def of(self, job: Job) -> AsyncIterator[Any]:
        """What is reported of a job until it is done."""
        job.future.add_done_callback(lambda _: self.report(_DONE))
        while (reported := await self._events.get()) is not _DONE:
            yield reported
