"""How a supervised captioner learns: what it loses on a batch, and how it does on held-out pictures.

Shapes: B pictures, C captions of each, T tokens, L places of a grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magicap.data import CaptionedImage
from magicap.metrics.cider import cider_d
from magicap.supervised.decoder import Decoder
from magicap.supervised.recurrent import HardAttention
from magicap.supervised.search import beam_search, sample_words, writable
from magicap.supervised.vocabulary import END, PAD, START, Vocabulary, caption_words
from magicap.training.losses import (
    caption_cross_entropy,
    doubly_stochastic,
    reinforce_places,
    self_critical,
)
from magicap.training.rewards import END_WORD, CiderReward


def teaching_loss(
    decoder: Decoder, grid: Tensor, ids: Tensor, *, smoothing: float, coverage: float
) -> Tensor:
    """Cross-entropy of given captions, and what attention is held to besides.

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
        loss = loss + reinforce_places(reading.attention, reading.looked, mask, advantage)
    return loss


def paid_loss(
    decoder: Decoder,
    grid: Tensor,
    references: Sequence[Sequence[str]],
    vocabulary: Vocabulary,
    reward: CiderReward,
    *,
    captions: int,
    max_new_tokens: int,
) -> Tensor:
    """Self-critical loss of captions drawn from the decoder as it stands.

    Args:
        grid: (B, L, D).
        references: B lists of captions.
        captions: how many to draw of each picture, at least 2.
    """
    decoder.eval()  # the probabilities that are taught are those that the captions were drawn from
    seeds = torch.randint(2**62, (len(grid),)).tolist()
    drawn = sample_words(decoder, grid, seeds, captions, max_new_tokens, temperature=1.0).ids
    rewards = reward(
        [[written_words(vocabulary, ids) for ids in picture] for picture in drawn.tolist()],
        [[caption_words(text) for text in texts] for texts in references],
    )
    mask = drawn != PAD
    start = torch.full_like(drawn[:, :, :1], START)
    logits = decoder(grid, torch.cat([start, drawn[:, :, :-1]], dim=2)).logits
    words = drawn.masked_fill(~mask, END)[..., None]  # padding has no probability; the mask leaves it out
    log_probability = writable(logits).gather(-1, words).squeeze(-1)
    paid = torch.as_tensor(rewards, dtype=grid.dtype, device=grid.device)
    return self_critical(log_probability, mask, paid)


def written_words(vocabulary: Vocabulary, ids: Sequence[int]) -> list[str]:
    """The words of a caption as :class:`CiderReward` reads them."""
    return vocabulary.words(ids) + [END_WORD] * (END in ids)


def validation(
    decoder: Decoder, grids: Sequence[Tensor], rows: Sequence[CaptionedImage], vocabulary: Vocabulary
) -> dict[str, float]:
    """CIDEr-D, in percent, of greedy captions of held-out pictures, and the share that ended of themselves.

    Args:
        grids: of the N pictures, in parts of any size.
        rows: the N pictures.
    """
    length = decoder.config.max_words
    written = [beam_search(decoder, grid, 1, length) for grid in grids]
    texts = [vocabulary.text(ids) for part in written for (ids,) in part.ids.tolist()]
    ended = torch.cat([part.ended.flatten() for part in written]).float().mean().item()
    score = 100 * cider_d(texts, [row.captions for row in rows])["CIDEr-D"].value
    return {"score": score, "ended": ended}
