"""Captioner: pictures in, captions out. Owns a language model, a scorer, a memory and a decoding."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from magicap.adaptation.parts import Parts
from magicap.adaptation.tuning import tune_decoding
from magicap.adaptation.tuning_magic import MOST_PICTURES, tune_magic_search
from magicap.captioners.folder import (
    ZERO_SHOT,
    CaptionerSettings,
    as_dtype,
    captioner_folder,
    read_settings,
    write_settings,
)
from magicap.captioners.hub import naming_downloads, revisions_of
from magicap.captioners.load_parts import load_parts
from magicap.captioners.presets import DEFAULT
from magicap.captioners.regions import caption_regions
from magicap.captioners.repositories import is_repository, pinned
from magicap.captioners.saving import put_folder_in_place, weights_fingerprint
from magicap.captioners.sources import (
    CONFIDENCE_FILE,
    FINE_GRAINED,
    LANGUAGE_MODEL,
    MEMORY,
    SCORER,
    Sources,
    sources_of,
    sources_with,
)
from magicap.captioners.stored_parts import write_parts
from magicap.captioners.stories import Story, count_sentences, story_search, write_story
from magicap.captioners.zero_shot_search import ZeroShotSearch
from magicap.decoding.confidence import ConfidenceModel
from magicap.decoding.prefix_cache import DEFAULT_CACHE_BYTES
from magicap.decoding.settings import DECODINGS, BeamMagicSearch, MagicSearch
from magicap.errors import BadSettings
from magicap.images.reader import ImageSource
from magicap.models.fine_grained.scorer import FineGrainedScorer, require_made_for
from magicap.models.fingerprint import combined
from magicap.regions.captions import RegionCaptions
from magicap.regions.clusters import PatchClusters
from magicap.regions.proposals import MAX_REGIONS, Proposer
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.settings_io import to_dict
from magicap.video.settings import EVERY

if TYPE_CHECKING:
    from magicap.adaptation.adapt import Adaptation, AdaptationSettings
    from magicap.captioners.video import VideoScene
    from magicap.video.settings import SceneSettings

_IN_FOLDER = (LANGUAGE_MODEL, SCORER, MEMORY, FINE_GRAINED, CONFIDENCE_FILE)


class Captioner(ZeroShotSearch):
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

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        revision: str | Mapping[str, str] | None = None,
        memory: int | None = None,
    ) -> Captioner:
        """A captioner by the name of a preset, from a folder, or from a repository of the hub.

        Args:
            source: a preset's name, a folder that ``save_pretrained`` or a recipe wrote, or a repository
                OWNER/NAME that :meth:`push_to_hub` wrote. The default needs no network.
            device: where to compute; None takes a GPU if there is one.
            dtype: float32 (exact), bfloat16, float16, or int8: the language model and the scorer's text tower
                in eight bits, the rest in float32, on a processor alone.
            cache_bytes: how much of captions' prefixes is kept between calls; 0: nothing.
            revision: commit, branch or tag of the repository; of a preset repository -> revision, in place
                of the preset's own.
            memory: captions that are sampled, at first use, into a memory for two models that have none, and
                kept in the user's cache; 0: no memory, also of a captioner that has one, so plain magic
                search; None: its own, or 10,000 where the preset asks for one (``coco``, ``flickr30k``).

        Raises:
            BadSettings: a ``revision`` of a repository that the captioner is not made of, another ``dtype``,
                or int8 elsewhere than on a processor, or of models that it does not go with; a ``memory`` of
                a captioner that has one.
            ModelNotFound: no such preset, folder or repository, or a part that is neither cached nor
                reachable.
            BadModel: a folder or part that cannot be used, or is not the one that was pushed.
        """
        source, revision = pinned(source, revision)
        sources, commits = sources_of(source), revisions_of(source, revision)
        with naming_downloads(source, commits):
            parts = load_parts(sources, commits, device=device, dtype=dtype, samples=memory)
        if sources.memory is not None and parts.memory is not None:
            _require_own(parts.memory, source)
        return cls._of(parts, sources, cache_bytes)

    @classmethod
    def from_parts(
        cls,
        language_model: str | Path | None = None,
        scorer: str | Path | None = None,
        *,
        preset: str | Path = DEFAULT,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        memory: int | None = None,
        revision: str | Mapping[str, str] | None = None,
    ) -> Captioner:
        """A captioner of any language model and any scorer.

        Another scorer leaves the preset's memory behind; one is sampled from the language model at first use.

        Args:
            language_model: a folder or hub id of a decoder-only language model; None: the preset's.
            scorer: ``NAME:TAG`` of open_clip, ``hf-hub:OWNER/NAME``, a ``CLIPModel`` of transformers as
                OWNER/NAME, or a folder of either; None: the preset's.
            preset: whose parts the others are: a preset's name, a folder or a repository of the hub.
            device, dtype, cache_bytes, memory: as of :meth:`from_pretrained`.
            revision: repository -> commit, branch or tag, of the repositories that the parts and the preset
                are loaded from; a commit alone is that of a preset that is a repository.

        Raises:
            BadSettings, ModelNotFound, BadModel: as from there.
        """
        commits = {str(preset): revision} if isinstance(revision, str) else dict(revision or {})
        of_preset = None
        if is_repository(preset) and str(preset) in commits:
            of_preset = commits.pop(str(preset))
        of_parts = revisions_of(preset, commits, language_model=language_model, scorer=scorer)
        source, _ = pinned(preset, of_preset)
        sources = sources_with(sources_of(source), language_model, scorer)
        parts = load_parts(sources, of_parts, device=device, dtype=dtype, samples=memory)
        return cls._of(parts, sources, cache_bytes)

    @classmethod
    def _of(cls, parts: Parts, sources: Sources, cache_bytes: int) -> Captioner:
        captioner = cls(
            parts.language_model, parts.scorer, parts.decoding, parts.memory, cache_bytes=cache_bytes
        )
        captioner._stored_scorer, captioner._fine_grained = sources.scorer_digits, sources.fine_grained
        if sources.confidence is not None:
            captioner.confidence = ConfidenceModel.read(sources.confidence)
        return captioner

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
        with put_folder_in_place(folder, _IN_FOLDER) as new:
            written = write_parts(
                new, self.parts, dtype=stored, fine_grained=self._fine_grained, confidence=self.confidence
            )
            write_settings(new, CaptionerSettings(ZERO_SHOT, decoding, written))

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

    def calibrate(
        self, decoding: Any = None, images: Sequence[ImageSource] | None = None, *, seed: int = 0
    ) -> Any:
        """A decoding with settings that suit these models and this memory, without captioned pictures.

        Of magic search ``alpha`` and ``beta``, of beam magic search ``neighbours`` and ``temperature``.
        It is not made the captioner's own: ``captioner.decoding = captioner.calibrate()`` does that.

        Args:
            decoding: settings to begin with; None: the captioner's own.
            images: pictures without captions, of which 200 at most are taken. At least 20 let magic search
                be compared on them; fewer, and all for beam magic search, set the length of the noise.
            seed: of the choice of pictures, of captions that stand in place of pictures, and of the noise.

        Raises:
            BadSettings: another kind of decoding, beam magic search without a memory, a memory of a
                single caption, or a language model that never ends a caption.
            BadImage: a picture cannot be read.
        """
        search = self.decoding if decoding is None else decoding
        vectors = None
        if images is not None and len(images):
            some = random.Random(seed).sample(list(images), min(MOST_PICTURES, len(images)))
            vectors = self.scorer.encode_images(some)
        if isinstance(search, MagicSearch):
            return tune_magic_search(self.parts, search, vectors, seed=seed)
        if not isinstance(search, BeamMagicSearch) or self.memory is None:
            has = "no memory" if self.memory is None else "a memory"
            raise BadSettings(
                "to calibrate expected MagicSearch, or BeamMagicSearch and a captioner with a memory, found "
                f"{type(search).__name__} and {has}; choose another decoding"
            )
        return tune_decoding(search, self.memory, vectors, seed=seed)

    def story(
        self,
        images: ImageSource | list[ImageSource] | tuple[ImageSource, ...],
        *,
        title: str,
        sentences: int | None = None,
        decoding: Any = None,
        title_end: str = "",
    ) -> Story:
        """A story that goes on from a title and shows in its pictures.

        Args:
            images: a picture for the whole story, or a list or tuple of them: each has its share of the
                sentences, in order.
            sentences: how many at most; None: 5 with one picture, as many as there are with several.
            decoding: a :class:`MagicSearch` for each sentence, or one without pictures; None: as published
                (k 5, alpha 0.6, beta 0.15), with a soft prompt where the captioner's own decoding has one.
            title_end: stands behind the title, as the language model has read titles: ``"."``, or
                ``" <|endoftext|>"``. Empty: the title is the beginning of the first sentence.

        Raises:
            BadImage: a picture cannot be read.
            BadSettings: another decoding, fewer sentences than pictures, or a title that is no plain
                text or leaves no room.
        """
        search = story_search(self.decoding) if decoding is None else decoding
        pictures = images if isinstance(images, list | tuple) else [images]
        count = count_sentences(sentences, len(pictures))  # before a picture is read
        contexts = [
            self._context(vector[None], search, [0]) for vector in self.scorer.encode_images(pictures)
        ]
        return write_story(contexts, title, count, search, title_end)

    def regions(
        self,
        image: ImageSource,
        decoding: Any = None,
        *,
        detector: Proposer | None = None,
        max_regions: int = MAX_REGIONS,
        seed: int = 0,
    ) -> RegionCaptions:
        """Caption a picture, and each of its regions of which there is something else to say.

        Args:
            decoding, seed: as of :meth:`caption`.
            detector: proposes the regions: a :class:`magicap.YoloxNano`, or any object with
                ``propose(picture, max_regions)``; None: clusters of the image tower's patches.
            max_regions: how many regions are looked at.

        Raises:
            BadImage: the picture cannot be read.
            BadSettings: ``max_regions`` is no number of regions.
            BadModel: there is no detector, and the scorer's image tower does not show its patches.
        """
        proposer = detector or PatchClusters(self.scorer)
        return caption_regions(self, image, proposer, decoding, max_regions=max_regions, seed=seed)

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

    @cached_property
    def fine_grained(self) -> FineGrainedScorer | None:
        """The scorer that matches words with places of a picture, where the captioner's folder has one.

        Raises:
            BadModel: it is damaged, or this captioner does not compute in float32.
        """
        if self._fine_grained is None:
            return None
        return FineGrainedScorer.from_pretrained(self._fine_grained, self.scorer)


def _require_own(memory: CaptionMemory, source: str | Path) -> None:
    """Refuse a memory that took the place of the captioner's own.

    Of the other parts nothing is asked: a fingerprint of the weights would take a sixth of loading.
    """
    if folder := captioner_folder(source):
        read_settings(folder).require_fingerprint(folder, MEMORY, memory.digest or combined(memory))
