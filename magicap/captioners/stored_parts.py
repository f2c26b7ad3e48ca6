"""The parts of a captioner written into a folder, each with the fingerprint that it has there."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from magicap.adaptation.parts import Parts
from magicap.captioners.folder import Part
from magicap.captioners.saving import as_stored, folder_fingerprint, weights_fingerprint
from magicap.captioners.sources import (
    CLASS_VECTOR,
    CONFIDENCE,
    CONFIDENCE_FILE,
    FINE_GRAINED,
    LANGUAGE_MODEL,
    MEMORY,
    SCORER,
    SOFT_PROMPT,
)
from magicap.decoding.confidence import ConfidenceModel
from magicap.errors import BadModel
from magicap.models.class_vector import CLASS_VECTOR_FILE
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer, text_fingerprint
from magicap.models.soft_prompt import PROMPT_FILE
from magicap.retrieval.caption_memory import CaptionMemory


def write_parts(
    folder: Path,
    parts: Parts,
    *,
    dtype: torch.dtype | None,
    fine_grained: Path | None,
    confidence: ConfidenceModel | None,
) -> dict[str, Part]:
    """Write the parts of a captioner into an empty folder, and give what its settings say of them, by name.

    Args:
        dtype: of the stored weights; None keeps them as they are.
        fine_grained: folder of a fine-grained scorer to copy.

    Raises:
        BadModel: another scorer encoded the memory, or the fine-grained scorer is gone.
    """
    written = _language_model(folder, parts.language_model, dtype) | _scorer(folder, parts.scorer, dtype)
    if parts.memory is not None:
        written[MEMORY] = _memory(folder, parts.memory, parts.scorer, dtype)
    if fine_grained is not None:
        _copy_fine_grained(fine_grained, folder / FINE_GRAINED)
        written[FINE_GRAINED] = Part(FINE_GRAINED, folder_fingerprint(folder / FINE_GRAINED))
    if confidence is not None:
        (folder / CONFIDENCE_FILE).write_text(confidence.to_json(), encoding="utf-8")
        written[CONFIDENCE] = Part(CONFIDENCE_FILE, confidence.fingerprint)
    return written


def _language_model(
    folder: Path, language_model: LanguageModel, dtype: torch.dtype | None
) -> dict[str, Part]:
    language_model.save_pretrained(folder / LANGUAGE_MODEL, dtype=dtype)
    written = {LANGUAGE_MODEL: Part(LANGUAGE_MODEL, weights_fingerprint(language_model.network, dtype))}
    if language_model.soft_prompt is not None:
        digits = weights_fingerprint(language_model.soft_prompt, dtype)
        written[SOFT_PROMPT] = Part(f"{LANGUAGE_MODEL}/{PROMPT_FILE}", digits)
    return written


def _scorer(folder: Path, scorer: ImageTextScorer, dtype: torch.dtype | None) -> dict[str, Part]:
    scorer.save_pretrained(folder / SCORER, dtype=dtype)
    written = {SCORER: Part(SCORER, weights_fingerprint(scorer.network, dtype))}
    if scorer.class_vector is not None:
        digits = weights_fingerprint(scorer.class_vector, dtype)
        written[CLASS_VECTOR] = Part(f"{SCORER}/{CLASS_VECTOR_FILE}", digits)
    return written


def _memory(folder: Path, memory: CaptionMemory, scorer: ImageTextScorer, dtype: torch.dtype | None) -> Part:
    memory.require_encoded_by(scorer)
    text_tower = text_fingerprint(as_stored(scorer.network, dtype))
    return Part(MEMORY, memory.save_pretrained(folder / MEMORY, text_tower=text_tower))


def _copy_fine_grained(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except FileNotFoundError as error:
        raise BadModel(
            f"expected the captioner's fine-grained part at {source}, found none; load the captioner anew "
            "from a whole folder"
        ) from error
