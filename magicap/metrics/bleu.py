"""BLEU-1 to BLEU-4 (Papineni et al. 2002), with the smoothing and brevity penalty of coco-caption."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain

import numpy as np

from magicap.arrays import FloatArray, IntArray
from magicap.metrics.ngrams import ORDERS, Ngrams, count_ngrams, look_up, words
from magicap.metrics.score import Score, Tokenizer, require_pairs, sign
from magicap.metrics.tokenizer import PTB

# coco-caption's: they keep empty captions from dividing by zero and never show in two decimals.
_TINY, _SMALL = 1e-15, 1e-9


def bleu(
    candidates: Sequence[str], references: Sequence[Sequence[str]], *, tokenizer: Tokenizer = PTB
) -> dict[str, Score]:
    """BLEU-1..4, 0 to 1; the corpus score pools n-gram counts over images.

    The brevity penalty takes, of an image's references, the length nearest to the candidate's, the shorter
    of two equally near. An image's own BLEU-4 is close to 0 unless four words in a row are right.

    Args:
        candidates: N captions.
        references: N lists of one or more captions.
        tokenizer: splits captions into words; signatures name it.

    Raises:
        BadSettings: not one list of references a candidate, or no image.
    """
    require_pairs(candidates, references, "BLEU")
    candidate_tokens = [words(tokenizer(text)) for text in candidates]
    reference_tokens = [[words(tokenizer(text)) for text in texts] for texts in references]
    statistics = bleu_statistics(candidate_tokens, reference_tokens)
    signature = sign("BLEU", candidates, references, tok=tokenizer.name, ref_length="closest")
    return {
        f"BLEU-{n}": Score.pooled(
            f"BLEU-{n}",
            bleu_score(statistics, n),
            statistics,
            partial(bleu_score, n=n),
            {**signature, "metric": f"BLEU-{n}"},
        )
        for n in range(1, ORDERS + 1)
    }


def bleu_score(statistics: FloatArray, n: int) -> FloatArray:
    """BLEU-n of the statistics (..., 10) of one image, or of their sums over many."""
    correct, proposed = statistics[..., :n], statistics[..., ORDERS : ORDERS + n]
    precision = np.exp(np.log((correct + _TINY) / (proposed + _SMALL)).mean(axis=-1))
    ratio = (statistics[..., -2] + _TINY) / (statistics[..., -1] + _SMALL)
    # A ratio of 0 makes a penalty of exp(-inf) = 0, which is right; the large number stands for infinity.
    return np.asarray(precision * np.exp(np.minimum(0.0, 1 - 1 / np.maximum(ratio, 1e-300))))


def bleu_statistics(candidates: Sequence[list[str]], references: Sequence[Sequence[list[str]]]) -> FloatArray:
    """(N, 10): per image, clipped matches of each order, n-grams proposed, and the two lengths.

    Args:
        candidates: N tokenised captions.
        references: N groups of tokenised captions.
    """
    N = len(candidates)
    owner = np.repeat(np.arange(N), [len(texts) for texts in references])
    tables = count_ngrams([*candidates, *chain.from_iterable(references)])
    lengths = np.array([len(words) for words in candidates])
    columns = [_clipped_matches(table, N, owner) for table in tables]
    columns += [np.maximum(lengths - n, 0) for n in range(ORDERS)]
    closest = [
        min((abs(len(words) - length), len(words)) for words in texts)[1]
        for texts, length in zip(references, lengths, strict=True)
    ]
    return np.stack([*columns, lengths, np.array(closest)], axis=1).astype(np.float64)


def _clipped_matches(table: Ngrams, N: int, owner: IntArray) -> IntArray:
    """(N,) n-grams of each candidate that some reference has, none counted more often than there."""
    position, reference = table.entries(np.arange(N, N + len(owner)))
    keys = owner[reference] * table.size + table.gram[position]
    order = np.argsort(keys, kind="stable")
    distinct, first = np.unique(keys[order], return_index=True)
    limit = (
        np.maximum.reduceat(table.count[position][order], first)
        if len(first)
        else np.zeros(0, dtype=np.int64)
    )

    position, candidate = table.entries(np.arange(N))
    where, matches = look_up(distinct, candidate * table.size + table.gram[position])
    matched = np.minimum(table.count[position][matches], limit[where[matches]])
    return np.bincount(candidate[matches], weights=matched, minlength=N).astype(np.int64)
