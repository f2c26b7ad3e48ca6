"""What words captions of a picture's kind go on with: an n-gram model of the captions nearest to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from magicap.metrics.score import Numbers

_LONGEST = 3  # tokens looked back at
_BACKING_OFF = 0.5  # captions' worth of trust in the shorter context


class WordPrior:
    """Next-token probabilities of weighted captions, longest context first (Witten and Bell's interpolation).

    In the manner of kNN language models (Khandelwal et al. 2020): what is retrieved votes for the next token.
    """

    def __init__(self, captions: Sequence[Sequence[int]], weights: Numbers) -> None:
        """
        Args:
            captions: token ids of each, start and end token included.
            weights: how much each counts, about one on average.
        """
        self._next: dict[tuple[int, ...], dict[int, float]] = defaultdict(lambda: defaultdict(float))
        for ids, weight in zip(map(tuple, captions), weights.tolist(), strict=True):
            for place in range(1, len(ids)):
                for length in range(min(_LONGEST, place) + 1):
                    self._next[ids[place - length : place]][ids[place]] += weight
        self._total = {context: sum(after.values()) for context, after in self._next.items()}

    def probabilities(self, prefix: Sequence[int], candidates: Sequence[int]) -> Numbers:
        """(K,) probability of each candidate token behind a prefix."""
        found = np.zeros(len(candidates))
        for length in range(min(_LONGEST, len(prefix)) + 1):
            context = tuple(prefix[len(prefix) - length :])
            total = self._total.get(context)
            if total is None:
                break
            after = self._next[context]
            votes = np.array([after.get(token, 0.0) for token in candidates])
            trust = _BACKING_OFF if length else 0.0
            found = (votes + trust * found) / (total + trust)
        return found
