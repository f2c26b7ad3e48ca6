"""The process that serves: a socket, uvicorn, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from magicap.service.service import Service

_QUIET_SECONDS = 0.5  # without a request before the socket is closed: those on their way get their 503
_BACKLOG = 2048


class Server(uvicorn.Server):
    """A uvicorn server with a graceful end.

    It answers 503 to what is new, finishes what it began, and closes its socket only then.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._ends_at = self._quiet_since = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends it in order, the second at once."""
        if self._service.is_stopping:
            os._exit(128 + sig)  # nothing is kept, so nothing has to be mended
        self._service.is_stopping = True
        self._ends_at = time.monotonic() + self._service.limits.timeout

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end."""
        if self._service.is_stopping:
            now = time.monotonic()
            if self.server_state.tasks:
                self._quiet_since = float("inf")
            else:
                self._quiet_since = min(self._quiet_since, now)
            if now - self._quiet_since > _QUIET_SECONDS or now > self._ends_at:
                self.should_exit = True
                self.config.timeout_graceful_shutdown = max(1, int(self._ends_at - now))
        return await super().on_tick(counter)


def serve(app: FastAPI, service: Service, listener: socket.socket) -> None:
    """Serve at a bound socket until a signal ends it."""
    config = uvicorn.Config(
        app,
        backlog=_BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
    )
    server = Server(config, service)
    try:
        asyncio.run(server.serve([listener]))
    finally:
        service.close()
