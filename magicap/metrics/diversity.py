"""How much captions differ among themselves, and how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise

import numpy as np

from magicap.metrics.fluency import require_captions
from magicap.metrics.score import Score, Tokenizer, sign
from magicap.metrics.tokenizer import PTB


def diversity(
    candidates: Sequence[str], references: Sequence[Sequence[str]] = (), *, tokenizer: Tokenizer = PTB
) -> dict[str, Score]:
    """How much captions differ from one another.

    Distinct captions; distinct words and word pairs over all of them (distinct-1/2, Li et al. 2016);
    vocabulary; and the share of images that got the most frequent caption.

    Captions that differ in punctuation or case only are the same caption. All but the last figure
    depend on how many captions there are: compare sets of one size.

    Args:
        candidates: N captions, at least one.
        references: not used.
        tokenizer: splits captions into words; signatures name it.

    Raises:
        BadSettings: no captions.
    """
    require_captions(candidates, "diversity")
    candidate_tokens = [tokenizer(text) for text in candidates]
    words = list(chain.from_iterable(candidate_tokens))
    pairs = [pair for tokens in candidate_tokens for pair in pairwise(tokens)]
    captions = Counter(tuple(tokens) for tokens in candidate_tokens)
    signature = sign("diversity", candidates, references, tok=tokenizer.name)
    figures = [
        ("distinct captions", len(captions), False),
        ("distinct-1", len(set(words)) / max(len(words), 1), True),
        ("distinct-2", len(set(pairs)) / max(len(pairs), 1), True),
        ("vocabulary", len(set(words)), False),
        ("most frequent caption", captions.most_common(1)[0][1] / len(candidates), True),
    ]
    return {
        name: Score.count(name, value, {**signature, "metric": name}, percent=share)
        for name, value, share in figures
    }


def lengths(
    candidates: Sequence[str], references: Sequence[Sequence[str]] = (), *, tokenizer: Tokenizer = PTB
) -> dict[str, Score]:
    """Words a caption, as the tokenizer counts them.

    Args:
        candidates: N captions, at least one.
        references: not used.
        tokenizer: splits captions into words; signatures name it.

    Raises:
        BadSettings: no captions.
    """
    require_captions(candidates, "words")
    per_image = np.array([len(tokenizer(text)) for text in candidates], dtype=np.float64)
    signature = sign("words", candidates, references, tok=tokenizer.name)
    return {"words": Score.mean("words", per_image, signature, percent=False)}
