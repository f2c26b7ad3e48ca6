"""An n-gram model of the captions near each picture, to be interpolated with the language model.

As a kNN language model does (Khandelwal et al. 2020, arXiv 1911.00172): what is retrieved has a share in the
probability of the next token.

Shapes: B pictures, C captions of all pictures, T tokens of all captions, N contexts, K candidates.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from magicap.arrays import FloatArray, IntArray, distinct

LONGEST = 3
"""Tokens of context."""

_PRIOR_COUNT = 0.5  # captions that the shorter context counts as much as
_UNSEEN = -1


class RetrievalNgramModel:
    """Next-token probabilities of weighted captions: each context has the shorter one as its Dirichlet prior.

    (MacKay and Peto 1995, "A hierarchical Dirichlet language model".)

    Contexts are numbered: first the B pictures, each an empty context, then n-grams of one token, of two and
    so on. An n-gram is the number of its context and its last token, so that all of them are one rising list
    of keys. What comes before a token is a row of 1 + LONGEST numbers, of its last 0, 1, ... tokens, -1
    for those that were not seen.
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
        """Count n-grams.

        Args:
            tokens: (T,) token ids, caption by caption, start and end token included.
            lengths: (C,) tokens of each caption.
            pictures: (C,) the picture that each caption is near, rising from 0; each has at least one.
            weights: (C,) how much each caption counts, about one on average.
            vocabulary_size: above every token's id.
            device: where it is asked.
        """
        before = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        weight = np.where(before > 0, np.repeat(weights, lengths), 0.0)  # nothing comes before a start token
        context = np.repeat(pictures, lengths)  # of each token: the number of the n-gram that ends before it
        self._pictures = contexts = int(pictures.max()) + 1
        self._vocabulary_size = vocabulary_size
        keys, counts, totals = [], [], np.zeros(contexts)
        for length in range(LONGEST + 1):
            positions = np.flatnonzero(before >= length)  # that many tokens of the caption come before
            own = weight[positions]
            own_keys, number = distinct(context[positions] * vocabulary_size + tokens[positions])
            totals += np.bincount(context[positions], weights=own, minlength=len(totals))
            keys.append(own_keys)
            counts.append(np.bincount(number, weights=own, minlength=len(own_keys)))
            context = np.zeros(len(tokens) + 1, dtype=np.int64)
            context[positions + 1] = contexts + number  # the n-gram that ends at a token is the next one's
            context, contexts = context[:-1], contexts + len(own_keys)
            totals = np.concatenate([totals, np.zeros(len(own_keys))])
        self._keys = torch.from_numpy(np.concatenate(keys)).to(device)
        self._counts = torch.from_numpy(np.concatenate(counts)).to(device)
        self._totals = torch.from_numpy(totals).to(device)

    def start(self, *tokens: int) -> Tensor:
        """(B, 1 + LONGEST) contexts that consist of a start token, and what captions begin with behind it."""
        device = self._keys.device
        contexts = torch.full((self._pictures, 1 + LONGEST), _UNSEEN, device=device)
        contexts[:, 0] = torch.arange(self._pictures, device=device)
        for token in tokens:
            _, longer = self.probabilities(contexts, torch.full_like(contexts[:, :1], token))
            contexts = longer[:, 0]
        return contexts

    def probabilities(self, contexts: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """The probability of each candidate token behind its context, and the contexts behind that.

        Args:
            contexts: (N, 1 + LONGEST).
            candidates: (N, K) token ids.

        Returns:
            (N, K) float64, and (N, K, 1 + LONGEST) contexts.
        """
        wanted = contexts[:, :, None] * self._vocabulary_size + candidates[:, None]  # (N, 1 + LONGEST, K)
        places = torch.searchsorted(self._keys, wanted).clamp_max(len(self._keys) - 1)
        seen = self._keys[places] == wanted
        count = self._counts[places] * seen
        total = (self._totals[contexts.clamp_min(0)] * (contexts >= 0))[:, :, None]
        probability = count[:, 0] / total[:, 0]
        for length in range(1, LONGEST + 1):
            mixed = (count[:, length] + _PRIOR_COUNT * probability) / (total[:, length] + _PRIOR_COUNT)
            probability = torch.where(total[:, length] > 0, mixed, probability)
        longer = torch.where(seen, places + self._pictures, _UNSEEN)[:, :LONGEST].transpose(1, 2)
        pictures = contexts[:, :1, None].expand(-1, candidates.shape[1], -1)
        return probability, torch.cat([pictures, longer], dim=2)
