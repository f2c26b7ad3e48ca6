"""Language models on text: cross-entropy of the next token, and SimCTG.

Shapes: B sentences, T tokens. Batches are those of :class:`magicap.training.sentences.Sentences`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from magicap.training.batches import Batch
from magicap.training.losses import next_token_cross_entropy, simctg_contrastive
from magicap.training.objectives.base import Objective
from magicap.training.processes import share_of_mean


class NextTokenObjective(Objective):
    """A loss whose items are the tokens behind each sentence's first."""

    def items(self, batch: Batch) -> float:
        """How many tokens the loss is a mean of: all but each sentence's first, without padding."""
        return float(predicted_tokens(batch["mask"]))


class CrossEntropy(NextTokenObjective):
    """Mean negative log-likelihood of each token given those before it, in nats.

    Args:
        model: a causal language model of transformers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> Tensor:
        """Of ``ids`` and ``mask`` (B, T)."""
        logits = self.model(batch["ids"], attention_mask=batch["mask"]).logits
        return token_mean(logits, batch)


class SimCTG(NextTokenObjective):
    """Cross-entropy, and a contrastive term that pushes the tokens of a sentence apart (Su et al. 2022).

    Args:
        model: a causal language model of transformers.
        weight: of the contrastive term; its authors used 1.
        margin: rho, see :func:`magicap.training.losses.simctg_contrastive`.
    """

    def __init__(self, model: Any, weight: float = 1.0, margin: float = 0.5) -> None:
        super().__init__()
        self.model, self.weight, self.margin = model, weight, margin

    def forward(self, batch: Batch) -> Tensor:
        """Of ``ids`` and ``mask`` (B, T)."""
        output = self.model(batch["ids"], attention_mask=batch["mask"], output_hidden_states=True)
        contrast = simctg_contrastive(output.hidden_states[-1], batch["mask"], self.margin)
        lengths = batch["mask"].sum(dim=1)
        pairs = (lengths * (lengths - 1)).sum()
        return token_mean(output.logits, batch) + self.weight * share_of_mean(contrast, pairs)


def token_mean(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy (B, T, V against ``ids``), a mean over the tokens of all processes."""
    mean = next_token_cross_entropy(logits, batch["ids"], batch["mask"])
    return share_of_mean(mean, predicted_tokens(batch["mask"]))


def predicted_tokens(mask: Tensor) -> Tensor:
    """How many tokens of (B, T) have one before them."""
    return mask[:, 1:].sum()
