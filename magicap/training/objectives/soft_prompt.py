"""A language model learns to be conditioned on pictures by a soft prompt: from text alone, or from pictures.

From text alone each sentence is conditioned on its own vector, with noise in place of the modality gap
(CapDec, Nukrai et al. 2022, arXiv 2211.00575), and on what a memory holds near that (DeCap, Li et al. 2023,
arXiv 2303.03032; neighbours of a noised vector as in IFCap, Lee et al. 2024, arXiv 2409.18046). From
captioned pictures each caption is conditioned on its picture's vector (ClipCap, Mokady et al. 2021, arXiv
2111.09734).

Shapes: B sentences, T tokens, D embedding width of the scorer, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
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


class ConditionedCrossEntropy(NextTokenObjective):
    """Cross-entropy of sentences, each behind a soft prompt.

    Args:
        language_model: what is trained; one without a soft prompt is given one.
        scorer_width: D.

    Raises:
        BadSettings: the soft prompt is of another scorer.
    """

    def __init__(self, language_model: LanguageModel, scorer_width: int) -> None:
        super().__init__()
        if language_model.soft_prompt is None:
            width = language_model.model.get_input_embeddings().embedding_dim
            language_model.soft_prompt = SoftPrompt(scorer_width, width).to(language_model.device)
        language_model.soft_prompt.require_scorer_width(scorer_width)
        self.model: Any = language_model.model
        self.prompt = language_model.soft_prompt

    @abstractmethod
    def soft_prompts(self, batch: Batch) -> Tensor:
        """(B, W) what is added to the start token's embedding of each sentence."""

    def forward(self, batch: Batch) -> Tensor:
        """Mean negative log-likelihood of each token, in nats.

        Args:
            batch: ``ids`` and ``mask`` (B, T), ``vectors`` (B, D), and what :meth:`soft_prompts` reads, see
                :class:`magicap.training.sentences.Sentences`.
        """
        return token_mean(self.logits(batch), batch)

    def logits(self, batch: Batch) -> Tensor:
        """(B, T, V) scores of the next token at every position."""
        return conditioned_logits(self.model, batch["ids"], batch["mask"], self.soft_prompts(batch))


class SoftPromptCrossEntropy(ConditionedCrossEntropy):
    """Text alone: each sentence is conditioned on its own noised vector and that vector's neighbours.

    Args:
        language_model: what is trained; one without a soft prompt is given one.
        memory: where a noised vector's neighbours are looked up.
        noise: the least and the greatest length of the noise, see :meth:`ModalityGap.add_noise`; each
            sentence's is sampled between them.
        condition_dropout: share of sentences that are not conditioned on their own vector, and as many
            not on the memory, while training.

    Raises:
        BadSettings: soft prompt and memory are of two scorers.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        memory: CaptionMemory,
        noise: tuple[float, float] = NOISE,
        condition_dropout: float = CONDITION_DROPOUT,
    ) -> None:
        super().__init__(language_model, memory.width)
        self._memory, self._gap, self._noise = memory, ModalityGap(memory), noise
        self._condition_dropout = condition_dropout

    def soft_prompts(self, batch: Batch) -> Tensor:
        """Of noised ``vectors`` and of the memory, ``memory_positions`` (B,) left out."""
        vectors = batch["vectors"].float()
        length = torch.empty(len(vectors), 1, device=vectors.device).uniform_(*self._noise)
        images = self._gap.add_noise(vectors, length)
        projected = project_onto_memory(self._memory, images, batch["memory_positions"])
        kept = None
        if self.training:
            kept = torch.rand(2, len(vectors), 1, device=vectors.device) >= self._condition_dropout
        prompts: Tensor = self.prompt(images, projected, kept)
        return prompts


class PictureCrossEntropy(ConditionedCrossEntropy):
    """Captioned pictures: each caption is conditioned on its picture's vector alone."""

    def soft_prompts(self, batch: Batch) -> Tensor:
        """Of ``vectors``, those of the pictures."""
        prompts: Tensor = self.prompt(batch["vectors"].float(), None)
        return prompts


def conditioned_logits(model: Any, ids: Tensor, mask: Tensor, prompts: Tensor) -> Tensor:
    """(B, T, V) scores of the next token at every position of sentences, each behind a soft prompt.

    Args:
        model: a causal language model of transformers.
        ids, mask: (B, T), see :class:`magicap.training.sentences.Sentences`.
        prompts: (B, W) added to the start token's embedding.
    """
    embeddings = model.get_input_embeddings()(ids)
    padded = F.pad(prompts[:, None], (0, 0, 0, embeddings.shape[1] - 1))  # at the start token alone
    logits: Tensor = model(inputs_embeds=embeddings + padded, attention_mask=mask).logits
    return logits
