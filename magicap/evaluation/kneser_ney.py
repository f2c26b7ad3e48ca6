"""An n-gram language model, the baseline that a neural one must beat on caption text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from magicap.arrays import BoolArray, FloatArray, IntArray
from magicap.errors import BadSettings
from magicap.metrics.ngrams import look_up

_START = 0  # stands before every sentence, as often as histories are long; tokens are moved up by one


@dataclass(frozen=True, eq=False)
class _Order:
    """Distinct n-grams of one order and how often they count, M of them."""

    keys: IntArray
    """(M,) history * vocabulary + last token, rising; a history is the place of its n-gram one order down."""

    count: FloatArray
    """(M,) occurrences for the highest order; for the others, how many different tokens stand before it."""

    history_count: FloatArray
    """(H,) sum of the counts that begin with a history."""

    history_kinds: FloatArray
    """(H,) how many different tokens follow a history."""

    discount: float
    """What is taken from each count for the order below: n1 / (n1 + 2 n2) (Ney et al. 1994)."""


class KneserNey:
    """Interpolated Kneser-Ney smoothing (Chen and Goodman 1998, section 4.1.6) over token ids.

    Below the unigrams of continuation lies the uniform distribution, so no token has probability zero.

    Args:
        sentences: lists of token ids, 0 to ``vocabulary`` - 1, the end token included.
        vocabulary: how many tokens there are.
        order: length of the longest n-gram.

    Raises:
        BadSettings: no tokens, an order below 1 or an id outside the vocabulary.
    """

    def __init__(self, sentences: Sequence[Sequence[int]], vocabulary: int, order: int = 5) -> None:
        if order < 1 or not any(len(sentence) for sentence in sentences):
            raise BadSettings(f"expected sentences and an order of at least 1, found order {order}")
        self._vocabulary, self._order = vocabulary + 1, order
        tokens, real = self._padded(sentences)
        history = np.zeros(len(tokens), dtype=np.int64)
        all_keys, ends = [], []  # of each order: distinct n-grams, and the one that ends at each token
        for _ in range(order):
            keys, end = np.unique(history * self._vocabulary + tokens, return_inverse=True)
            all_keys.append(keys)
            ends.append(end)
            history = np.roll(end, 1)
        self._orders = [self._count(n, all_keys, ends, real) for n in range(order)]

    def nats(self, sentences: Sequence[Sequence[int]]) -> FloatArray:
        """(N,) negative log-likelihood of each sentence, in nats."""
        tokens, real = self._padded(sentences)
        probability = np.full(len(tokens), 1.0 / (self._vocabulary - 1))
        history = np.zeros(len(tokens), dtype=np.int64)
        seen = np.ones(len(tokens), dtype=bool)  # whether the history was seen in training
        for order in self._orders:
            place, counted = look_up(order.keys, history * self._vocabulary + tokens)
            counted &= seen
            count = np.where(counted, order.count[place], 0.0)
            total = np.where(seen, order.history_count[history], 0.0)
            kept = np.maximum(count - order.discount, 0.0)
            spared = order.discount * np.where(seen, order.history_kinds[history], 0.0)
            # After a history that was never seen the order below decides.
            probability = np.divide(
                kept + spared * probability, total, out=probability.copy(), where=total > 0
            )
            # The next order's history of the token at t is the n-gram that ends at t - 1.
            history, seen = np.roll(np.where(counted, place, 0), 1), np.roll(counted, 1)
        owner = np.repeat(np.arange(len(sentences)), [len(sentence) for sentence in sentences])
        nats = np.bincount(owner, weights=-np.log(probability[real]), minlength=len(sentences))
        return nats.astype(np.float64)

    def _padded(self, sentences: Sequence[Sequence[int]]) -> tuple[IntArray, BoolArray]:
        """All tokens in a row, start tokens before each sentence; and which of them are no start tokens."""
        start = [-1] * max(self._order - 1, 1)
        tokens = np.fromiter(
            chain.from_iterable(chain(start, sentence) for sentence in sentences), dtype=np.int64
        )
        if len(tokens) and not -1 <= tokens.min() <= tokens.max() < self._vocabulary - 1:
            raise BadSettings(f"expected token ids below {self._vocabulary - 1}, found {tokens.max()}")
        return tokens + 1, tokens >= 0

    def _count(
        self, n: int, all_keys: Sequence[IntArray], ends: Sequence[IntArray], real: BoolArray
    ) -> _Order:
        """Counts of order n + 1; only n-grams that end in a token of a sentence count."""
        keys, size = all_keys[n], len(all_keys[n])
        if n == self._order - 1:
            count = np.bincount(ends[n][real], minlength=size)
        else:  # one for every longer n-gram, under its own last n + 1 tokens
            _, first = np.unique(ends[n + 1][real], return_index=True)
            count = np.bincount(ends[n][real][first], minlength=size)
        history = keys // self._vocabulary
        once, twice = (count == 1).sum(), (count == 2).sum()
        sizes = len(all_keys[n - 1]) if n else 1
        return _Order(
            keys,
            count.astype(np.float64),
            np.bincount(history, weights=count, minlength=sizes).astype(np.float64),
            np.bincount(history, weights=count > 0, minlength=sizes).astype(np.float64),
            float(once / (once + 2 * twice)) if once else 0.5,
        )
