"""Recall of a scorer on held-out captions while it learns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magicap.data import CaptionedImage, normalise_caption
from magicap.metrics.retrieval import retrieval_recall
from magicap.models.scorer import ImageTextScorer


def recall(
    scorer: ImageTextScorer, image_vectors: Tensor, rows: Sequence[CaptionedImage]
) -> dict[str, float]:
    """Recall both ways between pictures and their captions, in percent; ``score`` is both R@1 together.

    Args:
        scorer: encodes the captions.
        image_vectors: (N, D) unit vectors of the pictures.
        rows: the N pictures.
    """
    return _figures(scorer, image_vectors, [row.captions for row in rows])


def text_recall(scorer: ImageTextScorer, rows: Sequence[CaptionedImage]) -> dict[str, float]:
    """The same without pictures: the first caption of each is the query in its place, the others are found.

    Args:
        rows: pictures with at least two captions each.
    """
    firsts = scorer.encode_texts([normalise_caption(row.captions[0]) for row in rows])
    figures = _figures(scorer, firsts, [row.captions[1:] for row in rows])
    return {
        name.replace("image", "first").replace("text", "others"): value for name, value in figures.items()
    }


def _figures(scorer: ImageTextScorer, vectors: Tensor, captions: Sequence[Sequence[str]]) -> dict[str, float]:
    """Recall, in percent, of vectors (N, D) and the captions that belong to each."""
    owner = torch.tensor([number for number, texts in enumerate(captions) for _ in texts])
    texts = scorer.encode_texts([normalise_caption(text) for row in captions for text in row])
    figures = retrieval_recall(vectors.cpu() @ texts.cpu().T, owner)
    return {"score": figures["image_to_text_r1"] + figures["text_to_image_r1"], **figures}
