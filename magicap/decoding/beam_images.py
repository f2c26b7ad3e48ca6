"""What pictures say of texts that are being written: cosines of whole texts so far, for every candidate.

Shapes: B pictures, N beams of each, K candidates, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magicap.decoding.context import DecodingContext
from magicap.models.incremental_text import EncodedText


class BeamImageScores:
    """Scores of candidates by the picture, and what the text tower keeps of each beam's text.

    The score is the cosine of the whole text so far, in standard deviations, so that along a sequence the
    changes add up to the last cosine whatever the number of candidates.

    Args:
        cosine_std: B standard deviations that each picture's cosines are measured in.
        weight: what such a deviation is worth in nats.
    """

    def __init__(self, context: DecodingContext, cosine_std: Sequence[float], weight: float) -> None:
        self._images, self._language_model = context.image_vectors, context.language_model
        self._std = torch.tensor(cosine_std, dtype=torch.float64, device=self._images.device)
        self._weight = weight
        self._encoder = context.scorer.incremental_text_encoder()
        self._texts: list[list[EncodedText]] = [[EncodedText()] for _ in cosine_std]

    def of(self, tokens: Tensor, candidates: Tensor, exist: Tensor) -> Tensor:
        """(B, N, K) float64 scores, 0 of beams that there are not.

        Args:
            tokens: (B, N, T) of each beam.
            candidates: (B, N, K) that may follow.
            exist: (B, N) which beams there are.
        """
        scores = torch.zeros(candidates.shape, dtype=torch.float64, device=candidates.device)
        cells = exist.nonzero().tolist()
        if not cells:
            return scores
        K, before = candidates.shape[2], tokens[exist].tolist()
        longer = [
            (*prefix, token)
            for prefix, row in zip(before, candidates[exist].tolist(), strict=True)
            for token in row
        ]
        captions = self._language_model.texts(before)
        texts = self._language_model.texts(longer)
        extension = self._encoder.extend(
            [self._texts[b][n] for b, n in cells],
            captions,
            [texts[start : start + K] for start in range(0, len(texts), K)],
        )
        for (b, n), text in zip(cells, extension.prefixes, strict=True):
            self._texts[b][n] = text
        rows = exist.nonzero()[:, 0]
        cosines = torch.einsum("md,mkd->mk", self._images[rows], torch.stack(extension.vectors)).double()
        scores[exist] = self._weight * cosines / self._std[rows, None]
        return scores

    def reorder(self, parents: Tensor) -> None:
        """Beams have become others, each grown from one of before: (B, N) which."""
        self._texts = [
            [texts[n] for n in row] for texts, row in zip(self._texts, parents.tolist(), strict=True)
        ]
