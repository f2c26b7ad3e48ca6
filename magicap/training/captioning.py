"""Validation of a supervised captioner on held-out pictures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from magicap.data import CaptionedImage
from magicap.metrics.cider import cider_d
from magicap.supervised.decoder import Decoder
from magicap.supervised.search import beam_search
from magicap.supervised.vocabulary import Vocabulary


def validation(
    decoder: Decoder, grids: Sequence[Tensor], rows: Sequence[CaptionedImage], vocabulary: Vocabulary
) -> dict[str, float]:
    """Of greedy captions of held-out pictures: ``score``, CIDEr-D in percent; ``ended``, the share that did.

    Args:
        grids: of the N pictures, in parts of any size.
        rows: the N pictures.
    """
    length = decoder.config.max_words
    outputs = [beam_search(decoder, grid, 1, length) for grid in grids]
    texts = [vocabulary.text(ids) for output in outputs for (ids,) in output.ids.tolist()]
    ended = torch.cat([output.ended.flatten() for output in outputs]).float().mean().item()
    score = 100 * cider_d(texts, [row.captions for row in rows])["CIDEr-D"].value
    return {"score": score, "ended": ended}
