"""What stands before all routes: request ids, the token, the size of bodies, headers, a line of log."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from magicap.service.answers import ErrorAnswer, error_detail
from magicap.service.errors import ServiceError, busy, too_large, unauthorized, unexpected
from magicap.service.limits import ServiceLimits
from magicap.service.prometheus import ServiceMetrics

_LOG = logging.getLogger("magicap.service")
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
_LEFT = 499  # the status of a request whose client left, as nginx logs it
_OPEN = ("/", "/page/", "/healthz", "/readyz")  # what needs no token
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors {frames}"
)


def error_response(error: ServiceError, request_id: str) -> JSONResponse:
    """An error in the one form that all have."""
    detail = error_detail(error, request_id)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(ErrorAnswer(error=detail).model_dump(), error.status, headers)


def request_id_of(request: Request) -> str:
    """The id of a request, which stands in the log too."""
    return str(request.scope.get("state", {}).get("request_id", ""))


class RequestMiddleware:
    """Names requests, adds headers to answers, counts and logs them: no content, no query, no address."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, frames: Sequence[str] = ()) -> None:
        self._app, self._metrics = app, metrics
        self._policy = _POLICY.format(frames=" ".join(frames) or "'none'")
        self._is_framed = bool(frames)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an ASGI request; an error that the application raised is logged and answered with 500."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get("x-request-id", "")
        request_id = sent if _ID.fullmatch(sent) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        start, status = time.monotonic(), 0

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add(MutableHeaders(scope=message), request_id)
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except ClientDisconnect:  # in the middle of its body
            pass
        except Exception as error:
            response = error_response(unexpected(error, request_id), request_id)
            if not status:  # else the connection ends where the answer broke off
                await response(scope, receive, with_headers)
        finally:
            seconds = time.monotonic() - start
            path = _path(scope)
            self._metrics.requests.labels(path, str(status or _LEFT)).inc()
            self._metrics.seconds.labels(path).observe(seconds)
            method = scope["method"] if scope["method"] in _METHODS else "other"
            _LOG.info("%s %s %s %d %.3f s", request_id, method, path, status or _LEFT, seconds)

    def _add(self, headers: MutableHeaders, request_id: str) -> None:
        headers["X-Request-ID"] = request_id
        headers["X-Content-Type-Options"] = "nosniff"
        headers["Referrer-Policy"] = "no-referrer"
        headers["Content-Security-Policy"] = self._policy
        if not self._is_framed:
            headers["X-Frame-Options"] = "DENY"
        headers.setdefault("Cache-Control", "no-store")


def _path(scope: Scope) -> str:
    """The route's own path, so that metrics and logs hold no text of strangers."""
    return str(getattr(scope.get("route"), "path", "other"))


class AccessMiddleware:
    """Refuses requests without the token, from other sites' pages, and with bodies that are too large.

    Args:
        hosts: names by which the service may be asked for, without ports; none: by any. Another site's name
            that leads to a loopback address (DNS rebinding) would make its page one of the service's own.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: ServiceLimits,
        token: str | None,
        origins: Sequence[str] = (),
        hosts: Sequence[str] = (),
    ) -> None:
        self._app, self._limits, self._origins = app, limits, frozenset(origins)
        self._hosts = frozenset(hosts)
        self._token = None if token is None else token.encode()
        self._received = 0  # bytes of all bodies that are held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an ASGI request, or refuse it with the :class:`ServiceError` that a check raised."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self, receive)
        try:
            self._check(scope)
            await self._app(scope, body.receive, send)
        except ServiceError as error:
            response = error_response(error, request_id_of(Request(scope)))
            await response(scope, receive, send)
        finally:
            self._received -= body.count

    def take(self, count: int, before: int) -> None:
        """Note that a body has ``count`` bytes more.

        Raises:
            ServiceError: it is too large, or all together are.
        """
        if before + count > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        if self._received + count > self._limits.received_bytes:
            raise busy(1)
        self._received += count

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        is_open = path in _OPEN or path.startswith("/page/")
        if self._token is not None and not is_open:
            kind, _, token = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(token.strip().encode("latin-1"), self._token)
            if kind.lower() != "bearer" or not is_right:
                raise unauthorized()
        if self._hosts and _hostname(headers.get("host", "")) not in self._hosts:
            raise ServiceError(
                403,
                "host",
                "expected a name of the service as host; allow others with --allowed-host, or set a token",
            )
        origin = headers.get("origin")
        if origin and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            self._require_own_page(origin, headers.get("host", ""))
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)

    def _require_own_page(self, origin: str, host: str) -> None:
        """Browsers send forms of any page anywhere: one of another site may not use this service."""
        if origin in self._origins or origin.partition("://")[2] == host:
            return
        raise ServiceError(
            403, "origin", "expected a request from the service's own page; allow others with --cors-origin"
        )


def _hostname(host: str) -> str:
    """A Host header without its port."""
    return re.sub(r":\d*$", "", host).lower()


class _Body:
    """Counts a request's body as it comes."""

    def __init__(self, guard: AccessMiddleware, receive: Receive) -> None:
        self._guard, self._receive = guard, receive
        self.count = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._guard.take(size, self.count)
            self.count += size
        return message
