"""Why a request has no answer: one form for all errors, which names no path and quotes no picture or file."""

from __future__ import annotations

import logging

from magicap.errors import BadImage
from magicap.images.reader import REASONS
from magicap.runs.readers import TIMEOUT

_LOG = logging.getLogger("magicap.service")
LONGEST = 400
"""Characters of a message."""

_SIZES = ("bytes", "pixels", "side", "aspect")
_STATUS_OF_IMAGE = {"bytes": 413, "pixels": 413, "side": 413, "format": 415, "text": 415, "numbers": 500}


class ServiceError(Exception):
    """A request that is refused, or that could not be answered.

    Attributes:
        status: the HTTP status.
        code: a short, stable reason for programs.
        retry_after: seconds after which the same request may succeed; None: it will not.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    @property
    def message(self) -> str:
        """What was expected, what was found and what to do."""
        text = "".join(sign if sign.isprintable() else " " for sign in str(self))
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"

    @classmethod
    def of_image(cls, error: BadImage) -> ServiceError:
        """A picture that cannot be read: 413 too large, 415 no picture of a known format, else 422."""
        message = error.message
        if error.code in REASONS and error.code not in _SIZES:  # the reader's own message may quote the file
            message = f"expected a picture, found {REASONS[error.code]}"
        code = "image_timeout" if error.code == TIMEOUT else error.code
        return cls(_STATUS_OF_IMAGE.get(error.code, 422), code, message)


def unauthorized() -> ServiceError:
    """401: the token is missing or wrong."""
    return ServiceError(401, "token", "expected Authorization: Bearer TOKEN with the service's token")


def too_large(most: int) -> ServiceError:
    """413: the body has more than ``most`` bytes."""
    return ServiceError(
        413, "body", f"expected a body of at most {most} bytes, found more; send fewer or smaller pictures"
    )


def busy(seconds: int) -> ServiceError:
    """429: too much is waiting; to be tried again after so many seconds."""
    return ServiceError(
        429, "busy", f"the queue is full; try again in {seconds} seconds", retry_after=seconds
    )


def stopping() -> ServiceError:
    """503: the service takes no new requests any more."""
    return ServiceError(503, "stopping", "the service is being stopped; try again later", retry_after=5)


def timed_out(seconds: float) -> ServiceError:
    """504: no answer within so many seconds."""
    return ServiceError(
        504, "timeout", f"expected an answer within {seconds:g} seconds; try again later", retry_after=5
    )


def unexpected(error: Exception, request_id: str) -> ServiceError:
    """What a client gets to know of a fault of ours; the log has the rest."""
    _LOG.error("%s failed", request_id, exc_info=error)
    return ServiceError(500, "internal", "something failed here; the log says what, by the request's id")
