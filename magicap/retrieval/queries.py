"""Queries of several parts: pictures and sentences that are liked, less those that are not.

A query is the mean of what is liked less :data:`GAMMA` times the mean of what is not: relevance feedback
(Rocchio 1971). The vectors of pictures, and those of sentences, of a CLIP-type scorer lie in two narrow cones
(the modality gap, Liang et al. 2022, arXiv 2203.02053): much of a picture's vector is what all pictures have
in common, and would outweigh a sentence in a plain sum. So :data:`SHARE` of each part along the mean of the
items that are searched is taken away first, and the rest made of length one.

Shapes: L parts that are liked, U that are not, P parts, N items, D embedding width.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.data.text import normalise_caption
from magicap.errors import BadSettings
from magicap.images.reader import ImageSource
from magicap.retrieval.items import Item, Part, is_sentence

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer

GAMMA = 0.25
"""Weight of what is not liked beside 1 for what is; chosen on aerial pictures (docs/experiments.md)."""

SHARE = 0.5
"""How much of a part along the mean of the items is taken away, 0 to 1; chosen there, too."""


@torch.inference_mode()
def weighed_sum(
    liked: Tensor, unliked: Tensor, vectors: Tensor, *, gamma: float = GAMMA, share: float = SHARE
) -> Tensor:
    """The unit vector (1, D) to search with.

    Args:
        liked: (L, D) unit vectors, at least one; one alone is the query, as it is.
        unliked: (U, D) unit vectors, perhaps none.
        vectors: (N, D) of the items that are searched.
        gamma: weight of what is not liked; what is has weight 1.
        share: of each part along the mean of the items, taken away.
    """
    if len(liked) == 1 and not len(unliked):
        return liked
    mean = vectors.mean(dim=0) if len(vectors) > 1 else torch.zeros(vectors.shape[1])
    axis = F.normalize(mean, dim=0)
    direction = share * axis.outer(axis)
    total = F.normalize(liked - liked @ direction, dim=1).mean(dim=0)
    if len(unliked):
        total = total - gamma * F.normalize(unliked - unliked @ direction, dim=1).mean(dim=0)
    return F.normalize(total, dim=0)[None]


def encode_parts(scorer: ImageTextScorer, parts: Sequence[Part]) -> Tensor:
    """Unit vectors (P, D) of pictures and sentences, the pictures first, float32 on the CPU.

    Raises:
        BadImage: a picture cannot be read.
        BadSettings: a sentence is empty.
    """
    sentences = [_text(part) for part in parts if is_sentence(part)]
    images = [_image(part) for part in parts if not is_sentence(part)]
    encoded = [torch.empty(0, scorer.width)]
    if images:
        encoded.append(scorer.encode_images(images).float().cpu())
    if sentences:
        encoded.append(scorer.encode_texts(require_sentences(sentences)).float().cpu())
    return torch.cat(encoded)


def require_sentences(texts: Iterable[str]) -> list[str]:
    """Sentences as a list; refused here, before a tokenizer fails at them.

    Raises:
        BadSettings: one is empty, or no whole text; or they are one text alone.
    """
    if isinstance(texts, str):
        raise BadSettings("expected a list of sentences, found one alone; put it into a list")
    texts = list(texts)
    for text in texts:
        if not text.strip():
            raise BadSettings("expected sentences, found an empty one; leave it out")
        if text != text.encode("utf-8", "replace").decode():
            raise BadSettings(f"expected sentences, found half a character in {text!r:.80}; write it again")
    return texts


def given_items(parts: Sequence[Part]) -> set[str]:
    """Sentences, and absolute paths of pictures, that stand among the parts of a query."""
    texts = {_text(part) for part in parts if is_sentence(part)}
    images = [_image(part) for part in parts if not is_sentence(part)]
    return texts | {
        os.path.abspath(os.fsdecode(file)) for file in images if isinstance(file, str | os.PathLike)
    }


def _text(part: Part) -> str:
    text = str(part.text if isinstance(part, Item) else part)
    # Written as the sentences of an index are: a stray space before the full stop costs recall.
    return normalise_caption(text) or text


def _image(part: Part) -> ImageSource:
    return str(part.path) if isinstance(part, Item) else part
