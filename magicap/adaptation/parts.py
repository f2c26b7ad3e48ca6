"""What a zero-shot captioner is made of, without the face that captions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.retrieval.caption_memory import CaptionMemory


@dataclass(frozen=True)
class Parts:
    """Two models, a memory and a decoding."""

    language_model: LanguageModel
    scorer: ImageTextScorer
    decoding: Any
    """Settings of :data:`magicap.decoding.settings.DECODINGS`, or an object with ``search(context)``."""

    memory: CaptionMemory | None = None
