"""ROUGE-L (Lin 2004): how much of a reference stands in the candidate, in order, gaps allowed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from magicap.metrics.score import Score, Tokenizer, require_pairs, sign
from magicap.metrics.tokenizer import PTB

BETA = 1.2
"""How much more recall weighs than precision, as in coco-caption."""


def rouge_l(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = PTB
) -> dict[str, Score]:
    """ROUGE-L, 0 to 1: F of the longest common subsequence, the corpus score being the mean of images.

    As in coco-caption precision and recall are each the best over the references, not those of one reference.

    Args:
        candidates: N captions.
        references: N lists of one or more captions.
        tokenizer: splits captions into words; signatures name it.

    Raises:
        BadSettings: not one list of references a candidate, or no image.
    """
    require_pairs(candidates, references, "ROUGE-L")
    per_image = np.array(
        [
            _f_score(tokenizer(candidate), [tokenizer(text) for text in texts])
            for candidate, texts in zip(candidates, references, strict=True)
        ]
    )
    signature = sign("ROUGE-L", candidates, references, beta=f"{BETA:g}", tok=tokenizer.name)
    return {"ROUGE-L": Score.mean("ROUGE-L", per_image, signature)}


def _f_score(candidate: list[str], references: list[list[str]]) -> float:
    positions: dict[str, int] = {}  # word -> the candidate's positions as bits
    for position, word in enumerate(candidate):
        positions[word] = positions.get(word, 0) | 1 << position
    common = [_common_length(positions, len(candidate), words) for words in references]
    precision = max(common) / max(len(candidate), 1)
    recall = max(length / max(len(words), 1) for length, words in zip(common, references, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_length(positions: dict[str, int], length: int, words: list[str]) -> int:
    """Longest common subsequence, a whole row of the table at a time as bits of one number (Hyyrö 2004)."""
    all_ones = (1 << length) - 1
    row = all_ones
    for word in words:
        matches = row & positions.get(word, 0)
        row = (row + matches | row - matches) & all_ones
    return length - row.bit_count()
