"""An n-gram model of the captions near each picture, to be interpolated with the language model.

As a kNN language model does (Khandelwal et al. 2020, arXiv 1911.00172): what is retrieved has a share in the
probability of the next token.

Shapes: B pictures, C captions of all pictures, T tokens of all captions, N contexts, K candidates, G n-grams.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from magicap.arrays import FloatArray, IntArray, distinct

LONGEST = 3
"""Tokens of context."""

_PRIOR_COUNT = 0.5  # captions that the shorter context counts as much as
_UNSEEN = -1


@dataclass(frozen=True)
class _Order:
    """The n-grams of one length of all pictures: the number of a context, one shorter, and a token."""

    keys: Tensor
    """(G,) rising: the context's number times the number of tokens, and the token."""

    counts: Tensor
    """(G,) weighed, float64."""

    totals: Tensor
    """(contexts,) weighed counts of all that follows each context, float64."""


class RetrievalNgramModel:
    """Next-token probabilities of weighted captions: each context has the shorter one as its Dirichlet prior.

    (MacKay and Peto 1995, "A hierarchical Dirichlet language model".)

    A context is known by the numbers of its last 0 to :data:`LONGEST` tokens among the n-grams of each
    length, -1 where they were not seen: a row of (N, 1 + LONGEST) numbers, the first of which is the picture.

    Args:
        tokens: (T,) token ids, caption by caption, start and end token included.
        lengths: (C,) tokens of each caption.
        pictures: (C,) the picture that each caption is near, rising from 0; each has at least one.
        weights: (C,) how much each caption counts, about one on average.
        vocabulary_size: above every token's id.
        device: where it is asked.
    """

    def __init__(
        self,
        tokens: IntArray,
        lengths: IntArray,
        pictures: IntArray,
        weights: FloatArray,
        vocabulary_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._vocabulary_size = vocabulary_size
        self._orders: list[_Order] = []
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        before = np.arange(len(tokens)) - starts  # how many tokens stand before each
        weight = np.repeat(weights, lengths)
        context = np.repeat(pictures, lengths)  # of each token: the number of the n-gram that ends before it
        size = int(pictures.max(initial=-1)) + 1
        for length in range(LONGEST + 1):
            positions = np.flatnonzero(before >= length)
            own = np.where(
                before[positions] > 0, weight[positions], 0.0
            )  # nothing comes before a start token
            keys, number = distinct(context[positions] * vocabulary_size + tokens[positions])
            counts = np.bincount(number, weights=own, minlength=len(keys)).astype(np.float64)
            totals = np.bincount(context[positions], weights=own, minlength=size).astype(np.float64)
            if not len(keys):  # captions too short for so long an n-gram; a key that nothing is looked up by
                keys, counts = np.array([np.iinfo(np.int64).min]), np.zeros(1)
            arrays = (torch.from_numpy(array).to(device) for array in (keys, counts, totals))
            self._orders.append(_Order(*arrays))
            ends = np.zeros(len(tokens) + 1, dtype=np.int64)
            ends[positions + 1] = number  # the n-gram that ends at a token is the context of the next
            context, size = ends[:-1], len(keys)

    def start(self, token: int, count: int) -> Tensor:
        """(B, 1 + LONGEST) contexts of a start token alone, of ``count`` pictures."""
        device = self._orders[0].keys.device
        contexts = torch.full((count, 1 + LONGEST), _UNSEEN, device=device)
        contexts[:, 0] = torch.arange(count, device=device)
        numbers, seen = self._find(0, contexts, torch.full((count, 1), token, device=device))
        contexts[:, 1:2] = torch.where(seen, numbers, _UNSEEN)
        return contexts

    def probabilities(self, contexts: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The probability of each candidate token behind its context, and the contexts behind that.

        Args:
            contexts: (N, 1 + LONGEST).
            candidates: (N, K) token ids.

        Returns:
            (N, K) float64, and (N, K, 1 + LONGEST) contexts.
        """
        probability = torch.zeros(candidates.shape, dtype=torch.float64, device=candidates.device)
        behind = [contexts[:, :1].expand_as(candidates)]
        for length, order in enumerate(self._orders):
            numbers, seen = self._find(length, contexts, candidates)
            behind.append(torch.where(seen, numbers, _UNSEEN))
            known = contexts[:, length, None] >= 0
            total = order.totals[contexts[:, length].clamp_min(0)][:, None] * known
            count = order.counts[numbers] * seen
            trust = _PRIOR_COUNT if length else 0.0
            mixed = (count + trust * probability) / (total + trust).clamp_min(torch.finfo(total.dtype).tiny)
            probability = torch.where(total > 0, mixed, probability)
        return probability, torch.stack(behind[:-1], dim=2)

    def _find(self, length: int, contexts: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N, K) where the n-grams of contexts of one length and tokens are, and whether they are there."""
        keys = self._orders[length].keys
        wanted = contexts[:, length, None] * self._vocabulary_size + tokens
        numbers = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        return numbers, keys[numbers] == wanted
