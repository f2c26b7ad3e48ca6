"""The parts of a zero-shot captioner loaded from where they are; a memory that is nowhere is sampled."""

from __future__ import annotations

import torch

from magicap.adaptation.parts import Parts
from magicap.captioners.first_memory import SAMPLES, first_memory
from magicap.captioners.folder import as_device, as_dtype
from magicap.captioners.hub import Revisions
from magicap.captioners.sources import Sources
from magicap.checks import require_int
from magicap.errors import BadSettings
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.retrieval.caption_memory import CaptionMemory


def load_parts(
    sources: Sources,
    commits: Revisions,
    *,
    device: str | torch.device | None,
    dtype: str | torch.dtype,
    samples: int | None,
) -> Parts:
    """Language model, scorer, decoding and memory, if any.

    Args:
        device, dtype: as of :meth:`Captioner.from_pretrained`.
        samples: captions of a memory for models without one; 0: no memory, so magic search; None: as many
            as :data:`SAMPLES` where the sources ask for one.

    Raises:
        BadSettings: int8 elsewhere than on a processor, or of models that it does not go with; ``samples`` of
            a captioner that has a memory.
        ModelNotFound: a part is neither cached nor reachable.
        BadModel: a part cannot be used.
    """
    if samples is not None:
        require_int("memory", samples, least=0)
        if samples and sources.memory is not None:
            raise BadSettings(
                f"--memory, or memory={samples}: the captioner in {sources.memory.parent} has a memory of "
                "its own; leave the size of one out"
            )
    language_model, scorer = _models(sources, commits, as_device(device), as_dtype(dtype, int8=True))
    if not sources.keeps_soft_prompt:
        language_model.soft_prompt = None
    if samples == 0:
        return Parts(language_model, scorer, None if sources.memory else sources.decoding, None)
    if sources.memory is not None:
        memory = CaptionMemory.from_pretrained(sources.memory, device=scorer.device)
        return Parts(language_model, scorer, sources.decoding, memory)
    if samples or (samples is None and sources.samples_memory):
        memory, decoding = first_memory(language_model, scorer, samples or SAMPLES)
        return Parts(language_model, scorer, decoding, memory)
    return Parts(language_model, scorer, sources.decoding, None)


def _models(
    sources: Sources, commits: Revisions, device: torch.device, dtype: torch.dtype
) -> tuple[LanguageModel, ImageTextScorer]:
    is_int8 = dtype == torch.int8
    if is_int8 and device.type != "cpu":
        raise BadSettings(
            f"dtype int8 computes on cpu alone, found device {str(device)!r}; name device cpu, "
            "or dtype bfloat16"
        )
    stored = torch.float32 if is_int8 else dtype
    language_model = LanguageModel.from_pretrained(
        sources.language_model, device=device, dtype=stored, revision=commits.language_model
    )
    scorer = ImageTextScorer.from_pretrained(
        *sources.scorer, device=device, dtype=stored, revision=commits.scorer
    )
    return (language_model.to_int8(), scorer.to_int8()) if is_int8 else (language_model, scorer)
