"""CLIPScore and RefCLIPScore (Hessel et al. 2021): how well captions fit their images, to a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from magicap.arrays import FloatArray
from magicap.errors import BadSettings
from magicap.metrics.score import Score, require_pairs, sign

if TYPE_CHECKING:
    from torch import Tensor

    from magicap.models.scorer import ImageTextScorer

PREFIX = "A photo depicts "
WEIGHT = 2.5


class ClipScore:
    """The two scores for given images; a metric like any other once it holds their vectors.

    The paper's figures are those of CLIP ViT-B/32. A scorer rates captions highly that it steered itself.

    Args:
        scorer: what rates the captions.
        images: (N, D) unit vectors by the same scorer, in the candidates' order.
    """

    def __init__(self, scorer: ImageTextScorer, images: Tensor) -> None:
        self.scorer = scorer
        self.images = images

    def __call__(self, candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Score]:
        """CLIPScore, 0 to 2.5: 2.5 max(cos(image, "A photo depicts " + candidate), 0), eq. 1.

        RefCLIPScore is its harmonic mean with max(largest cosine of candidate and reference, 0), eq. 2. Both
        are means of images.

        Args:
            candidates: N captions.
            references: N lists of captions; all empty gives CLIPScore alone.

        Raises:
            BadSettings: N differs between images, candidates and references.
        """
        if len(candidates) != len(self.images):
            raise BadSettings(
                f"CLIPScore: expected captions of {len(self.images)} images, found {len(candidates)}"
            )
        texts = self._encode(candidates)
        clip_scores = WEIGHT * (texts * self.images.float().cpu().numpy()).sum(axis=1).clip(min=0)
        signature = sign(
            "CLIPScore",
            candidates,
            references,
            prefix=PREFIX.strip(),
            w=f"{WEIGHT:g}",
            scorer=self.scorer.fingerprint,
            **self._cut("captions", candidates),
        )
        scores = {"CLIPScore": Score.mean("CLIPScore", clip_scores, signature)}
        if any(references):
            require_pairs(candidates, references, "RefCLIPScore")
            similarity = self._reference_similarity(texts, references).clip(min=0)
            per_image = _harmonic_mean(clip_scores, similarity)
            signature = {**signature, "metric": "RefCLIPScore"}
            if cut := self._cut("references", [text for captions in references for text in captions]):
                signature["cut"] = " and ".join([*filter(None, [signature.get("cut")]), cut["cut"]])
            scores["RefCLIPScore"] = Score.mean("RefCLIPScore", per_image, signature)
        return scores

    def _reference_similarity(self, texts: FloatArray, references: Sequence[Sequence[str]]) -> FloatArray:
        """(N,) largest cosine of each candidate with its references."""
        counts = [len(captions) for captions in references]
        owner = np.repeat(np.arange(len(references)), counts)
        vectors = self._encode([text for captions in references for text in captions])
        cosine = (vectors * texts[owner]).sum(axis=1)
        return np.asarray(np.maximum.reduceat(cosine, np.cumsum([0, *counts[:-1]])))

    def _cut(self, what: str, texts: Sequence[str]) -> dict[str, str]:
        """The entry of the signature about texts that the scorer does not read to their end."""
        cut = self.scorer.count_cut([PREFIX + text for text in texts])
        return {"cut": f"{cut} of {len(texts)} {what}"} if cut else {}

    def _encode(self, texts: Sequence[str]) -> FloatArray:
        vectors = self.scorer.encode_texts([PREFIX + text for text in texts])
        return vectors.double().cpu().numpy()


def _harmonic_mean(left: FloatArray, right: FloatArray) -> FloatArray:
    return np.divide(2 * left * right, left + right, out=np.zeros_like(left), where=left + right > 0)
