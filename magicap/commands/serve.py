"""``magicap serve``: a captioner over HTTP, with a page."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from magicap.captioners.presets import DEFAULT, DEFAULT_SUPERVISED, UNPAIRED
from magicap.commands.model_options import MODEL_OPTIONS, MemoryOptions, ModelOptions
from magicap.commands.options import About, add_options, options_of, with_options
from magicap.commands.output import complain
from magicap.errors import BadSettings
from magicap.extras import require
from magicap.models.pinned import LOCAL_DIR

if TYPE_CHECKING:
    from magicap.service.service import Service

TOKEN = "MAGICAP_TOKEN"
"""Environment variable that holds the token: a command line is seen by all users of a machine."""

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

PRESETS = (DEFAULT, UNPAIRED, DEFAULT_SUPERVISED)
"""What is offered where no ``--preset`` is given: all captioners that come with the package."""


@dataclass(frozen=True)
class Options:
    """What ``magicap serve`` is to do."""

    preset: Annotated[list[str] | None, About("NAME|FOLDER")] = None
    """Offer this captioner, the first one by default; default: all that come with the package, or, with
    other models than theirs, the embedded one alone."""

    index: Annotated[str | None, About("INDEX")] = None
    """Search this index too, which 'magicap index' made with the scorer of the first captioner."""

    host: Annotated[str, About("ADDRESS")] = "127.0.0.1"
    """Where to listen; 0.0.0.0: at all addresses of this machine."""

    port: int = 8000
    """Port to listen at; 0: any that is free."""

    token: Annotated[str | None, About("TOKEN")] = None
    """Answer only requests with this token; default: that of the environment variable MAGICAP_TOKEN, if
    any."""

    cors_origin: Annotated[list[str] | None, About("ORIGIN")] = None
    """Let pages of this site ask, for example https://example.org."""

    frame_ancestor: Annotated[list[str] | None, About("ORIGIN")] = None
    """Let pages of this site show the service's page within theirs."""

    allowed_host: Annotated[list[str] | None, About("NAME")] = None
    """Answer under this name too, where only this machine can reach the service and there is no token."""

    queue: int = 256
    """Pictures that may wait; requests that find no room are refused (429)."""

    timeout: float = 30.0
    """Seconds that an answer may take (else 504)."""


def add(commands: Any) -> None:
    """Declare the command and its options."""
    parser = commands.add_parser(
        "serve",
        help="caption pictures over HTTP, with a page",
        description="Serve captions over HTTP: a page at /, the API at /v1 (described at /openapi.json).\n"
        "Ctrl-C or SIGTERM ends it once what it has begun is answered; a second one ends it at once.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser, options_of(Options))
    add_options(parser.add_argument_group("models"), MODEL_OPTIONS)
    parser.set_defaults(run=with_options(run, Options, ModelOptions, MemoryOptions))


def run(options: Options, models: ModelOptions, memory: MemoryOptions) -> int:
    """Take the address, load the first captioner, then serve until a signal ends it."""
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        require(package)
    token = (options.token or os.environ.pop(TOKEN, "")).strip() or None  # readers need not know it
    with _listening(options) as listener:
        service = _service(options, models, memory)
        _log_requests()
        host, port = listener.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        is_open = token is None and not ipaddress.ip_address(host).is_loopback
        if is_open:
            complain(f"anyone who reaches port {port} of this machine may ask: set {TOKEN} to a token")
        from magicap.service.app import create_app
        from magicap.service.server import serve

        app = create_app(
            service,
            token=token,
            origins=options.cors_origin or (),
            frames=options.frame_ancestor or (),
            hosts=() if token or is_open else [*LOOPBACK, options.host, *(options.allowed_host or ())],
        )
        complain(f"serving at http://{address}:{port} (Ctrl-C ends it)")
        serve(app, service, listener)
    return 0


def _listening(options: Options) -> socket.socket:
    """A socket at the address, before anything is loaded: a port that is taken is said at once."""
    if not 0 <= options.port <= 65535:
        raise BadSettings(f"--port: expected 0 to 65535, found {options.port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadSettings(
            f"cannot listen at {options.host} port {options.port}: {reason}; choose another --host or --port"
        ) from error
    return listener


def served_presets(
    presets: Sequence[str] | None, models: ModelOptions, memory: MemoryOptions
) -> tuple[list[str], str]:
    """The presets that are offered, and the models they have in place of their own, described.

    Raises:
        BadSettings: parts that are named, for more presets than one.
    """
    named = []
    if models.language_model is not None:
        named.append(f"language model {_shown(models.language_model)}")
    if models.scorer is not None:
        named.append(f"scorer {_shown(models.scorer)}")
    if memory.samples is not None:
        named.append(f"a memory of {memory.samples} samples" if memory.samples else "no memory")
    if not named and not models.revision:
        return list(presets or PRESETS), ""
    presets = presets or [DEFAULT]
    if len(presets) > 1:
        raise BadSettings(
            "--language-model, --scorer, --memory, --no-memory and --revision apply to a single captioner, "
            f"found {len(presets)} presets; leave all but one --preset out"
        )
    return list(presets), ", ".join(named)


def _shown(part: str) -> str:
    """A part as those who ask may see it: of a folder its own name, the rest is nobody's business."""
    folder = part.removeprefix(LOCAL_DIR)
    return os.path.basename(os.path.abspath(folder)) if os.path.isdir(folder) else part


def _service(options: Options, models: ModelOptions, memory: MemoryOptions) -> Service:
    from magicap.captioners.zero_shot import Captioner
    from magicap.service.index import ServedIndex
    from magicap.service.limits import ServiceLimits
    from magicap.service.presets import ServedPresets
    from magicap.service.service import Service

    images = min(ServiceLimits.images, options.queue)
    limits = ServiceLimits(queue=options.queue, images=images, timeout=options.timeout)
    names, parts = served_presets(options.preset, models, memory)
    presets = ServedPresets(names, lambda name: models.load(name, memory.samples), parts=parts)
    index = None
    if options.index is not None:
        captioner = presets.get()
        if not isinstance(captioner, Captioner):
            raise BadSettings("--index needs a scorer: name a zero-shot captioner with --preset first")
        index = ServedIndex.load(options.index, captioner.scorer)
    return Service(presets, limits, index)


def _log_requests() -> None:
    """A line a request on stderr: id, method, path, status, seconds."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name in ("magicap.service", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
    logging.getLogger("magicap.service").setLevel(logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
