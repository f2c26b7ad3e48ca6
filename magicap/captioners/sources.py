"""Where the parts of a captioner are: in its folder, or where its preset says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from magicap.captioners.folder import ZERO_SHOT, captioner_folder, read_settings, require_kind
from magicap.captioners.presets import PRESETS
from magicap.decoding.settings import DECODINGS
from magicap.errors import BadSettings
from magicap.models.pinned import LOCAL_DIR
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
    samples_memory: bool = False
    """Whether captions are sampled into a memory at first use."""

    keeps_soft_prompt: bool = True
    """Whether a soft prompt of the language model is for this scorer."""


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
        return Sources(
            preset.language_model,
            scorer,
            "",
            preset.decoding,
            preset.memory,
            samples_memory=preset.samples_memory,
        )
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


def sources_with(sources: Sources, language_model: str | Path | None, scorer: str | Path | None) -> Sources:
    """Sources with another language model, another scorer, or both.

    What belongs to a part that is gone goes with it: soft prompt and confidence with the language model;
    memory, fine-grained part and the rest with the scorer.

    Args:
        scorer: NAME or NAME:TAG of open_clip, ``hf-hub:`` id, OWNER/NAME of transformers or folder.

    Raises:
        BadSettings: a name is empty.
    """
    if language_model == "":
        raise BadSettings("--language-model: expected a folder or an id of the hub, found an empty name")
    if scorer is not None:
        return Sources(
            sources.language_model if language_model is None else language_model,
            scorer_source(scorer),
            "",
            None,
            samples_memory=True,
            keeps_soft_prompt=language_model is not None,
        )
    if language_model is None:
        return sources
    decoding = sources.decoding
    if getattr(decoding, "soft_prompt", False):
        decoding = replace(decoding, soft_prompt=False)
    return sources._replace(language_model=language_model, decoding=decoding, confidence=None)


def scorer_source(name: str | Path) -> tuple[str | Path, str | None]:
    """Name, id or folder of a scorer, and its tag, of ``NAME:TAG``, ``hf-hub:ID``, ``OWNER/NAME``, folder.

    Raises:
        BadSettings: the name is empty.
    """
    if name == "":
        raise BadSettings("--scorer: expected NAME:TAG, hf-hub:OWNER/NAME or a folder, found an empty name")
    if isinstance(name, Path) or name.startswith(("hf-hub:", LOCAL_DIR)) or Path(name).is_dir():
        return name, None
    model, _, tag = name.partition(":")
    return model, tag or None
