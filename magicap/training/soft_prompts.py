"""Sentences with the vectors that a soft prompt conditions on, and how well they are then predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.training.objectives.soft_prompt import ConditionedCrossEntropy, SoftPromptCrossEntropy
from magicap.training.parameter_groups import ParameterGroups, split_by_decay
from magicap.training.phases import load_or_compute
from magicap.training.sentences import Sentences, evaluate_text


@dataclass(frozen=True, kw_only=True)
class SoftPromptTuning:
    """How fast a language model and its soft prompt are tuned; a recipe inherits these fields as options."""

    batch_size: int = 64
    """Number of sentences in a batch of one process."""

    learning_rate: float = 5e-4
    """Peak learning rate of the language model; 2e-5 suits a GPT-2 of full size."""

    prompt_rate: float = 1e-3
    """Peak learning rate of the soft prompt."""

    weight_decay: float = 0.02
    """Weight decay of AdamW, on matrices only."""

    max_tokens: int = 40
    """Longest sentence in tokens; longer ones are cut here."""

    def groups(self, objective: ConditionedCrossEntropy) -> ParameterGroups:
        """The language model's weights and the soft prompt's, each at its rate."""
        return [
            *split_by_decay(objective.model.parameters(), self.learning_rate, self.weight_decay),
            *split_by_decay(objective.prompt.parameters(), self.prompt_rate, self.weight_decay),
        ]


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
        language_model: whose tokenizer gives the ids.
        scorer: encodes the sentences that the memory does not hold.
        memory: captions encoded by this scorer.
        texts: the sentences.
        max_tokens: longer sentences are cut.
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
