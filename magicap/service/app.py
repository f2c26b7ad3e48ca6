"""The application: routes, the page, and what stands before them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from magicap.service.answers import StateAnswer
from magicap.service.chat import chat_routes
from magicap.service.errors import ServiceError
from magicap.service.middleware import AccessMiddleware, RequestMiddleware, error_response, request_id_of
from magicap.service.routes import routes
from magicap.service.search import search_routes
from magicap.service.service import Service
from magicap.version import __version__

PAGE = Path(__file__).parent / "page"

_CODES = {404: "not_found", 405: "method", 400: "body"}


def create_app(
    service: Service,
    *,
    token: str | None = None,
    origins: Sequence[str] = (),
    frames: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> FastAPI:
    """The application of a service.

    Args:
        token: what ``Authorization: Bearer TOKEN`` must say, but for the page and the state.
        origins: other sites whose pages may ask (CORS).
        frames: sites that may show the page within theirs.
        hosts: names by which the service may be asked for; none: by any.
    """
    app = FastAPI(
        title="magicap",
        version=__version__,
        summary="Captions of pictures, without training on captioned pictures.",
        docs_url=None,  # both fetch their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect would name whatever host was asked for
    )
    app.include_router(routes(service))
    app.include_router(search_routes(service))
    app.include_router(chat_routes(service))
    _add_state(app, service)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_api_route(
        "/", lambda: FileResponse(PAGE / "index.html"), methods=["GET", "HEAD"], include_in_schema=False
    )
    _add_error_handlers(app)
    app.add_middleware(AccessMiddleware, limits=service.limits, token=token, origins=origins, hosts=hosts)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-ID"],
        )
    app.add_middleware(RequestMiddleware, metrics=service.metrics, frames=frames)
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", tags=["state"])
    async def healthz() -> StateAnswer:
        """Whether the process runs."""
        return StateAnswer(status="ok")

    @app.get("/readyz", tags=["state"], responses={503: {"description": "It is being stopped"}})
    async def readyz() -> StateAnswer:
        """Whether it takes requests: not once it is being stopped."""
        service.require_ready()
        return StateAnswer(status="ready")

    for path, state in (("/healthz", healthz), ("/readyz", readyz)):
        app.add_api_route(path, state, methods=["HEAD"], include_in_schema=False)

    @app.get("/metrics", tags=["state"], response_class=Response)
    async def metrics() -> Response:
        """Counts and times in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ServiceError)
    async def service_error(request: Request, error: ServiceError) -> JSONResponse:
        return error_response(error, request_id_of(request))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        code = _CODES.get(error.status_code, "request")
        response = error_response(
            ServiceError(error.status_code, code, str(error.detail)), request_id_of(request)
        )
        response.headers.update(error.headers or {})
        return response
