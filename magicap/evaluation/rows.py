"""One caption as a JSON row: what ``magicap caption --json`` writes and ``magicap eval`` reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from magicap.captioners.base import BaseCaptioner
    from magicap.results import Caption


@dataclass(frozen=True)
class Provenance:
    """What made a caption: enough to tell whether another run would make the same."""

    model: str
    """The captioner's fingerprint."""

    decoding: str
    """The decoding and its settings."""

    @classmethod
    def of(cls, captioner: BaseCaptioner[Any], decoding: object | None = None) -> Provenance:
        """Of a captioner of any kind; None takes its own decoding."""
        return cls(captioner.fingerprint, str(decoding or captioner.decoding))


def caption_row(image: str, caption: Caption, origin: Provenance | None) -> dict[str, Any]:
    """The caption, or why there is none; and what made it, where that is known."""
    if caption.error is not None:
        return {"image": image, "error": caption.error.code, "message": str(caption.error)}
    return {
        "image": image,
        "caption": caption.text,
        "score": round(caption.score, 4),
        "finished": caption.finished,
        **(asdict(origin) if origin else {}),
    }
