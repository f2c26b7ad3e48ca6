"""Sentences with the vectors that a soft prompt conditions on, and how well they are then predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.training.objectives.soft_prompt import SoftPromptCrossEntropy
from magicap.training.phases import load_or_compute
from magicap.training.sentences import Sentences, evaluate_text


def conditioned_sentences(
    language_model: LanguageModel,
    scorer: ImageTextScorer,
    memory: CaptionMemory,
    texts: Sequence[str],
    max_tokens: int,
    on_progress: Callable[[int], object] = lambda count: None,
    file: Path | None = None,
) -> Sentences:
    """Sentences with what they are conditioned on: their vectors, and their own positions in the memory.

    Args:
        on_progress: called with how many more are encoded; those that the memory holds need not be.
        file: where the vectors are kept for a run that resumes; None: nowhere.
    """
    positions = {text: position for position, text in enumerate(memory.texts)}
    memory_positions = torch.tensor([positions.get(text, -1) for text in texts])
    new_texts = [text for text in texts if text not in positions]
    vectors = memory.vectors_at(memory_positions.clamp_min(0)).half().cpu()
    vectors[memory_positions < 0] = load_or_compute(
        file, lambda: scorer.encode_texts(new_texts, on_progress=on_progress).half().cpu()
    )
    sentences = Sentences.of(language_model, texts, max_tokens)
    return replace(sentences, vectors=vectors, memory_positions=memory_positions)


def evaluate_conditioned_text(
    objective: SoftPromptCrossEntropy, held_out: Sentences, batch_size: int, seed: int
) -> dict[str, float]:
    """As :func:`magicap.training.sentences.evaluate_text`, with the same noise each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return evaluate_text(objective.logits, held_out, batch_size, next(objective.parameters()).device)
