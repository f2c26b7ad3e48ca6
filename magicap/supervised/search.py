"""Greedy, beam search and sampling: one batched loop, three ways of choosing.

Shapes: B pictures, W captions of each being written (the beam), T tokens, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from magicap.supervised.decoder import Decoder, reorder
from magicap.supervised.vocabulary import END, NEVER_WRITTEN, PAD, START

NextTokens = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Totals (B, W), next words' log-probabilities (B, W, V), the pictures' numbers (B,) and the position to the
captions that go on (B, W) and their next words (B, W)."""


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
        """(B, W) the captions of each picture by falling score; those that ended go before all that did not."""
        scores = self.scores(length_penalty)
        unfinished = ~self.ended & self.ended.any(dim=1, keepdim=True)
        by_score = scores.argsort(dim=1, descending=True, stable=True)
        behind = unfinished.gather(1, by_score).int().argsort(dim=1, stable=True)
        return by_score.gather(1, behind)

    def best(self, length_penalty: float) -> Tensor:
        """(B,) the first of :meth:`ranked`."""
        return self.ranked(length_penalty)[:, 0]


def beam_search(decoder: Decoder, grid: Tensor, beam_size: int, max_new_tokens: int) -> BeamOutput:
    """The beam's captions of each picture, by falling log-probability; a beam of one is greedy search.

    The ``beam_size`` likeliest partial captions of each position go on. A caption that has ended keeps its place
    in the beam as long as its log-probability is among them.

    Args:
        grid: (B, L, D).
    """

    def likeliest(totals: Tensor, words: Tensor, _: Tensor, position: int) -> tuple[Tensor, Tensor]:
        if position == 0:
            words[:, 1:] = -torch.inf  # all captions are empty yet: the first speaks for all
        top = (totals[:, :, None] + words).flatten(1).topk(beam_size, dim=1).indices
        return top // words.shape[2], top % words.shape[2]

    return _write(decoder, grid, beam_size, max_new_tokens, likeliest)


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
        temperature: above 1 flattens the distribution, below 1 sharpens it.
    """
    shape = max_new_tokens, captions
    rows = [torch.rand(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    uniform = torch.stack(rows).to(grid.device)

    def sampled(totals: Tensor, words: Tensor, pictures: Tensor, position: int) -> tuple[Tensor, Tensor]:
        cumulative = torch.softmax(words / temperature, dim=2).cumsum(dim=2)
        wanted = uniform[pictures, position, :, None] * cumulative[..., -1:]
        same = torch.arange(captions, device=grid.device).expand_as(totals)
        return same, torch.searchsorted(cumulative, wanted, right=True).squeeze(2)

    return _write(decoder, grid, captions, max_new_tokens, sampled)


@torch.no_grad()
def _write(decoder: Decoder, grid: Tensor, width: int, max_new_tokens: int, choose: NextTokens) -> BeamOutput:
    shape = (len(grid), width, max_new_tokens)
    ids = torch.full(shape, PAD, device=grid.device)
    log_probability = torch.zeros(shape, device=grid.device)
    pictures = torch.arange(len(grid), device=grid.device)  # those with captions still being written
    last = torch.full((len(grid), width), START, device=grid.device)
    memory = decoder.look(grid)
    state = decoder.start(memory, width)
    for position in range(max_new_tokens):
        if not len(pictures):
            break
        prediction = decoder.step(memory, state, last)
        words = _next_words(prediction.logits.float(), (last == END) | (last == PAD))
        origin, last = choose(log_probability[pictures].sum(dim=2), words, pictures, position)
        state = reorder(prediction.state, origin)
        (ids[pictures], log_probability[pictures]) = reorder(
            (ids[pictures], log_probability[pictures]), origin
        )
        ids[pictures, :, position] = last
        (of_origin,) = reorder((words,), origin)
        log_probability[pictures, :, position] = of_origin.gather(2, last[..., None]).squeeze(2)
        going_on = ((last != END) & (last != PAD)).any(dim=1)
        pictures, last = pictures[going_on], last[going_on]
        memory, state = (tuple(each[going_on] for each in kept) for kept in (memory, state))
    return BeamOutput(ids, log_probability)


def writable(logits: Tensor) -> Tensor:
    """(..., V) log-probabilities where some tokens are never written."""
    banned = torch.tensor(NEVER_WRITTEN, device=logits.device)
    return logits.index_fill(-1, banned, -torch.inf).log_softmax(dim=-1)


def _next_words(logits: Tensor, ended: Tensor) -> Tensor:
    """(B, W, V) log-probabilities of what may be written; behind an ended caption padding, for nothing."""
    words = writable(logits).masked_fill(ended[..., None], -torch.inf)
    words[..., PAD] = torch.where(ended, 0.0, -torch.inf)
    return words
