"""Bilinear pooling of a picture's patches and a text's words under attention over all their pairs.

Shapes: N pictures of L patches, M texts of T words, G glimpses, E width of the local space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from magicap.models.fine_grained.late_interaction import LARGEST_CHUNK, scores_of_pairs

START_TEMPERATURE = 0.05
"""Of the attention over pairs where training begins; it learns with the rest."""


class BilinearPooling(nn.Module):
    """Low-rank bilinear pooling (Kim et al. 2017, 1610.04325) under bilinear attention (2018, 1805.07932).

    With words w_i and patches p_j, and of each glimpse g two weights of every dimension, q_g and v_g:

        A_g   = softmax over all pairs i, j of  sum_k q_gk w_ik p_jk
        score = mean over g of  sum_ij A_g,ij  sum_k v_gk w_ik p_jk

    So a few pairs that fit can decide, where late interaction gives every word of a text the same weight. The
    glimpses share the projections of words and patches. Training begins near the cosine of the best pair.

    Args:
        width: E.
        glimpses: G, how many such attentions are averaged.
    """

    def __init__(self, width: int, glimpses: int) -> None:
        super().__init__()
        self.attention = nn.Parameter((1 + 0.1 * torch.randn(glimpses, width)) / START_TEMPERATURE)
        self.value = nn.Parameter(1 + 0.1 * torch.randn(glimpses, width))

    def forward(self, patches: Tensor, words: Tensor, mask: Tensor, chunk: int = LARGEST_CHUNK) -> Tensor:
        """Scores of all pictures with all texts, piece by piece; differentiable.

        Args:
            patches: (N, L, E) unit vectors.
            words: (M, T, E) unit vectors; those of padding may hold anything.
            mask: (M, T) true at words, false at padding.
            chunk: how many pairs of a word and a patch may be held at once, of one glimpse.

        Returns:
            (N, M) scores; 0 for a text without words.
        """
        flat, missing = words[mask], ~mask[..., None]
        images_at_once = max(1, chunk // (patches.shape[1] * max(1, len(flat))))
        scores = []
        for part in patches.split(images_at_once):
            total = patches.new_zeros(len(words), len(part))
            for query, value in zip(self.attention, self.value, strict=True):
                # Over a word's patches first, then over the words: the same as over all pairs.
                logits = torch.einsum("we,nle->wnl", flat * query, part)
                values = torch.einsum("we,nle->wnl", flat * value, part)
                pooled = (logits.softmax(dim=2) * values).sum(dim=2)
                weight = _filled(logits.logsumexp(dim=2), mask).masked_fill(missing, float("-inf"))
                attended = weight.softmax(dim=1).nan_to_num() * _filled(pooled, mask)
                total = total + attended.sum(dim=1)
            scores.append(total.T / len(self.value))
        return torch.cat(scores)

    @torch.no_grad()
    def of_pairs(
        self,
        patches: Tensor,
        words: Tensor,
        mask: Tensor,
        images: Tensor,
        texts: Tensor,
        chunk: int = LARGEST_CHUNK,
    ) -> Tensor:
        """The scores of :meth:`forward` for some pairs only; for ranking, not for training.

        Args:
            patches: (N, L, E) unit vectors.
            words: (M, T, E) unit vectors; those of padding may hold anything.
            mask: (M, T) true at words, false at padding.
            images: of any shape; the picture of each pair, an index below N.
            texts: of the same shape; its text, an index below M.
            chunk: how many pairs of a word and a patch may be held at once, of one glimpse.

        Returns:
            Scores in the shape of ``images`` and ``texts``.
        """

        def score(patches: Tensor, words: Tensor, mask: Tensor) -> Tensor:
            theirs, missing = patches.transpose(1, 2), ~mask[..., None]
            total = patches.new_zeros(len(patches))
            for query, value in zip(self.attention, self.value, strict=True):
                logits = ((words * query) @ theirs).masked_fill(missing, float("-inf"))
                values = ((words * value) @ theirs).masked_fill(missing, 0.0)
                weights = logits.flatten(1).softmax(dim=1).nan_to_num()
                total += (weights * values.flatten(1)).sum(dim=1)
            return total / len(self.value)

        return scores_of_pairs(score, patches, words, mask, images, texts, chunk)


def _filled(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows (words of all texts, N) as (M, T, N), with zeros at padding."""
    return rows.new_zeros(*mask.shape, rows.shape[1]).index_put((mask,), rows)
