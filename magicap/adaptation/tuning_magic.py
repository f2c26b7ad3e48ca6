"""The weights of magic search that suit two models: measured without a captioned picture.

Where there are pictures, the captions of a memory that are nearest to one are its references: the weights
under which magic search comes nearest to them have the highest expected utility under this evidence, as in
minimum Bayes risk decoding. Without pictures, captions with noise in place of the modality gap stand for
them, as in :mod:`magicap.adaptation.tuning`, each with the caption that it was made of as its reference.
Beta first, at the alpha that is there, then alpha at that beta.

Shapes: P pictures, S captions in place of pictures, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from magicap.adaptation.parts import Parts
from magicap.decoding.context import DecodingContext
from magicap.decoding.prefix_cache import PrefixCache
from magicap.decoding.searches import search_of
from magicap.decoding.settings import MagicSearch
from magicap.errors import BadSettings
from magicap.metrics.cider import cider_d
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.modality_gap import pseudo_images

BETAS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
ALPHAS = (0.0, 0.1, 0.2, 0.4)
MOST_PICTURES = 200
"""How many pictures, or captions in place of them, are enough."""

_FEWEST_PICTURES = 20  # CIDEr-D weighs words by how rare they are among the references of all pictures
_EVIDENCE = 100  # captions that are a picture's references
_BATCH = 32
_SAMPLES = 500  # of the language model, where there is no memory


def tune_magic_search(
    parts: Parts,
    settings: MagicSearch,
    images: Tensor | None = None,
    *,
    seed: int = 0,
    on_progress: Callable[[int], object] = lambda count: None,
) -> MagicSearch:
    """The settings with the ``alpha`` and ``beta`` that suit two models.

    Args:
        parts: with a memory, whose captions are used; without one the language model samples some.
        settings: the others stay as they are here.
        images: (P, D) unit vectors of pictures without captions; fewer than 20 set the length of the noise
            alone.
        seed: of the captions, and of the noise.
        on_progress: called with 1 for each setting that was tried.

    Raises:
        BadSettings: the memory has a single caption, or the language model never ends one.
    """
    memory = parts.memory or CaptionMemory.from_language_model(
        parts.language_model, parts.scorer, _SAMPLES, seed=seed
    )
    if len(memory) < 2:
        raise BadSettings(
            "to calibrate magic search expected a memory of at least 2 captions, or none, found one of "
            f"{len(memory)}; choose alpha and beta yourself"
        )
    if images is None or len(images) < _FEWEST_PICTURES:
        queries, references = _captions_as_pictures(memory, images, seed)
    else:
        queries, references = images, _evidence(images, memory)
    cache = PrefixCache(parts.language_model, parts.scorer)
    tried: dict[MagicSearch, float] = {}

    def best(candidates: Sequence[MagicSearch]) -> MagicSearch:
        for candidate in candidates:
            if candidate not in tried:
                written = _captions(cache, queries, memory, candidate)
                tried[candidate] = cider_d(written, references)["CIDEr-D"].value
                on_progress(1)
        return max(candidates, key=tried.__getitem__)

    # The settings' own weights come first: of equals the first is taken.
    weighed = best([replace(settings, beta=beta) for beta in dict.fromkeys((settings.beta, *BETAS))])
    return best([replace(weighed, alpha=alpha) for alpha in dict.fromkeys((settings.alpha, *ALPHAS))])


def _captions_as_pictures(
    memory: CaptionMemory, images: Tensor | None, seed: int
) -> tuple[Tensor, list[list[str]]]:
    """Vectors (S, D) of captions with noise, as long as fits P images if any, and each caption."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(memory), generator=generator)[:MOST_PICTURES]
    texts = [[memory.texts[position]] for position in chosen.tolist()]
    return pseudo_images(memory.vectors_at(chosen), memory, images, seed=seed), texts


def _evidence(images: Tensor, memory: CaptionMemory) -> list[list[str]]:
    """For each of P pictures the captions of the memory that are nearest to it."""
    _, positions = memory.nearest(images.to(memory.device), _EVIDENCE)
    return [[memory.texts[position] for position in row] for row in positions.tolist()]


def _captions(cache: PrefixCache, queries: Tensor, memory: CaptionMemory, settings: MagicSearch) -> list[str]:
    """S captions of vectors (S, D)."""
    search = search_of(settings)
    contexts = (DecodingContext(cache, batch, [0] * len(batch), memory) for batch in queries.split(_BATCH))
    return [str(caption) for context in contexts for caption in search.captions(context, settings)]
