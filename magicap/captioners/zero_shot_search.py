"""How captions of a language model and a scorer are searched for, a batch at a time or step by step.

The part of a :class:`~magicap.captioners.zero_shot.Captioner` that captions; files and tasks are apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from magicap.adaptation.parts import Parts
from magicap.captioners.base import BaseCaptioner
from magicap.captioners.sub_batches import (
    SubBatch,
    caption_side_by_side,
    in_sub_batches,
    progress_side_by_side,
)
from magicap.checks import require_int
from magicap.decoding.confidence import ConfidenceModel
from magicap.decoding.context import DecodingContext
from magicap.decoding.prefix_cache import DEFAULT_CACHE_BYTES, PrefixCache
from magicap.decoding.searches import Search, explain, search_of, stream_steps
from magicap.decoding.settings import BeamMagicSearch, MagicSearch
from magicap.drawing import COMPETITORS
from magicap.errors import BadSettings, BrokenNumbers
from magicap.images.reader import ImageSource, open_image
from magicap.images.region import ImageRegion
from magicap.images.transform import ImageTransform, PreparedImage
from magicap.models.fingerprint import combined, fingerprint
from magicap.models.finite import are_unit
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.regions.vectors import region_vectors
from magicap.results import Caption, CaptionProgress, Step
from magicap.retrieval.caption_memory import CaptionMemory

if TYPE_CHECKING:
    from magicap.drawing import Explanation

_OF_REGIONS = 5  # dimensions of pixels that are those of regions


class ZeroShotSearch(BaseCaptioner[Any]):
    """Captions pictures; loading, saving and tasks beside captions are its subclass's."""

    def __init__(
        self,
        language_model: LanguageModel,
        scorer: ImageTextScorer,
        decoding: Any = None,
        memory: CaptionMemory | None = None,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        if language_model.device != scorer.device:
            raise BadSettings(
                f"language model and scorer must be on one device, found {language_model.device} "
                f"and {scorer.device}"
            )
        if memory is not None:
            memory.require_encoded_by(scorer)
        self.language_model = language_model
        self.scorer = scorer
        self.decoding: Any = decoding or (MagicSearch() if memory is None else BeamMagicSearch())
        self.memory = memory
        self.confidence: ConfidenceModel | None = None
        self.cache = PrefixCache(language_model, scorer, cache_bytes)
        self._stored_scorer = ""  # its fingerprint in float32, where the folder that it came from says it
        self._fine_grained: Path | None = None  # of the folder it came from; kept when it is saved

    @property
    def parts(self) -> Parts:
        """What it was made of."""
        return Parts(self.language_model, self.scorer, self.decoding, self.memory)

    @property
    def trie(self) -> PrefixCache:
        """The former name of :attr:`cache`."""
        return self.cache

    @property
    def device(self) -> torch.device:
        """Where both models are."""
        return self.scorer.device

    @property
    def transform(self) -> ImageTransform:
        """How pictures become what the scorer reads."""
        return self.scorer.transform

    @property
    def fingerprint(self) -> str:
        """Twelve digits that tell these two models and this memory from any others.

        Of the models' weights when first asked for.
        """
        return self._models if self.memory is None else combined(self._models, self.memory)

    def steered_by(self, decoding: Any) -> str:
        """The fingerprint in float32 of the scorer that steers captions of a decoding; empty: none does."""
        if not search_of(decoding).sees_pictures:
            return ""
        return self.scorer.fingerprint if self.scorer.dtype == torch.float32 else self._stored_scorer

    @cached_property
    def _models(self) -> str:
        soft_prompt = self.language_model.soft_prompt
        models = [self.language_model.network, self.scorer.network]
        digits = fingerprint(*models, *([soft_prompt] if soft_prompt else []))
        return combined(digits, "int8") if self._is_int8 else digits

    @property
    def _is_int8(self) -> bool:
        return torch.int8 in (self.language_model.dtype, self.scorer.dtype)

    def stream(self, image: ImageSource, decoding: Any = None, *, seed: int = 0) -> Iterator[Step]:
        """Caption one picture step by step, as the words are chosen.

        Raises:
            BadImage: the picture cannot be read; raised at once, before the first step.
            BadSettings: the decoding compares whole captions and has no steps.
        """
        search = self.decoding if decoding is None else decoding
        batches = stream_steps(self._context(self.scorer.encode_images([image]), search, [seed]), search)
        return (step for batch in batches for _, step in batch)

    def explain(
        self, image: ImageSource, decoding: Any = None, *, seed: int = 0, candidates: int = COMPETITORS
    ) -> Explanation:
        """Caption one picture, and show what competed: tokens at each step, or whole captions.

        Args:
            seed: neither search samples, so it changes nothing.
            candidates: how many are shown, of each step or in all.

        Raises:
            BadImage: the picture cannot be read.
            BadSettings: a decoding that compares nothing that can be shown, or no candidates.
        """
        require_int("candidates", candidates)
        picture, search = open_image(image), self.decoding if decoding is None else decoding
        context = self._context(self.scorer.encode_images([picture]), search, [seed])
        return explain(context, search, picture, candidates)

    def knows_confidence(self, decoding: Any = None) -> bool:
        """Whether captions of a decoding have a ``confidence``; None takes the captioner's own decoding.

        They have where it was fitted for that decoding, these models in this precision and this memory.
        """
        if self.confidence is None:
            return False
        search = self.decoding if decoding is None else decoding
        # the decoding first: the fingerprint reads all weights when it is first asked for
        return self.confidence.fits_decoding(search) and self.confidence.captioner == self.fingerprint

    @cached_property
    def _in_float32(self) -> Self | None:
        if self.scorer.dtype == self.language_model.dtype == torch.float32:
            return None
        exact = type(self)(self.language_model.in_float32(), self.scorer.in_float32(), self.decoding)
        exact.memory = self.memory  # which need not have been encoded by these rounded weights
        return exact

    def caption_vectors(self, vectors: Tensor, decoding: Any, seeds: Sequence[int]) -> list[Caption]:
        """Caption image vectors, such as means of those of several pictures; the captions have no confidence.

        Args:
            vectors: (B, D) unit vectors of this scorer, all searched together.
            decoding: how to search.
            seeds: B seeds, for searches that sample.

        Raises:
            BadSettings: the decoding does not fit the models.
        """

        def context_of(batch: SubBatch) -> DecodingContext:
            return DecodingContext(self.cache, *batch, self.memory)

        return self._side_by_side((vectors.to(self.device), seeds), decoding, context_of)

    def _batch(self, pixels: Tensor, decoding: Any, seeds: list[int]) -> list[Caption]:
        return self._side_by_side((pixels, seeds), decoding, partial(self._context_of, decoding=decoding))

    def _side_by_side(
        self, batch: SubBatch, decoding: Any, context_of: Callable[[SubBatch], DecodingContext]
    ) -> list[Caption]:
        row = search_of(decoding)

        def search(part: SubBatch) -> list[Caption]:
            return row.captions(context_of(part), decoding)

        return caption_side_by_side(search, self._sub_batches(row, *batch))

    def _progress(self, pixels: Tensor, decoding: Any, seeds: list[int], candidates: int) -> CaptionProgress:
        row = search_of(decoding)

        def search(batch: SubBatch) -> CaptionProgress:
            context = self._context_of(batch, decoding)
            return (yield from row.captions_with_progress(context, decoding, candidates))

        return (yield from progress_side_by_side(search, self._sub_batches(row, pixels, seeds)))

    def _sub_batches(self, row: Search, pixels: Tensor, seeds: Sequence[int]) -> list[SubBatch]:
        return in_sub_batches(pixels, seeds, self.device) if row.splits else [(pixels, seeds)]

    def _pixels(self, image: ImageSource | PreparedImage | ImageRegion) -> Tensor:
        """One picture as bytes (3, H, W); of a region (2, 3, H, W), what lies in its box and the picture."""
        if isinstance(image, ImageRegion):
            return torch.stack([super(ZeroShotSearch, self)._pixels(view) for view in image.views()])
        return super()._pixels(image)

    def _vectors(self, pixels: Tensor) -> Tensor:
        """(B, D) unit vectors of pictures (B, 3, H, W), or of regions (B, 2, 3, H, W)."""
        vectors = self.scorer.encode_pixels(pixels.flatten(end_dim=-4))
        if not bool(are_unit(vectors).all()):
            raise BrokenNumbers("the scorer's vector of a picture is not of length one")
        return region_vectors(vectors[::2], vectors[1::2]) if pixels.dim() == _OF_REGIONS else vectors

    def _context_of(self, batch: SubBatch, decoding: Any) -> DecodingContext:
        pixels, seeds = batch
        context = self._context(self._vectors(pixels), decoding, seeds)
        if pixels.dim() == _OF_REGIONS:
            context.confidence = None  # it was fitted for whole pictures
        return context

    def _context(self, image_vectors: Tensor, decoding: Any, seeds: Sequence[int]) -> DecodingContext:
        confidence = self.confidence if self.knows_confidence(decoding) else None
        return DecodingContext(self.cache, image_vectors, seeds, self.memory, confidence)
