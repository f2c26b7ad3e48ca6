"""What a search is given: the two models, a memory, and the pictures as vectors.

Shapes: B pictures, D embedding width, W hidden width of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from magicap.decoding.conditioning import NEIGHBOURS, weighted_mean
from magicap.decoding.confidence import ConfidenceModel
from magicap.decoding.prefix_cache import CachedPrefix, PrefixCache
from magicap.errors import BadSettings
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.models.threads import threads_for
from magicap.retrieval.caption_memory import CaptionMemory


@dataclass(eq=False)
class DecodingContext:
    """Everything a decoding may use. Neighbours and soft prompts are computed once, when first asked for.

    A decoding of your own is any object with ``search(context)``::

        class ShortestNeighbour:
            def search(self, context: DecodingContext) -> list[list[Hypothesis]]:
                _, positions = context.nearest(3)  # (B, 3)
                rows = [[context.memory.texts[i] for i in row] for row in positions.tolist()]
                return [[Hypothesis(min(texts, key=len), source="memory")] for texts in rows]

        captioner.caption("photo.jpg", ShortestNeighbour())

    It returns for each picture the captions that competed, the best first.
    """

    cache: PrefixCache
    """The two models, and what has been computed of prefixes before."""

    image_vectors: Tensor
    """(B, D) unit vectors of the pictures."""

    seeds: Sequence[int] = ()
    """B seeds, for searches that sample."""

    memory: CaptionMemory | None = None
    """Captions that the captioner remembers, if it does."""

    confidence: ConfidenceModel | None = None
    """Says how sure a caption is, where it was fitted for these models, memory and settings."""

    _neighbours: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)

    def __len__(self) -> int:
        """B."""
        return len(self.image_vectors)

    @property
    def language_model(self) -> LanguageModel:
        """What proposes words."""
        return self.cache.language_model

    @property
    def scorer(self) -> ImageTextScorer:
        """What says which of them fit a picture."""
        return self.cache.scorer

    def nearest(self, count: int) -> tuple[Tensor, Tensor]:
        """The memory's captions nearest to each picture, best first.

        The memory is searched once: fewer than were asked for before are the first of those.

        Returns:
            Cosines (B, count) and positions in ``memory.texts`` (B, count), or as many as there are.

        Raises:
            BadSettings: there is no memory, or one that another scorer encoded.
        """
        if self.memory is None:
            raise BadSettings("this captioner has no memory; give it one, or choose another decoding")
        count = min(count, len(self.memory))
        if self._neighbours is None or self._neighbours[0].shape[1] < count:
            self._neighbours = self.memory.nearest(self.image_vectors.to(self.memory.device), count)
        cosines, positions = self._neighbours
        return cosines[:, :count], positions[:, :count]

    def soft_prompts(self) -> Tensor:
        """(B, W) what is added to the start token's embedding to condition it on each picture.

        Raises:
            BadSettings: the language model has no soft prompt, or one of another scorer.
        """
        return self._soft_prompts

    def start_prefixes(
        self, top_k: int, *, soft_prompt: bool, ids: Sequence[int] = (), unscored: int = 0
    ) -> list[CachedPrefix]:
        """B prefixes at which captions begin: the same one, or one a picture with soft prompts.

        Args:
            ids: tokens behind the start token, as :meth:`LanguageModel.encode_prefix` gives them.
            unscored: how many of these the scorer does not read.
        """
        if soft_prompt:
            return self.cache.starts(top_k, self.soft_prompts(), ids, unscored)
        return self.cache.starts(top_k, None, ids, unscored) * len(self)

    def threads(self, rows: int) -> AbstractContextManager[None]:
        """As many threads as products of so many rows with the language model's weights pay for."""
        width = self.language_model.width
        return threads_for(2 * rows * width * 3 * width, self.image_vectors.device)  # queries, keys, values

    @cached_property
    @torch.inference_mode()
    def _soft_prompts(self) -> Tensor:
        soft_prompt = self.language_model.soft_prompt
        if soft_prompt is None:
            raise BadSettings(
                "this captioner's language model has no soft prompt; search without soft_prompt, or tune it "
                "with recipes/tune_prompted.py"
            )
        soft_prompt.require_scorer_width(self.image_vectors.shape[1])
        projected = None
        if self.memory is not None:
            projected = weighted_mean(self.memory, *self.nearest(NEIGHBOURS)).to(self.image_vectors)
        prompts: Tensor = soft_prompt(self.image_vectors, projected)
        return prompts
