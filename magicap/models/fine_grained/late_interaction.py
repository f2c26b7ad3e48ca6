"""Late interaction of a picture's patches and a text's words: each word's cosine with the nearest patch.

Pure functions of unit vectors. Shapes: N pictures of L patches, M texts of T words, Q queries with C items to
rank and K candidates among them, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LARGEST_CHUNK = 2**24
"""Cosines of words and patches computed at once: 64 MiB in float32."""


def late_interaction(patches: Tensor, words: Tensor, mask: Tensor, chunk: int = LARGEST_CHUNK) -> Tensor:
    """Mean over a text's words of the cosine with the patch nearest to each (FILIP, Yao et al. 2022, eq. 5).

    All pictures with all texts, computed piece by piece and without padding, so that the N * M * T * L
    cosines are never in memory at once. Differentiable.

    Args:
        patches: (N, L, D) unit vectors.
        words: (M, T, D) unit vectors; those of padding may hold anything.
        mask: (M, T) true at words, false at padding.
        chunk: how many cosines may be held at once.

    Returns:
        (N, M) scores in [-1, 1]; 0 for a text without words.
    """
    num_images, num_patches = patches.shape[:2]
    texts = mask.nonzero()[:, 0]  # of every word
    flat = words[mask]
    images_at_once = max(1, chunk // (num_patches * max(1, len(flat))))
    words_at_once = max(1, chunk // (num_patches * min(images_at_once, max(1, num_images))))
    scores = []
    for part in patches.split(images_at_once):
        cosines = (
            (piece @ part.flatten(0, 1).T).unflatten(1, (-1, num_patches))
            for piece in flat.split(words_at_once)
        )
        nearest = torch.cat([cosine.amax(dim=2) for cosine in cosines])
        scores.append(nearest.new_zeros(len(words), len(part)).index_add(0, texts, nearest))
    return torch.cat(scores, dim=1).T / mask.sum(dim=1).clamp(min=1)


@torch.no_grad()
def late_interaction_of_pairs(
    patches: Tensor,
    words: Tensor,
    mask: Tensor,
    images: Tensor,
    texts: Tensor,
    chunk: int = LARGEST_CHUNK,
) -> Tensor:
    """The scores of :func:`late_interaction` for some pairs only; for ranking, not for training.

    Args:
        patches: (N, L, D) unit vectors.
        words: (M, T, D) unit vectors; those of padding may hold anything.
        mask: (M, T) true at words, false at padding.
        images: of any shape; the picture of each pair, an index below N.
        texts: of the same shape; its text, an index below M.
        chunk: how many cosines may be held at once.

    Returns:
        Scores in the shape of ``images`` and ``texts``.
    """

    def score(patches: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        nearest = (words @ patches.transpose(1, 2)).amax(dim=2).masked_fill(~mask, 0.0)
        return nearest.sum(dim=1) / mask.sum(dim=1).clamp(min=1)

    return scores_of_pairs(score, patches, words, mask, images, texts, chunk)


def scores_of_pairs(
    score: Callable[[Tensor, Tensor, Tensor], Tensor],
    patches: Tensor,
    words: Tensor,
    mask: Tensor,
    images: Tensor,
    texts: Tensor,
    chunk: int,
) -> Tensor:
    """Scores of some pairs of pictures and texts, piece by piece.

    Args:
        score: from patches (P, L, D), words (P, T, D) and mask (P, T) of P pairs, no longer than the longest
            of these texts, to their scores (P,).
        patches, words, mask, images, texts, chunk: as of :func:`late_interaction_of_pairs`.
    """
    size = max(1, chunk // (patches.shape[1] * max(1, words.shape[1])))
    scores = [patches.new_zeros(0)]
    for image, text in zip(images.flatten().split(size), texts.flatten().split(size), strict=True):
        width = max(1, int(mask[text].sum(dim=1).max()))
        scores.append(score(patches[image], words[text, :width], mask[text, :width]))
    return torch.cat(scores).view(images.shape)


def candidates_first(similarity: Tensor, candidates: Tensor, scores: Tensor) -> Tensor:
    """Scores that rank a query's candidates by a second score, and all others behind them as before.

    Args:
        similarity: (Q, C) the first score, by which others keep their order.
        candidates: (Q, K) of each query the items that were scored again, indices below C.
        scores: (Q, K) their second scores.

    Returns:
        (Q, C) in float64: ``scores`` at the candidates, elsewhere ``similarity`` lowered, row by row, below
        them.
    """
    similarity, scores = similarity.double(), scores.double()
    gap = similarity.amax(dim=1, keepdim=True) - scores.amin(dim=1, keepdim=True) + 1
    return (similarity - gap).scatter(1, candidates, scores)
