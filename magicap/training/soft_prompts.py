"""A language model learns from text alone to be told of pictures.

Each sentence is told by its own vector, with noise in place of what separates a picture from what is said of
it (CapDec, Nukrai et al. 2022), and by what a memory holds near that (DeCap, Li et al. 2023; neighbours of a
noised vector as in IFCap, Lee et al. 2024).

Shapes: B sentences, T tokens, D embedding width of the scorer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicap.decoding.conditioning import remembered
from magicap.models.soft_prompt import SoftPrompt
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.modality_gap import ModalityGap
from magicap.training.loop import Batch
from magicap.training.losses import next_token_cross_entropy
from magicap.training.sentences import Sentences, surprise

if TYPE_CHECKING:
    from magicap.captioners.zero_shot import Captioner
    from magicap.models.language_model import LanguageModel

NOISE = (0.2, 0.9)
"""Length of the noise that stands for the gap between pictures and captions, the least and the greatest."""

CONDITION_DROPOUT = 0.3
"""Share of sentences that are not told by their own vector, and as many not by the memory: a model then knows
how to do with either, or neither."""


class SoftPromptObjective(nn.Module):
    """A language model and its soft prompt as one module: a batch in, scores of the next tokens out."""

    def __init__(
        self,
        language_model: LanguageModel,
        memory: CaptionMemory,
        noise: tuple[float, float] = NOISE,
    ) -> None:
        """
        Args:
            language_model: what is trained; one without a prompt is given one.
            noise: the least and the greatest length of the noise, see :meth:`ModalityGap.add_noise`; each
                sentence's is drawn between them.

        Raises:
            BadSettings: prompt and memory are of two scorers.
        """
        super().__init__()
        D = memory.width
        if language_model.prompt is None:
            width = language_model.model.get_input_embeddings().embedding_dim
            language_model.prompt = SoftPrompt(D, width).to(language_model.device)
        language_model.prompt.require_scorer_width(D)
        self.model: Any = language_model.model
        self.prompt = language_model.prompt
        self._memory, self._gap, self._noise = memory, ModalityGap(memory), noise

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, V) scores of the next token at every position.

        Args:
            batch: ``ids`` and ``mask`` (B, T), ``vectors`` (B, D) and ``own`` (B,), see :class:`Sentences`.
        """
        vectors = batch["vectors"].float()
        length = torch.empty(len(vectors), 1, device=vectors.device).uniform_(*self._noise)
        pictures = self._gap.add_noise(vectors, length)
        near = remembered(self._memory, pictures, batch["own"])
        told = (
            (torch.rand(2, len(vectors), 1, device=vectors.device) >= CONDITION_DROPOUT)
            if self.training
            else None
        )
        embeddings = self.model.get_input_embeddings()(batch["ids"])
        prompts = F.pad(self.prompt(pictures, near, told)[:, None], (0, 0, 0, embeddings.shape[1] - 1))
        logits: Tensor = self.model(inputs_embeds=embeddings + prompts, attention_mask=batch["mask"]).logits
        return logits


def conditioned_sentences(
    captioner: Captioner,
    memory: CaptionMemory,
    texts: Sequence[str],
    max_tokens: int,
    progress: Callable[[int], object] = lambda count: None,
) -> Sentences:
    """Sentences with what they are told by: their vectors, and where they stand in the memory themselves.

    Args:
        progress: told how many more are encoded; those that the memory holds need not be.
    """
    places = {text: place for place, text in enumerate(memory.texts)}
    own = torch.tensor([places.get(text, -1) for text in texts])
    others = [text for text, place in zip(texts, own.tolist(), strict=True) if place < 0]
    vectors = memory.vectors_at(own.clamp_min(0)).half().cpu()
    vectors[own < 0] = captioner.scorer.encode_texts(others, progress=progress).half().cpu()
    sentences = Sentences.of(captioner.language_model, texts, max_tokens)
    return replace(sentences, vectors=vectors, own=own)


def soft_prompt_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of each token, in nats, as a loop asks for it."""
    return next_token_cross_entropy(model(batch), batch["ids"], batch["mask"])


def evaluate_conditioned_text(
    model: nn.Module, held_out: Sentences, batch_size: int, seed: int
) -> dict[str, float]:
    """As :func:`surprise`, with the same noise each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return surprise(model, held_out, batch_size, lambda model, batch: model(batch))
