"""Where the parts of a captioner are: in its folder, or where its preset says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from magicap.captioners.folder import ZERO_SHOT, captioner_folder, read_settings, require_kind
from magicap.captioners.presets import PRESETS
from magicap.decoding.settings import DECODINGS
from magicap.settings_io import from_dict

LANGUAGE_MODEL, SOFT_PROMPT, SCORER, CLASS_VECTOR = "language_model", "soft_prompt", "scorer", "class_vector"
MEMORY, FINE_GRAINED, CONFIDENCE = "memory", "fine_grained", "confidence"
"""Names of parts."""

CONFIDENCE_FILE = "confidence.json"


class Sources(NamedTuple):
    """Where a captioner's parts are."""

    language_model: str | Path
    scorer: tuple[str | Path, str | None]
    """Name or folder, and tag."""

    scorer_digits: str
    """The fingerprint that the settings give of the scorer; empty where there are none."""

    decoding: Any
    memory: Path | None = None
    fine_grained: Path | None = None
    confidence: Path | None = None


def sources_of(source: str | Path) -> Sources:
    """Where the parts of a zero-shot captioner are.

    Args:
        source: a preset's name or a folder.

    Raises:
        ModelNotFound: no such preset or folder.
        BadModel: a supervised captioner, or settings that are damaged or name a part that is not there.
    """
    folder = captioner_folder(source)
    if folder is None:
        preset = PRESETS[str(source)]
        scorer = preset.scorer, preset.scorer_tag
        return Sources(preset.language_model, scorer, "", preset.decoding, preset.memory)
    require_kind(source, ZERO_SHOT, "SupervisedCaptioner")
    settings = read_settings(folder)
    return Sources(
        settings.required_part(folder, LANGUAGE_MODEL),
        (settings.required_part(folder, SCORER), None),
        settings.parts[SCORER].fingerprint if SCORER in settings.parts else "",
        from_dict(settings.decoding, DECODINGS),
        settings.part(folder, MEMORY),
        settings.part(folder, FINE_GRAINED),
        settings.part(folder, CONFIDENCE),
    )
