"""How a supervised captioner learns: its losses on a batch, and its validation on held-out pictures.

Shapes: B pictures, C captions of each, T tokens, L locations of a grid, D features of a location.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magicap.data import CaptionedImage
from magicap.metrics.cider import cider_d
from magicap.supervised.decoder import Decoder
from magicap.supervised.recurrent import HardAttention
from magicap.supervised.search import beam_search, log_probabilities, sample_words
from magicap.supervised.vocabulary import END, PAD, START, Vocabulary, caption_words
from magicap.training.losses import (
    caption_cross_entropy,
    doubly_stochastic,
    reinforce_locations,
    self_critical,
)
from magicap.training.rewards import END_WORD, CiderReward


def cross_entropy_loss(
    decoder: Decoder, grid: Tensor, ids: Tensor, *, smoothing: float, coverage: float
) -> Tensor:
    """Cross-entropy of captions people wrote, in nats a word, with the losses of attention added.

    Args:
        grid: (B, L, D).
        ids: (B, C, T) from the start token on.
        smoothing: of labels.
        coverage: weight of the doubly stochastic regulariser; unused without attention.
    """
    words = ids[:, :, 1:]
    mask = words != PAD
    reading = decoder(grid, ids[:, :, :-1])
    loss = caption_cross_entropy(reading.logits, words, PAD, smoothing)
    if reading.attention is not None and coverage:
        loss = loss + coverage * doubly_stochastic(reading.attention, mask)
    if isinstance(decoder, HardAttention):
        likelihood = reading.logits.detach().log_softmax(dim=-1).gather(-1, words[..., None]).squeeze(-1)
        captions = (likelihood * mask).sum(dim=-1) / mask.sum(dim=-1).clamp(min=1)
        advantage = captions - decoder.move_baseline(captions[mask.any(dim=-1)].mean())
        loss = loss + reinforce_locations(reading.attention, reading.context_weights, mask, advantage)
    return loss


def self_critical_loss(
    decoder: Decoder,
    grid: Tensor,
    references: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
    reward: CiderReward,
    *,
    captions: int,
    max_new_tokens: int,
) -> Tensor:
    """Self-critical loss of captions sampled from the decoder as it stands (Rennie et al. 2017).

    Args:
        grid: (B, L, D).
        references: B lists of captions.
        captions: how many to sample of each picture, at least 2.
    """
    decoder.eval()  # the gradient is of the very probabilities that the captions are sampled by: no dropout
    seeds = torch.randint(2**62, (len(grid),)).tolist()
    ids = sample_words(decoder, grid, seeds, captions, max_new_tokens, temperature=1.0).ids
    rewards = reward(
        [[reward_words(vocabulary, sample) for sample in picture] for picture in ids.tolist()],
        [[caption_words(text) for text in texts] for texts in references],
    )
    mask = ids != PAD
    start = torch.full_like(ids[:, :, :1], START)
    logits = decoder(grid, torch.cat([start, ids[:, :, :-1]], dim=2)).logits
    words = ids.masked_fill(~mask, END)[..., None]  # padding has no probability; the mask leaves it out
    log_probability = log_probabilities(logits).gather(-1, words).squeeze(-1)
    return self_critical(
        log_probability, mask, torch.as_tensor(rewards, dtype=grid.dtype, device=grid.device)
    )


def reward_words(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """The words of a caption as :class:`CiderReward` reads them."""
    return vocabulary.words(ids) + [END_WORD] * (END in ids)


def validation(
    decoder: Decoder, grids: Sequence[Tensor], rows: Sequence[CaptionedImage], vocabulary: Vocabulary
) -> dict[str, float]:
    """Of greedy captions of held-out pictures: ``score``, CIDEr-D in percent; ``ended``, the share that did.

    Args:
        grids: of the N pictures, in parts of any size.
        rows: the N pictures.
    """
    length = decoder.config.max_words
    outputs = [beam_search(decoder, grid, 1, length) for grid in grids]
    texts = [vocabulary.text(ids) for output in outputs for (ids,) in output.ids.tolist()]
    ended = torch.cat([output.ended.flatten() for output in outputs]).float().mean().item()
    score = 100 * cider_d(texts, [row.captions for row in rows])["CIDEr-D"].value
    return {"score": score, "ended": ended}
