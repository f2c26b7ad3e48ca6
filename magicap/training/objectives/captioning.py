"""How a supervised captioner learns: word by word from captions people wrote, or from a reward.

Shapes: B pictures, C captions of each, T tokens, L locations of a grid, D features of a location.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magicap.supervised.decoder import Reading
from magicap.supervised.network import CaptionNetwork
from magicap.supervised.recurrent import HardAttention
from magicap.supervised.search import log_probabilities, sample_words
from magicap.supervised.vocabulary import END, PAD, START, Vocabulary, caption_words
from magicap.training.batches import Batch
from magicap.training.losses import (
    caption_cross_entropy,
    doubly_stochastic,
    reinforce_locations,
    self_critical,
)
from magicap.training.objectives.base import Objective
from magicap.training.processes import share_of_mean, sum_over_processes
from magicap.training.rewards import END_WORD, CiderReward


class CaptionObjective(Objective):
    """A loss of a caption network on pictures, or on grids that its encoder made of them before.

    Args:
        network: what is trained.
        on_grids: ``images`` of a batch are grids (B, L, D), not pixels.
    """

    def __init__(self, network: CaptionNetwork, *, on_grids: bool) -> None:
        super().__init__()
        self.network, self.on_grids = network, on_grids

    def grids(self, batch: Batch) -> Tensor:
        """(B, L, D) of a batch's pictures."""
        if self.on_grids:
            grids: Tensor = batch["images"].float()
        else:
            grids = self.network(batch["images"])
        return grids


class CaptionCrossEntropy(CaptionObjective):
    """Cross-entropy of captions people wrote, in nats a word, with the losses of attention added.

    Args:
        network: what is trained.
        on_grids: see :class:`CaptionObjective`.
        smoothing: of labels, in [0, 1).
        coverage: weight of the doubly stochastic regulariser; unused without attention.
    """

    def __init__(
        self, network: CaptionNetwork, *, on_grids: bool, smoothing: float = 0.0, coverage: float = 0.0
    ) -> None:
        super().__init__(network, on_grids=on_grids)
        self.smoothing, self.coverage = smoothing, coverage

    def items(self, batch: Batch) -> float:
        """About its words; the exact number is known in :meth:`forward`."""
        return float(sum(len(caption_words(text)) + 1 for text in batch["texts"]))

    def forward(self, batch: Batch) -> Tensor:
        """Cross-entropy of the batch's captions, in nats a word, with the losses of attention.

        Args:
            batch: of :class:`magicap.training.pairs.Pairs`.
        """
        grids, length = self.grids(batch), self.network.decoder.config.max_words
        ids = self.network.vocabulary.batch(batch["texts"], batch["owner"].tolist(), length)
        return self.of_ids(grids, ids.to(grids.device))

    def of_ids(self, grids: Tensor, ids: Tensor) -> Tensor:
        """The loss of captions (B, C, T) from the start token on, given their pictures' grids (B, L, D)."""
        decoder = self.network.decoder
        words = ids[:, :, 1:]
        mask = words != PAD
        reading = decoder(grids, ids[:, :, :-1])
        mean = caption_cross_entropy(reading.logits, words, PAD, self.smoothing)
        loss = share_of_mean(mean, mask.sum())
        if reading.attention is not None and self.coverage:
            uneven = doubly_stochastic(reading.attention, mask)
            loss = loss + self.coverage * share_of_mean(uneven, mask.any(dim=-1).sum())
        if isinstance(decoder, HardAttention):
            reinforced = reinforce_locations(*_sampled_locations(decoder, reading, words, mask))
            loss = loss + share_of_mean(reinforced, mask.sum())
        return loss


class SelfCritical(CaptionObjective):
    """Self-critical loss of captions sampled from the decoder as it stands (Rennie et al. 2017).

    Args:
        network: what is trained.
        reward: of sampled captions.
        samples: captions sampled of each picture, at least 2.
        on_grids: see :class:`CaptionObjective`.
    """

    def __init__(
        self, network: CaptionNetwork, reward: CiderReward, *, samples: int, on_grids: bool = True
    ) -> None:
        super().__init__(network, on_grids=on_grids)
        self.may_leave_out_weights = True  # hard attention is not sampled without dropout
        self.reward, self.samples = reward, samples

    def forward(self, batch: Batch) -> Tensor:
        """Self-critical loss a word of captions sampled of the batch's pictures.

        Args:
            batch: of :class:`magicap.training.pairs.Pairs`, with all captions of each picture as references.
        """
        decoder, vocabulary, grids = self.network.decoder, self.network.vocabulary, self.grids(batch)
        decoder.eval()  # no dropout: the gradient is of the very probabilities that captions are sampled by
        length = decoder.config.max_words
        ids = sample_words(decoder, grids, batch["seeds"], self.samples, length, temperature=1.0).ids
        rewards = self.reward(
            [[reward_words(vocabulary, sample) for sample in picture] for picture in ids.tolist()],
            _references(batch),
        )
        mask = ids != PAD
        start = torch.full_like(ids[:, :, :1], START)
        logits = decoder(grids, torch.cat([start, ids[:, :, :-1]], dim=2)).logits
        words = ids.masked_fill(~mask, END)[..., None]  # padding has no probability; the mask leaves it out
        log_probability = log_probabilities(logits).gather(-1, words).squeeze(-1)
        mean = self_critical(
            log_probability, mask, torch.as_tensor(rewards, dtype=grids.dtype, device=grids.device)
        )
        return share_of_mean(mean, mask.sum())


def reward_words(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """The words of a caption as :class:`CiderReward` reads them."""
    return vocabulary.words(ids) + [END_WORD] * (END in ids)


def _references(batch: Batch) -> list[list[list[str]]]:
    """The words of each picture's captions."""
    references: list[list[list[str]]] = [[] for _ in batch["images"]]
    for text, owner in zip(batch["texts"], batch["owner"].tolist(), strict=True):
        references[owner].append(caption_words(text))
    return references


def _sampled_locations(
    decoder: HardAttention, reading: Reading, words: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What :func:`reinforce_locations` is given: the advantage is over the moving mean of all processes."""
    likelihood = reading.logits.detach().log_softmax(dim=-1).gather(-1, words[..., None]).squeeze(-1)
    captions = (likelihood * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
    present = mask.any(dim=-1)
    totals = sum_over_processes(torch.stack([captions[present].sum(), present.sum()]))
    advantage = captions - decoder.move_baseline(totals[0] / totals[1])
    assert reading.attention is not None
    assert reading.context_weights is not None
    return reading.attention, reading.context_weights, mask, advantage
