"""Greedy, beam search and sampling: one batched loop, two ways of choosing the next tokens.

Shapes: B pictures, W captions of each being written (the beam), T tokens, V words,
L locations of a grid, D features of a location.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from magicap.supervised.decoder import Decoder, reorder
from magicap.supervised.vocabulary import END, NEVER_WRITTEN, PAD, START

NextTokens = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""From totals (B, W), log-probabilities of the next words (B, W, V), the pictures' numbers (B,) and the
position to the captions that go on (B, W) and their next words (B, W)."""


@dataclass(frozen=True)
class BeamOutput:
    """W captions of each of B pictures."""

    ids: Tensor
    """(B, W, T) tokens, the end token last where there is one, padding behind it."""

    log_probability: Tensor
    """(B, W, T) of each token, 0 for padding."""

    @property
    def ended(self) -> Tensor:
        """(B, W) whether a caption ended of itself, not for want of room."""
        return (self.ids == END).any(dim=2)

    def scores(self, length_penalty: float) -> Tensor:
        """(B, W) log-probability over tokens ** ``length_penalty``; 0 prefers short ones, 1 is the mean."""
        tokens = (self.ids != PAD).sum(dim=2).clamp(min=1)
        return self.log_probability.sum(dim=2) / tokens**length_penalty

    def ranked(self, length_penalty: float) -> Tensor:
        """(B, W) a picture's captions by falling score; those that ended go before all that did not."""
        scores = self.scores(length_penalty)
        unfinished = ~self.ended & self.ended.any(dim=1, keepdim=True)
        order = scores.argsort(dim=1, descending=True, stable=True)
        behind = unfinished.gather(1, order).int().argsort(dim=1, stable=True)
        return order.gather(1, behind)

    def best(self, length_penalty: float) -> Tensor:
        """(B,) the first of :meth:`ranked`."""
        return self.ranked(length_penalty)[:, 0]


def beam_search(decoder: Decoder, grid: Tensor, beam_size: int, max_new_tokens: int) -> BeamOutput:
    """The beam's captions of each picture, by falling log-probability; a beam of one is greedy search.

    The ``beam_size`` likeliest partial captions of each position go on. A caption that has ended stays in the
    beam as long as its log-probability is among them.

    Args:
        decoder: in eval mode.
        grid: (B, L, D).
        beam_size: W, partial captions kept of each picture.
        max_new_tokens: the longest caption, its end token included.
    """

    def likeliest(totals: Tensor, log_p: Tensor, _: Tensor, position: int) -> tuple[Tensor, Tensor]:
        if position == 0:
            log_p[:, 1:] = -torch.inf  # all captions are empty yet: only the first is extended
        top = (totals[:, :, None] + log_p).flatten(1).topk(beam_size, dim=1).indices
        return top // log_p.shape[2], top % log_p.shape[2]

    return _search(decoder, grid, beam_size, max_new_tokens, likeliest)


def sample_words(
    decoder: Decoder,
    grid: Tensor,
    seeds: Sequence[int],
    captions: int,
    max_new_tokens: int,
    temperature: float,
) -> BeamOutput:
    """Captions sampled word by word; a picture's depend on its own seed alone, whatever stands beside it.

    Args:
        grid: (B, L, D).
        seeds: one a picture.
        captions: how many to sample of each picture, W.
        max_new_tokens: the longest caption, its end token included.
        temperature: above 1 flattens the distribution, below 1 sharpens it.
    """
    shape = max_new_tokens, captions
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    uniform = torch.stack(rows).to(grid.device)

    def sampled(totals: Tensor, log_p: Tensor, pictures: Tensor, position: int) -> tuple[Tensor, Tensor]:
        cumulative = torch.softmax(log_p / temperature, dim=2).cumsum(dim=2)
        thresholds = uniform[pictures, position, :, None] * cumulative[..., -1:]
        same = torch.arange(captions, device=grid.device).expand_as(totals)
        return same, torch.searchsorted(cumulative, thresholds, right=True).squeeze(2)

    return _search(decoder, grid, captions, max_new_tokens, sampled)


@torch.no_grad()
def _search(
    decoder: Decoder, grid: Tensor, width: int, max_new_tokens: int, choose: NextTokens
) -> BeamOutput:
    shape = (len(grid), width, max_new_tokens)
    ids = torch.full(shape, PAD, device=grid.device)
    log_probability = torch.zeros(shape, device=grid.device)
    pictures = torch.arange(len(grid), device=grid.device)  # those with captions still being written
    last = torch.full((len(grid), width), START, device=grid.device)
    encoder_output = decoder.encode(grid)
    state = decoder.start(encoder_output, width)
    for position in range(max_new_tokens):
        if not len(pictures):
            break
        prediction = decoder.step(encoder_output, state, last)
        log_p = _next_log_probabilities(prediction.logits.float(), (last == END) | (last == PAD))
        origin, last = choose(log_probability[pictures].sum(dim=2), log_p, pictures, position)
        state = reorder(prediction.state, origin)
        (ids[pictures], log_probability[pictures]) = reorder(
            (ids[pictures], log_probability[pictures]), origin
        )
        ids[pictures, :, position] = last
        (of_origin,) = reorder((log_p,), origin)
        log_probability[pictures, :, position] = of_origin.gather(2, last[..., None]).squeeze(2)
        unfinished = ((last != END) & (last != PAD)).any(dim=1)
        pictures, last = pictures[unfinished], last[unfinished]
        encoder_output = tuple(tensor[unfinished] for tensor in encoder_output)
        state = tuple(tensor[unfinished] for tensor in state)
    return BeamOutput(ids, log_probability)


def log_probabilities(logits: Tensor) -> Tensor:
    """(..., V) of the next word, in nats; minus infinity for tokens that no caption may have."""
    never = torch.tensor(NEVER_WRITTEN, device=logits.device)
    return logits.index_fill(-1, never, -torch.inf).log_softmax(dim=-1)


def _next_log_probabilities(logits: Tensor, ended: Tensor) -> Tensor:
    """(B, W, V) of the next word; behind an ended caption (B, W) only padding, with log-probability 0."""
    log_p = log_probabilities(logits).masked_fill(ended[..., None], -torch.inf)
    log_p[..., PAD] = torch.where(ended, 0.0, -torch.inf)
    return log_p
