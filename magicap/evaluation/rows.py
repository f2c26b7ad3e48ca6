"""One caption as a JSON row: what ``magicap caption --json`` writes and ``magicap eval`` reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from magicap.results import WORDLESS

if TYPE_CHECKING:
    from magicap.captioners.provenance import Provenance
    from magicap.results import Caption


def caption_row(image: str, caption: Caption, provenance: Provenance | None) -> dict[str, Any]:
    """The caption, or why there is none; its confidence and what made it, where they are known.

    A caption without words is one that can be scored, so its row has both, caption and error.
    """
    error = caption.error
    failure = {} if error is None else {"error": error.code, "message": str(error)}
    if error is not None and error.code != WORDLESS:
        return {"image": image, **failure}
    return {
        "image": image,
        "caption": caption.text,
        **failure,
        "score": round(caption.score, 4),
        **({} if caption.confidence is None else {"confidence": round(caption.confidence, 4)}),
        "finished": caption.finished,
        **({"text_lines": [line.as_json() for line in lines]} if (lines := caption.text_lines) else {}),
        **(provenance.entries if provenance else {}),
    }
