"""Captioner: pictures in, captions out. Owns a language model, a scorer, a memory and a decoding."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from magicap.adaptation.parts import Parts
from magicap.captioners.base import BaseCaptioner
from magicap.captioners.folder import (
    ZERO_SHOT,
    CaptionerSettings,
    Part,
    as_device,
    as_dtype,
    captioner_folder,
    read_settings,
    write_settings,
)
from magicap.captioners.hub import naming_downloads, revisions_of
from magicap.captioners.presets import DEFAULT
from magicap.captioners.saving import (
    as_stored,
    folder_fingerprint,
    put_folder_in_place,
    weights_fingerprint,
)
from magicap.captioners.sources import (
    CLASS_VECTOR,
    CONFIDENCE,
    CONFIDENCE_FILE,
    FINE_GRAINED,
    LANGUAGE_MODEL,
    MEMORY,
    SCORER,
    SOFT_PROMPT,
    sources_of,
)
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
from magicap.decoding.settings import DECODINGS, BeamMagicSearch, MagicSearch
from magicap.drawing import COMPETITORS
from magicap.errors import BadModel, BadSettings, BrokenNumbers
from magicap.images.reader import ImageSource, open_image
from magicap.images.transform import ImageTransform
from magicap.models.class_vector import CLASS_VECTOR_FILE
from magicap.models.fine_grained.scorer import FineGrainedScorer, require_made_for
from magicap.models.fingerprint import combined, fingerprint
from magicap.models.finite import are_unit
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer, text_fingerprint
from magicap.models.soft_prompt import PROMPT_FILE
from magicap.results import Caption, CaptionProgress, Step
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.settings_io import to_dict
from magicap.video.settings import EVERY

if TYPE_CHECKING:
    from magicap.adaptation.adapt import Adaptation, AdaptationSettings
    from magicap.captioners.video import VideoScene
    from magicap.drawing import Explanation
    from magicap.video.settings import SceneSettings

_IN_FOLDER = (LANGUAGE_MODEL, SCORER, MEMORY, FINE_GRAINED, CONFIDENCE_FILE)


class Captioner(BaseCaptioner[Any]):
    """Captions pictures with a language model trained on text alone and an image-text scorer.

    Attributes:
        language_model: proposes words; ``.model`` and ``.tokenizer`` are transformers' own.
        scorer: says which of them fit the picture.
        decoding: the search, unless a call names another.
        memory: captions that decodings may retrieve; None: none.
        cache: what has been computed of captions' prefixes, which all calls share. Call its ``clear()``
            once the weights of a model have changed.
        confidence: says how sure a caption is; None: nothing does. It is asked only with the models, the
            memory and the decoding that it was fitted for, see :meth:`knows_confidence`.
        adaptation: what :meth:`adapt` reports of this captioner; None where it was not adapted.

    Args:
        decoding: settings of a search, or an object with ``search(context)``; None: beam magic search
            with a memory, magic search without.
        memory: captions that decodings may retrieve, encoded by this scorer.
        cache_bytes: how much of captions' prefixes is kept between calls; 0: nothing.

    Raises:
        BadSettings: the models are on two devices.
        BadModel: another scorer encoded the memory, or it is damaged.
    """

    adaptation: Adaptation | None = None

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

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        revision: Mapping[str, str] | None = None,
    ) -> Captioner:
        """A captioner by the name of a preset, or from a folder that ``save_pretrained`` or a recipe wrote.

        Args:
            source: a preset's name or a folder. The default needs no network.
            device: where to compute; None takes a GPU if there is one.
            dtype: float32 (exact), bfloat16, float16, or int8: the language model and the scorer's text tower
                in eight bits, the rest in float32, on a processor alone.
            cache_bytes: how much of captions' prefixes is kept between calls; 0: nothing.
            revision: repository of the hub -> commit, branch or tag to load, in place of the preset's own.

        Raises:
            BadSettings: a ``revision`` of a repository that the captioner is not made of, another ``dtype``,
                or int8 elsewhere than on a processor, or of models that it does not go with.
            ModelNotFound: no such preset or folder, or a part that is neither cached nor reachable.
            BadModel: a folder or part that cannot be used.
        """
        place, precision = as_device(device), as_dtype(dtype, int8=True)
        if is_int8 := precision == torch.int8:
            precision = torch.float32
            if place.type != "cpu":
                raise BadSettings(
                    f"dtype int8 computes on cpu alone, found device {str(place)!r}; name device cpu, "
                    "or dtype bfloat16"
                )
        sources, commits = sources_of(source), revisions_of(source, revision)
        with naming_downloads(source, commits):
            language_model = LanguageModel.from_pretrained(
                sources.language_model, device=place, dtype=precision, revision=commits.language_model
            )
            scorer = ImageTextScorer.from_pretrained(
                *sources.scorer, device=place, dtype=precision, revision=commits.scorer
            )
            if is_int8:
                language_model, scorer = language_model.to_int8(), scorer.to_int8()
            memory = None
            if sources.memory is not None:
                memory = CaptionMemory.from_pretrained(sources.memory, device=place)
                _require_own(memory, source)
        captioner = cls(language_model, scorer, sources.decoding, memory, cache_bytes=cache_bytes)
        captioner._stored_scorer, captioner._fine_grained = sources.scorer_digits, sources.fine_grained
        if sources.confidence is not None:
            captioner.confidence = ConfidenceModel.read(sources.confidence)
        return captioner

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

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        dtype: str | torch.dtype | None = None,
        fine_grained: str | Path | None = None,
    ) -> None:
        """Write the whole captioner into one folder, weights as safetensors.

        A captioner that stands there is replaced once the new one is whole; other files stay.

        Args:
            dtype: of the stored weights, e.g. ``"float16"`` for half the size; None keeps them as they are.
            fine_grained: folder of a fine-grained scorer that goes along; None: that of the folder that this
                captioner came from, if any.

        Raises:
            BadSettings: the folder cannot be written, or the decoding is one of your own.
            ModelNotFound: no fine-grained scorer at ``fine_grained``.
            BadModel: it was trained on another scorer than the one that is stored, or that of the folder that
                this captioner came from is gone.
        """
        decoding = to_dict(self.decoding, DECODINGS)
        stored = None if dtype is None else as_dtype(dtype)
        if fine_grained is not None:
            require_made_for(fine_grained, weights_fingerprint(self.scorer.network, stored))
            self._fine_grained = Path(fine_grained)
        digest = None
        with put_folder_in_place(folder, _IN_FOLDER) as new:
            self.language_model.save_pretrained(new / LANGUAGE_MODEL, dtype=stored)
            self.scorer.save_pretrained(new / SCORER, dtype=stored)
            if self.memory is not None:
                self.memory.require_encoded_by(self.scorer)
                text_tower = text_fingerprint(as_stored(self.scorer.network, stored))
                digest = self.memory.save_pretrained(new / MEMORY, text_tower=text_tower)
            if self._fine_grained is not None:
                _copy_fine_grained(self._fine_grained, new / FINE_GRAINED)
            if self.confidence is not None:
                (new / CONFIDENCE_FILE).write_text(self.confidence.to_json(), encoding="utf-8")
            parts = self._stored_parts(new, stored, digest)
            write_settings(new, CaptionerSettings(ZERO_SHOT, decoding, parts))

    def _stored_parts(
        self, folder: Path, dtype: torch.dtype | None, memory_digest: str | None
    ) -> dict[str, Part]:
        """The parts that were written into a folder, by name."""
        language_model, scorer = self.language_model, self.scorer
        parts = {
            LANGUAGE_MODEL: Part(LANGUAGE_MODEL, weights_fingerprint(language_model.network, dtype)),
            SCORER: Part(SCORER, weights_fingerprint(scorer.network, dtype)),
        }
        if language_model.soft_prompt is not None:
            digits = weights_fingerprint(language_model.soft_prompt, dtype)
            parts[SOFT_PROMPT] = Part(f"{LANGUAGE_MODEL}/{PROMPT_FILE}", digits)
        if scorer.class_vector is not None:
            digits = weights_fingerprint(scorer.class_vector, dtype)
            parts[CLASS_VECTOR] = Part(f"{SCORER}/{CLASS_VECTOR_FILE}", digits)
        if memory_digest is not None:
            parts[MEMORY] = Part(MEMORY, memory_digest)
        if self._fine_grained is not None:
            parts[FINE_GRAINED] = Part(FINE_GRAINED, folder_fingerprint(folder / FINE_GRAINED))
        if self.confidence is not None:
            parts[CONFIDENCE] = Part(CONFIDENCE_FILE, self.confidence.fingerprint)
        return parts

    def adapt(
        self,
        texts: Iterable[str],
        images: Sequence[ImageSource] | None = None,
        *,
        settings: AdaptationSettings | None = None,
    ) -> Captioner:
        """A captioner for another domain, from its sentences alone; minutes on two cores.

        ``recipes/adapt_domain.py`` does the same and can resume. The report is in :attr:`adaptation`.
        The new captioner's captions have no confidence: that takes captioned pictures of the domain.

        Args:
            texts: sentences of the domain, a caption each, without pictures; or a dataset of them.
            images: pictures of the domain without captions, which make the tuning of the decoding finer.
            settings: how much is done; None: the defaults.

        Raises:
            BadData: too few different sentences, or the models know hardly a word of them.
            BadImage: a picture cannot be read.
        """
        from magicap.adaptation.adapt import adapt  # training brings libraries that captioning does without

        exact = self._in_float32 if self._is_int8 else None
        parts, report = adapt((exact or self).parts, texts, images, settings=settings)
        if exact is not None:
            parts = replace(parts, language_model=parts.language_model.to_int8(), scorer=self.scorer)
        adapted = Captioner(parts.language_model, parts.scorer, parts.decoding, parts.memory)
        adapted.adaptation = report
        return adapted

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

    def video(
        self,
        path: str | Path,
        decoding: Any = None,
        *,
        every: float = EVERY,
        scenes: SceneSettings | None = None,
        seed: int = 0,
    ) -> list[VideoScene]:
        """Caption a video scene by scene.

        Args:
            path: its file.
            every: seconds between the frames that are looked at.
            scenes: where a scene ends; None: the defaults.
            seed: for searches that sample.

        Raises:
            BadVideo: it cannot be read within limits; the codes: ``magicap.video.container.REASONS``.
            BadSettings: a number out of its range, or a decoding that does not fit the models.
            MissingPackage: PyAV is not installed.
        """
        from magicap.captioners.video import caption_video

        return caption_video(self, path, decoding, every=every, scenes=scenes, seed=seed)

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

    @cached_property
    def fine_grained(self) -> FineGrainedScorer | None:
        """The scorer that matches words with places of a picture, where the captioner's folder has one.

        Raises:
            BadModel: it is damaged, or this captioner does not compute in float32.
        """
        if self._fine_grained is None:
            return None
        return FineGrainedScorer.from_pretrained(self._fine_grained, self.scorer)

    def _batch(self, pixels: Tensor, decoding: Any, seeds: list[int]) -> list[Caption]:
        row = search_of(decoding)

        def search(batch: SubBatch) -> list[Caption]:
            return row.captions(self._context(self._vectors(batch[0]), decoding, batch[1]), decoding)

        return caption_side_by_side(search, self._sub_batches(row, pixels, seeds))

    def _progress(self, pixels: Tensor, decoding: Any, seeds: list[int], candidates: int) -> CaptionProgress:
        row = search_of(decoding)

        def search(batch: SubBatch) -> CaptionProgress:
            context = self._context(self._vectors(batch[0]), decoding, batch[1])
            return (yield from row.captions_with_progress(context, decoding, candidates))

        return (yield from progress_side_by_side(search, self._sub_batches(row, pixels, seeds)))

    def _sub_batches(self, row: Search, pixels: Tensor, seeds: Sequence[int]) -> list[SubBatch]:
        return in_sub_batches(pixels, seeds, self.device) if row.splits else [(pixels, seeds)]

    def _vectors(self, pixels: Tensor) -> Tensor:
        """(B, D) unit vectors of pictures (B, 3, H, W)."""
        vectors = self.scorer.encode_pixels(pixels)
        if not bool(are_unit(vectors).all()):
            raise BrokenNumbers("the scorer's vector of a picture is not of length one")
        return vectors

    def _context(self, image_vectors: Tensor, decoding: Any, seeds: Sequence[int]) -> DecodingContext:
        confidence = self.confidence if self.knows_confidence(decoding) else None
        return DecodingContext(self.cache, image_vectors, seeds, self.memory, confidence)


def _require_own(memory: CaptionMemory, source: str | Path) -> None:
    """Refuse a memory that took the place of the captioner's own.

    Of the other parts nothing is asked: a fingerprint of the weights would take a sixth of loading.
    """
    if folder := captioner_folder(source):
        read_settings(folder).require_fingerprint(folder, MEMORY, memory.digest or combined(memory))


def _copy_fine_grained(source: Path, target: Path) -> None:
    try:
        shutil.copytree(source, target)
    except FileNotFoundError as error:
        raise BadModel(
            f"expected the captioner's fine-grained part at {source}, found none; load the captioner anew "
            "from a whole folder"
        ) from error
