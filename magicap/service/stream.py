"""Server-sent events: the progress of one picture's caption."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel

from magicap.service.answers import ErrorDetail
from magicap.service.batching import Job
from magicap.service.errors import ServiceError

DONE = object()
"""What a job's events end with."""


def event(name: str, data: BaseModel) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {data.model_dump_json()}\n\n".encode()


def error_event(error: ServiceError, request_id: str) -> bytes:
    """The event that ends a stream whose status went out as 200 before it failed."""
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    detail = ErrorDetail(code=error.code, message=error.message, type=kind, request_id=request_id)
    return event("error", detail)


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
        job.future.add_done_callback(lambda _: self.report(DONE))
        while (reported := await self._events.get()) is not DONE:
            yield reported
