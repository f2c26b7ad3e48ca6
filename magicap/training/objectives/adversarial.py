"""A conditioned language model learns from pictures without captions and sentences without pictures.

As CgT-GAN (Yu et al. 2023, arXiv 2308.12045): it writes captions of the pictures; a discriminator that learns
beside it says how like people's sentences they are, a scorer how well they fit; policy gradient makes the
better ones of each picture likelier. Two anchors keep what it knew: the Kullback-Leibler divergence from the
model it started as, and the cross-entropy of sentences that made that model.

Shapes: B pictures, C captions sampled of each, N = B C, T tokens, V vocabulary, W hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.models.language_model import LanguageModel
from magicap.models.soft_prompt import SoftPrompt
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.training.batches import Batch
from magicap.training.discriminator import Discriminator
from magicap.training.losses import self_critical
from magicap.training.objectives.base import Objective
from magicap.training.objectives.soft_prompt import SoftPromptCrossEntropy, conditioned_logits
from magicap.training.processes import share_of_mean
from magicap.training.rewards import ScorerReward
from magicap.training.rollouts import Rollouts, roll_out, sampling


@dataclass(frozen=True, kw_only=True)
class TermWeights:
    """What each term counts; 0 leaves it out. A recipe inherits these fields as options."""

    image_weight: float = 1.0
    """Weight, in the reward, of the cosine between a caption and its picture, in standard deviations."""

    aggregate_weight: float = 0.0
    """Weight, in the reward, of the cosine between a caption and the memory's captions near its picture."""

    adversarial_weight: float = 0.2
    """Weight, in the reward, of the logarithm of the discriminator's probability that people wrote a
    caption."""

    kl_weight: float = 0.2
    """Weight of the divergence from the model that training began with, in nats a token."""

    text_weight: float = 1.0
    """Weight of the cross-entropy of sentences conditioned on their own noised vectors, in nats a token."""

    @property
    def has_reward(self) -> bool:
        """Whether captions are rewarded at all."""
        return any((self.image_weight, self.aggregate_weight, self.adversarial_weight))


class AdversarialTuning(Objective):
    """The weighted sum of policy gradient, divergence and cross-entropy; and the discriminator's loss.

    The discriminator gets no gradient but that of its own loss, and nothing else gets that: captions are
    texts, through which no gradient flows. So one sum trains both.

    Args:
        language_model: what is trained, with its soft prompt.
        start: the model it began as, which stays as it is.
        memory: near which sentences are conditioned.
        reward: of captions by a scorer.
        discriminator: None: there is none.
        weights: of the terms.
        samples: C, at least 2: each caption is compared with the others of its picture.
        max_new_tokens: the longest caption, its end token included.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        start: LanguageModel,
        memory: CaptionMemory,
        reward: ScorerReward,
        discriminator: Discriminator | None,
        weights: TermWeights,
        *,
        samples: int,
        max_new_tokens: int,
    ) -> None:
        super().__init__()
        self.may_leave_out_weights = True  # where a term is left out
        self.text = SoftPromptCrossEntropy(language_model, memory)
        self.discriminator = discriminator
        self.language_model, self.start, self.reward, self.weights = language_model, start, reward, weights
        self.samples, self.max_new_tokens = samples, max_new_tokens

    def forward(self, batch: Batch) -> Tensor:
        """The sum of all terms whose weight is not 0.

        Args:
            batch: of :class:`magicap.training.unpaired.Unpaired`.
        """
        for model in (self.text.model, self.discriminator):  # no dropout: captions are sampled without
            if model is not None:
                model.eval()
        loss = torch.zeros((), device=batch["images"].device)
        if self.weights.text_weight:
            loss = loss + self.weights.text_weight * self.text(batch)
        if self.weights.has_reward or self.weights.kl_weight:
            loss = loss + self._of_written(batch)
        return loss

    def _of_written(self, batch: Batch) -> Tensor:
        """The terms of captions that are sampled of the batch's pictures."""
        conditions = [batch[name].repeat_interleave(self.samples, 0) for name in ("images", "projected")]
        prompts = self.text.prompt(*conditions)
        choose = sampling(batch["seeds"].tolist(), self.samples, self.max_new_tokens, prompts.device)
        written = roll_out(self.language_model, prompts.detach(), self.max_new_tokens, choose)
        logits = conditioned_logits(self.text.model, written.ids, written.mask, prompts)
        log_p = logits[:, :-1].float().log_softmax(dim=-1)
        mask = written.mask[:, 1:].bool()
        loss = torch.zeros((), device=prompts.device)
        if self.weights.has_reward:
            chosen = log_p.gather(-1, written.ids[:, 1:, None]).squeeze(-1)
            shape = -1, self.samples, mask.shape[1]
            rewards = self.rewards(written, *conditions).view(-1, self.samples)
            policy = self_critical(chosen.view(shape), mask.view(shape), rewards)
            loss = loss + share_of_mean(policy, mask.sum())
        if self.weights.kl_weight:
            divergence = self._divergence(log_p, written, conditions)[mask].mean()
            loss = loss + self.weights.kl_weight * share_of_mean(divergence, mask.sum())
        if self.discriminator is not None:
            loss = loss + self._discriminator_loss(self.discriminator, batch, written)
        return loss

    @torch.no_grad()
    def rewards(self, written: Rollouts, images: Tensor, projected: Tensor) -> Tensor:
        """(N,) of captions; one that was cut fits nothing, or captions would learn not to end.

        Args:
            written: the captions.
            images, projected: (N, D) of their pictures, see :class:`ScorerReward`.
        """
        rewards = self.reward(written.texts(self.language_model), images, projected) * written.ended
        if self.discriminator is not None:
            naturalness = self.discriminator.log_probability(written.ids, written.mask)
            rewards = rewards + self.weights.adversarial_weight * naturalness
        return rewards

    def _divergence(self, log_p: Tensor, written: Rollouts, conditions: list[Tensor]) -> Tensor:
        """(N, T) Kullback-Leibler divergence from the start model at every token, in nats."""
        start_prompt = self.start.soft_prompt
        assert isinstance(start_prompt, SoftPrompt)  # SoftPromptCrossEntropy has given it one
        with torch.no_grad():
            logits = conditioned_logits(
                self.start.model, written.ids, written.mask, start_prompt(*conditions)
            )
            reference = logits[:, :-1].float().log_softmax(dim=-1)
        return (log_p.exp() * (log_p - reference)).sum(dim=-1)

    @staticmethod
    def _discriminator_loss(discriminator: Discriminator, batch: Batch, written: Rollouts) -> Tensor:
        """Binary cross-entropy of sentences that people wrote, and of as many captions."""
        real = discriminator(batch["ids"], batch["mask"])
        fake = discriminator(written.ids, written.mask)
        of_real = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
        of_fake = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
        return (share_of_mean(of_real, len(real)) + share_of_mean(of_fake, len(fake))) / 2
