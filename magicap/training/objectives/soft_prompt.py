"""A language model learns from text alone to be conditioned on pictures by a soft prompt.

Each sentence is conditioned on its own vector, with noise in place of the modality gap (CapDec, Nukrai et al.
2022, arXiv 2211.00575), and on what a memory holds near that (DeCap, Li et al. 2023, arXiv 2303.03032;
neighbours of a noised vector as in IFCap, Lee et al. 2024, arXiv 2409.18046).

Shapes: B sentences, T tokens, D embedding width of the scorer, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.decoding.conditioning import project_onto_memory
from magicap.models.language_model import LanguageModel
from magicap.models.soft_prompt import SoftPrompt
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.modality_gap import ModalityGap
from magicap.training.batches import Batch
from magicap.training.objectives.language import NextTokenObjective, token_mean

NOISE = (0.2, 0.9)
"""Least and greatest length of the noise that stands for the modality gap, see :class:`ModalityGap`."""

CONDITION_DROPOUT = 0.3
"""Share of sentences without a condition: a model then does with the picture, the memory, or neither."""


class SoftPromptCrossEntropy(NextTokenObjective):
    """Cross-entropy of sentences, each behind the soft prompt of its own vector and its neighbours."""

    def __init__(
        self,
        language_model: LanguageModel,
        memory: CaptionMemory,
        noise: tuple[float, float] = NOISE,
        condition_dropout: float = CONDITION_DROPOUT,
    ) -> None:
        """
        Args:
            language_model: what is trained; one without a soft prompt is given one.
            noise: the least and the greatest length of the noise, see :meth:`ModalityGap.add_noise`; each
                sentence's is sampled between them.
            condition_dropout: share of sentences that are not conditioned on their own vector, and as many
                not on the memory, while training.

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
        self._condition_dropout = condition_dropout

    def forward(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each token, in nats.

        Args:
            batch: ``ids`` and ``mask`` (B, T), ``vectors`` (B, D), ``memory_positions`` (B,), see
                :class:`magicap.training.sentences.Sentences`.
        """
        return token_mean(self.logits(batch), batch)

    def logits(self, batch: Batch) -> Tensor:
        """(B, T, V) scores of the next token at every position."""
        vectors = batch["vectors"].float()
        length = torch.empty(len(vectors), 1, device=vectors.device).uniform_(*self._noise)
        images = self._gap.add_noise(vectors, length)
        projected = project_onto_memory(self._memory, images, batch["memory_positions"])
        kept = None
        if self.training:
            kept = torch.rand(2, len(vectors), 1, device=vectors.device) >= self._condition_dropout
        embeddings = self.model.get_input_embeddings()(batch["ids"])
        prompts = self.prompt(images, projected, kept)[:, None]  # at the start token alone
        padded = F.pad(prompts, (0, 0, 0, embeddings.shape[1] - 1))
        logits: Tensor = self.model(inputs_embeds=embeddings + padded, attention_mask=batch["mask"]).logits
        return logits
