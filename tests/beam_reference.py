"""Beam search written straight from its definition: one picture, lists of words, whole prefixes, no states.

The reference implementation of ``magicap.supervised.search``. Of the library it takes the numbers of the
tokens, and a decoder's logits for whole captions.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from magicap.supervised.decoder import Decoder
from magicap.supervised.vocabulary import END, PAD, START, UNKNOWN


class Hypothesis(NamedTuple):
    """The beginning of a caption."""

    ids: tuple[int, ...] = ()
    log_probability: tuple[float, ...] = ()

    @property
    def total(self) -> float:
        return math.fsum(self.log_probability)

    @property
    def ended(self) -> bool:
        return END in self.ids

    def score(self, length_penalty: float) -> float:
        return self.total / len(self.ids) ** length_penalty


def reference_beam(
    decoder: Decoder, grid: Tensor, beam_size: int, length: int
) -> tuple[list[Hypothesis], float]:
    """The beam's captions of one picture (L, D), the likeliest first, and the closest decision on the way."""
    beam, closest = [Hypothesis()], math.inf
    for _ in range(length):
        candidates = []
        for one in beam:
            if one.ended:
                candidates.append(one)
                continue
            for word, log_p in reference_words(decoder, grid, one.ids).items():
                candidates.append(Hypothesis((*one.ids, word), (*one.log_probability, log_p)))
        candidates.sort(key=lambda one: -one.total)
        totals = [one.total for one in candidates[: beam_size + 1]]
        closest = min([closest, *(a - b for a, b in pairwise(totals))])
        beam = candidates[:beam_size]
    return beam, closest


def reference_best(beam: list[Hypothesis], length_penalty: float) -> Hypothesis:
    """The best caption that ended, or the best of all if none did."""
    ended = [one for one in beam if one.ended]
    return max(ended or beam, key=lambda one: one.score(length_penalty))


def reference_greedy(decoder: Decoder, grid: Tensor, length: int) -> list[int]:
    """The likeliest word after the likeliest word."""
    ids: list[int] = []
    while len(ids) < length and END not in ids:
        words = reference_words(decoder, grid, ids)
        ids.append(max(words, key=words.__getitem__))
    return ids


@torch.no_grad()
def reference_words(decoder: Decoder, grid: Tensor, ids: tuple[int, ...] | list[int]) -> dict[int, float]:
    """Log-probability of every word that may follow, all of them together having probability one."""
    logits = decoder(grid[None], torch.tensor([[[START, *ids]]])).logits[0, 0, -1].tolist()
    allowed = {word: logit for word, logit in enumerate(logits) if word not in (PAD, START, UNKNOWN)}
    largest = max(allowed.values())
    norm = largest + math.log(math.fsum(math.exp(logit - largest) for logit in allowed.values()))
    return {word: logit - norm for word, logit in allowed.items()}
