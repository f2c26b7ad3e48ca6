"""A language model learns from text alone to be conditioned on pictures by a soft prompt.

Each sentence is conditioned on its own vector, with noise in place of the modality gap (CapDec, Nukrai et al.
2022, arXiv 2211.00575), and on what a memory holds near that (DeCap, Li et al. 2023, arXiv 2303.03032;
neighbours of a noised vector as in IFCap, Lee et al. 2024, arXiv 2409.18046).

Shapes: B sentences, T tokens, D embedding width of the scorer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicap.decoding.conditioning import project_onto_memory
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.models.soft_prompt import SoftPrompt
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.modality_gap import ModalityGap
from magicap.training.loop import Batch
from magicap.training.losses import next_token_cross_entropy
from magicap.training.sentences import Sentences, evaluate_text

NOISE = (0.2, 0.9)
"""Least and greatest length of the noise that stands for the modality gap, see :class:`ModalityGap`."""

CONDITION_DROPOUT = 0.3
"""Share of sentences that are not conditioned on their own vector, and as many not on the memory: a model
then does with either, or neither."""


class SoftPromptObjective(nn.Module):
    """A language model and its soft prompt as one module: a batch in, its loss out."""

    def __init__(
        self,
        language_model: LanguageModel,
        memory: CaptionMemory,
        noise: tuple[float, float] = NOISE,
    ) -> None:
        """
        Args:
            language_model: what is trained; one without a soft prompt is given one.
            noise: the least and the greatest length of the noise, see :meth:`ModalityGap.add_noise`; each
                sentence's is sampled between them.

        Raises:
            BadSettings: soft prompt and memory are of two scorers.
        """
        super().__init__()
        D = memory.width
        if language_model.soft_prompt is None:
            width = language_model.model.get_input_embeddings().embedding_dim
            language_model.soft_prompt = SoftPrompt(D, width).to(language_model.device)
        language_model.soft_prompt.require_scorer_width(D)
        self.model: Any = language_model.model
        self.prompt = language_model.soft_prompt
        self._memory, self._gap, self._noise = memory, ModalityGap(memory), noise

    def forward(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each token, in nats.

        Args:
            batch: ``ids`` and ``mask`` (B, T), ``vectors`` (B, D), ``memory_positions`` (B,), see
                :class:`Sentences`.
        """
        return next_token_cross_entropy(self.logits(batch), batch["ids"], batch["mask"])

    def logits(self, batch: Batch) -> Tensor:
        """(B, T, V) scores of the next token at every position."""
        vectors = batch["vectors"].float()
        length = torch.empty(len(vectors), 1, device=vectors.device).uniform_(*self._noise)
        images = self._gap.add_noise(vectors, length)
        projected = project_onto_memory(self._memory, images, batch["memory_positions"])
        kept = None
        if self.training:
            kept = torch.rand(2, len(vectors), 1, device=vectors.device) >= CONDITION_DROPOUT
        embeddings = self.model.get_input_embeddings()(batch["ids"])
        prompts = self.prompt(images, projected, kept)[:, None]  # at the start token alone
        padded = F.pad(prompts, (0, 0, 0, embeddings.shape[1] - 1))
        logits: Tensor = self.model(inputs_embeds=embeddings + padded, attention_mask=batch["mask"]).logits
        return logits


def conditioned_sentences(
    language_model: LanguageModel,
    scorer: ImageTextScorer,
    memory: CaptionMemory,
    texts: Sequence[str],
    max_tokens: int,
    on_progress: Callable[[int], object] = lambda count: None,
) -> Sentences:
    """Sentences with what they are conditioned on: their vectors, and their own positions in the memory.

    Args:
        on_progress: called with how many more are encoded; those that the memory holds need not be.
    """
    positions = {text: position for position, text in enumerate(memory.texts)}
    memory_positions = torch.tensor([positions.get(text, -1) for text in texts])
    new_texts = [text for text in texts if text not in positions]
    vectors = memory.vectors_at(memory_positions.clamp_min(0)).half().cpu()
    vectors[memory_positions < 0] = scorer.encode_texts(new_texts, on_progress=on_progress).half().cpu()
    sentences = Sentences.of(language_model, texts, max_tokens)
    return replace(sentences, vectors=vectors, memory_positions=memory_positions)


def evaluate_conditioned_text(
    model: nn.Module, held_out: Sentences, batch_size: int, seed: int
) -> dict[str, float]:
    """As :func:`magicap.training.sentences.evaluate_text`, with the same noise each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return evaluate_text(model, held_out, batch_size, lambda module, batch: module(batch))
