"""What words captions of a picture's kind go on with: an n-gram model of the captions nearest to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magicap.metrics.ngrams import IntArray
from magicap.metrics.score import FloatArray

_LONGEST = 3  # tokens looked back at
_BACKING_OFF = 0.5  # captions' worth of trust in the shorter context


class RetrievalNgramModel:
    """Next-token probabilities of weighted captions, longest context first (Witten and Bell's interpolation).

    In the manner of kNN language models (Khandelwal et al. 2020): what is retrieved votes for the next token.
    """

    def __init__(self, captions: Sequence[Sequence[int]], weights: FloatArray) -> None:
        """
        Args:
            captions: token ids of each, start and end token included.
            weights: how much each counts, about one on average.
        """
        self._tokens = np.array([token for ids in captions for token in ids], dtype=np.int64)
        lengths = np.array([len(ids) for ids in captions], dtype=np.int64)
        self._weights = np.repeat(weights, lengths)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        self._before = np.arange(len(self._tokens)) - starts  # how many tokens stand before each
        self._places: dict[tuple[int, ...], IntArray] = {(): np.flatnonzero(self._before > 0)}
        self._votes: dict[tuple[int, ...], tuple[IntArray, FloatArray, float]] = {}

    def probabilities(self, prefix: Sequence[int], candidates: Sequence[int]) -> FloatArray:
        """(K,) probability of each candidate token behind a prefix."""
        found = np.zeros(len(candidates))
        for length in range(min(_LONGEST, len(prefix)) + 1):
            tokens, votes, total = self._after(tuple(prefix[len(prefix) - length :]))
            if not len(tokens):
                break
            place = np.minimum(np.searchsorted(tokens, candidates), len(tokens) - 1)
            own = np.where(tokens[place] == candidates, votes[place], 0.0)
            trust = _BACKING_OFF if length else 0.0
            found = (own + trust * found) / (total + trust)
        return found

    def _after(self, context: tuple[int, ...]) -> tuple[IntArray, FloatArray, float]:
        """The tokens that stand behind a context, rising, the votes for each, and their sum; kept."""
        if context not in self._votes:
            places = self._found(context)
            tokens, token = np.unique(self._tokens[places], return_inverse=True)
            counted = np.bincount(token, weights=self._weights[places], minlength=len(tokens))
            votes = counted.astype(np.float64, copy=False)
            self._votes[context] = tokens, votes, float(votes.sum())
        return self._votes[context]

    def _found(self, context: tuple[int, ...]) -> IntArray:
        """Where in the captions a token stands behind a context: of the places of its end those that fit."""
        if context not in self._places:
            shorter, length = self._found(context[1:]), len(context)
            shorter = shorter[self._before[shorter] >= length]
            self._places[context] = shorter[self._tokens[shorter - length] == context[0]]
        return self._places[context]
