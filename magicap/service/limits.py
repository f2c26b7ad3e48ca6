"""What a request may cost, and how much of it may wait."""

from __future__ import annotations

from dataclasses import dataclass

from magicap.checks import require_int, require_number
from magicap.errors import BadSettings
from magicap.images.reader import ImageLimits

MOST = {"top_k": 200, "beam_size": 50, "num_finished": 100, "neighbours": 2000, "max_new_tokens": 60}
"""The largest values of settings that a request may give: the library's own would take a minute."""

MOST_SCORED = 20_000
"""Partial captions that the picture may score while one caption is written (``image_weight``): beams times
candidates times tokens. They take most of a second."""

MOST_WORDS = 100
"""Words of ``include``, of ``exclude`` and of ``prefer``."""

MOST_CAPTIONS, MOST_CANDIDATES, MOST_MATCHES = 20, 10, 100
"""Captions of a picture; candidates of a step; matches of a search."""


IMAGE_LIMITS = ImageLimits(bytes=32 << 20, pixels=64_000_000)
"""What a picture of a request may cost."""


@dataclass(frozen=True)
class ServiceLimits:
    """Limits of a service, beside those of pictures (:class:`magicap.images.reader.ImageLimits`).

    Raises:
        BadSettings: a limit is out of its range.
    """

    body_bytes: int = 32 << 20
    """The largest body of a request, in bytes."""

    received_bytes: int = 512 << 20
    """Bytes of bodies that all requests together hold at once."""

    images: int = 16
    """Pictures of one request."""

    queue: int = 256
    """Pictures that are read or wait for the models; a request that finds no room is refused."""

    timeout: float = 30.0
    """Seconds from the end of a request's headers to its answer."""

    image_timeout: float = 5.0
    """Seconds that reading one picture may take; one that takes longer is tried once more."""

    image: ImageLimits = IMAGE_LIMITS
    """What one picture may cost."""

    def __post_init__(self) -> None:
        for name in ("body_bytes", "received_bytes", "images", "queue"):
            require_int(name, getattr(self, name))
        for name in ("timeout", "image_timeout"):
            require_number(name, getattr(self, name), lambda seconds: seconds > 0, "greater than 0")
        if self.images > self.queue:
            raise BadSettings(f"queue must hold the {self.images} pictures of a request, found {self.queue}")
