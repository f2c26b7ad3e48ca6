"""An n-gram model of the captions near a picture, to be interpolated with the language model.

As a kNN language model does (Khandelwal et al. 2020, arXiv 1911.00172): what is retrieved has a share in the
probability of the next token.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magicap.arrays import FloatArray, IntArray

_LONGEST = 3  # tokens of context
_PRIOR_COUNT = 0.5  # captions that the shorter context counts as much as


class RetrievalNgramModel:
    """Next-token probabilities of weighted captions: each context has the shorter one as its Dirichlet prior.

    (MacKay and Peto 1995, "A hierarchical Dirichlet language model".)
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
        self._positions: dict[tuple[int, ...], IntArray] = {(): np.flatnonzero(self._before > 0)}
        self._counts: dict[tuple[int, ...], tuple[IntArray, FloatArray, float]] = {}

    def probabilities(self, prefix: Sequence[int], candidates: Sequence[int]) -> FloatArray:
        """(K,) probability of each candidate token behind a prefix."""
        probability = np.zeros(len(candidates))
        for length in range(min(_LONGEST, len(prefix)) + 1):
            tokens, counts, total = self._next_tokens(tuple(prefix[len(prefix) - length :]))
            if not len(tokens):
                break
            column = np.minimum(np.searchsorted(tokens, candidates), len(tokens) - 1)
            count = np.where(tokens[column] == candidates, counts[column], 0.0)
            trust = _PRIOR_COUNT if length else 0.0
            probability = (count + trust * probability) / (total + trust)
        return probability

    def _next_tokens(self, context: tuple[int, ...]) -> tuple[IntArray, FloatArray, float]:
        """The tokens that follow a context, rising, their weighted counts, and the counts' sum; kept."""
        if context not in self._counts:
            positions = self._followed(context)
            tokens, token = np.unique(self._tokens[positions], return_inverse=True)
            weighted = np.bincount(token, weights=self._weights[positions], minlength=len(tokens))
            counts = weighted.astype(np.float64, copy=False)
            self._counts[context] = tokens, counts, float(counts.sum())
        return self._counts[context]

    def _followed(self, context: tuple[int, ...]) -> IntArray:
        """Positions of the tokens that follow a context: of those that follow its end, the ones that fit."""
        if context not in self._positions:
            shorter, length = self._followed(context[1:]), len(context)
            shorter = shorter[self._before[shorter] >= length]
            self._positions[context] = shorter[self._tokens[shorter - length] == context[0]]
        return self._positions[context]
