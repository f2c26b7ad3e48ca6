"""A language model learns from text alone to be told of pictures.

Each sentence is told by its own vector, with noise in place of what separates a picture from what is said of it
(CapDec, Nukrai et al. 2022), and by what a memory holds near that (DeCap, Li et al. 2023; neighbours of a
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

from magicap.decoding.memory import CaptionMemory
from magicap.decoding.prompting import remembered
from magicap.models.soft_prompt import SoftPrompt
from magicap.training.loop import Batch
from magicap.training.losses import next_token_cross_entropy
from magicap.training.sentences import Sentences, surprise_of

if TYPE_CHECKING:
    from magicap.captioner import Captioner

UNTOLD = 0.3
"""Share of sentences that are not told by their own vector, and as many not by the memory: a model then knows
how to do with either, or neither."""


class Prompted(nn.Module):
    """A language model and its soft prompt as one module: a batch in, scores of the next tokens out."""

    def __init__(
        self, model: nn.Module, prompt: SoftPrompt, memory: CaptionMemory, noise: tuple[float, float]
    ) -> None:
        """
        Args:
            model: a transformers causal language model.
            noise: the least and the greatest length of the noise, beside a vector of length 1; each sentence's
                is drawn between them.
        """
        super().__init__()
        self.model: Any = model
        self.prompt = prompt
        self._memory, self._noise = memory, noise

    def forward(self, batch: Batch) -> Tensor:
        """(B, T, V) scores of the next token at every position.

        Args:
            batch: ``ids`` and ``mask`` (B, T), ``vectors`` (B, D) and ``own`` (B,), see :class:`Sentences`.
        """
        vectors = batch["vectors"].float()
        pictures = noised(vectors, *self._noise)
        near = remembered(self._memory, pictures, batch["own"])
        told = (torch.rand(2, len(vectors), 1, device=vectors.device) >= UNTOLD) if self.training else None
        embeddings = self.model.get_input_embeddings()(batch["ids"])
        prompts = F.pad(self.prompt(pictures, near, told)[:, None], (0, 0, 0, embeddings.shape[1] - 1))
        logits: Tensor = self.model(
            inputs_embeds=embeddings + prompts, attention_mask=batch["mask"]
        ).logits
        return logits


def noised(vectors: Tensor, least: float, greatest: float) -> Tensor:
    """(B, D) unit vectors with noise in a direction and of a length that are drawn for each."""
    length = torch.empty(len(vectors), 1, device=vectors.device).uniform_(least, greatest)
    return F.normalize(vectors + length * F.normalize(torch.randn_like(vectors), dim=1), dim=1)


def told_sentences(
    captioner: Captioner,
    memory: CaptionMemory,
    texts: Sequence[str],
    max_tokens: int,
    progress: Callable[[int], object] = lambda count: None,
) -> Sentences:
    """Sentences with what they are told by: their vectors, and where they stand in the memory themselves.

    Args:
        progress: told how many more are encoded.
    """
    vectors = captioner.scorer.encode_texts(texts, progress=progress)
    places = {text: place for place, text in enumerate(memory.texts)}
    return replace(
        Sentences.of(captioner.language_model, texts, max_tokens),
        vectors=vectors.half().cpu(),
        own=torch.tensor([places.get(text, -1) for text in texts]),
    )


def prompted_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of each token, in nats, as a loop asks for it."""
    return next_token_cross_entropy(model(batch), batch["ids"], batch["mask"])


def prompted_surprise(model: nn.Module, held_out: Sentences, batch_size: int, seed: int) -> dict[str, float]:
    """As :func:`surprise`, with the same noise each time."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return surprise_of(model, held_out, batch_size, next(model.parameters()).device)
