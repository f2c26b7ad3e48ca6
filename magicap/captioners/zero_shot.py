"""Captioner: pictures in, captions out. Owns a language model, a scorer and a decoding."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from magicap.captioners.base import BaseCaptioner
from magicap.captioners.folder import (
    ZERO_SHOT,
    as_device,
    as_dtype,
    captioner_folder,
    read_settings,
    require_kind,
    require_part,
    write_settings,
)
from magicap.captioners.presets import DEFAULT, PRESETS
from magicap.decoding.prefix_cache import DEFAULT_CACHE_BYTES, PrefixCache
from magicap.decoding.settings import BeamMagicSearch, Decoding, MagicSearch, from_dict, to_dict, whole
from magicap.drawing import SHOWN
from magicap.errors import BadSettings, ModelNotFound
from magicap.images.reader import ImageSource, open_image
from magicap.models.class_vector import CLASS_VECTOR_FILE
from magicap.models.fingerprint import combined, fingerprint
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.results import Caption, Step
from magicap.retrieval.caption_memory import CaptionMemory

if TYPE_CHECKING:
    from magicap.adaptation.adapt import AdaptationSettings
    from magicap.explanations.hypotheses import HypothesisExplanation
    from magicap.explanations.tokens import TokenExplanation

LANGUAGE_MODEL, SCORER, MEMORY = "language_model", "scorer", "memory"


class Captioner(BaseCaptioner[Decoding]):
    """Captions pictures with a language model that has read captions only and a scorer that sees.

    Attributes:
        language_model: proposes words; ``.model`` and ``.tokenizer`` are transformers' own.
        scorer: says which of them fit the picture.
        decoding: the search, unless a call names another.
        memory: captions that decodings may ask; None: none.
        trie: what has been computed of captions' beginnings, which all calls share. Call its ``clear()``
            once the weights of a model have changed.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        scorer: ImageTextScorer,
        decoding: Decoding | None = None,
        memory: CaptionMemory | None = None,
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        """
        Args:
            memory: captions that decodings may ask, encoded by this scorer.
            cache_bytes: how much of captions' beginnings is kept between calls; 0: nothing.

        Raises:
            BadSettings: the models are on two devices.
        """
        if language_model.device != scorer.device:
            raise BadSettings(
                f"language model and scorer must be on one device, found {language_model.device} "
                f"and {scorer.device}"
            )
        self.language_model = language_model
        self.scorer = scorer
        self.decoding: Decoding = decoding or (MagicSearch() if memory is None else BeamMagicSearch())
        self.memory = memory
        self.trie = PrefixCache(language_model, scorer, cache_bytes)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> Captioner:
        """A captioner by the name of a preset, or from a folder that ``save_pretrained`` or a recipe wrote.

        Args:
            source: a name of :data:`magicap.captioners.presets.PRESETS` or a folder. The default needs no network.
            device: where to compute; None takes a GPU if there is one.
            dtype: float32 (exact), bfloat16 or float16.
            cache_bytes: how much of captions' beginnings is kept between calls; 0: nothing.

        Raises:
            ModelNotFound: no such preset or folder, or a part that is neither cached nor reachable.
            BadModel: a folder or part that cannot be used.
        """
        place = as_device(device)
        precision = as_dtype(dtype)
        parts = _parts(source)
        with _naming_downloads(source):
            return cls(
                LanguageModel.from_pretrained(parts.language_model, device=place, dtype=precision),
                ImageTextScorer.from_pretrained(*parts.scorer, device=place, dtype=precision),
                parts.decoding,
                None if parts.memory is None else CaptionMemory.from_pretrained(parts.memory, device=place),
                cache_bytes=cache_bytes,
            )

    @property
    def device(self) -> torch.device:
        """Where both models are."""
        return self.scorer.device

    @property
    def fingerprint(self) -> str:
        """Twelve digits that tell these two models and this memory from any others.

        Of the models' weights when first asked for.
        """
        return self._models if self.memory is None else combined(self._models, self.memory)

    @cached_property
    def _models(self) -> str:
        prompt = self.language_model.prompt
        return fingerprint(self.language_model.model, self.scorer.model, *([prompt] if prompt else []))

    def save_pretrained(self, folder: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
        """Write the whole captioner into one folder, weights as safetensors.

        Args:
            dtype: of the stored weights, e.g. ``"float16"`` for half the size; None keeps them as they are.

        Raises:
            BadSettings: the decoding holds a memory and cannot be written as settings.
        """
        folder = Path(folder)
        decoding = to_dict(self.decoding)
        stored = None if dtype is None else as_dtype(dtype)
        self.language_model.save_pretrained(folder / LANGUAGE_MODEL, dtype=stored)
        self.scorer.save_pretrained(folder / SCORER, dtype=stored)
        if self.memory is not None:
            self.memory.save_pretrained(folder / MEMORY)
        elif (folder / MEMORY).is_dir():  # of a captioner that was saved here before
            shutil.rmtree(folder / MEMORY)
        named = {} if self.scorer.class_vector is None else {"class_vector": f"{SCORER}/{CLASS_VECTOR_FILE}"}
        write_settings(folder, ZERO_SHOT, decoding, named)

    def adapt(
        self,
        texts: Iterable[str],
        images: Sequence[ImageSource] | None = None,
        *,
        settings: AdaptationSettings | None = None,
    ) -> Captioner:
        """A captioner for another domain, from its sentences alone; minutes on two cores.

        ``recipes/adapt_domain.py`` does the same, can resume, and says what has changed.

        Args:
            texts: sentences of the domain, a caption each; no pictures belong to them.
            images: pictures of the domain without captions, which make the calibration finer.
            settings: how much is done; None: the defaults.

        Raises:
            BadData: too few different sentences.
            BadImage: a picture cannot be read.
        """
        from magicap.adaptation.adapt import adapt

        with TemporaryDirectory(prefix="magicap-") as folder:
            return adapt(self, texts, images, folder=Path(folder), settings=settings).captioner

    def stream(
        self, image: ImageSource, decoding: Decoding | None = None, *, seed: int = 0
    ) -> Iterator[Step]:
        """Caption one picture step by step, as the words are chosen; an elected caption is one step.

        Raises:
            BadImage: the picture cannot be read; raised at once, before the first step.
        """
        search = _checked(decoding or self.decoding).search
        vectors = self.scorer.encode_images([image])
        steps = search(self.trie, vectors, [seed], self.memory)
        return (step for rows in steps for _, step in rows)

    def explain(
        self, image: ImageSource, decoding: Decoding | None = None, *, seed: int = 0, candidates: int = SHOWN
    ) -> TokenExplanation | HypothesisExplanation:
        """Caption one picture, and show what competed: tokens at each step, or whole captions.

        Args:
            seed: neither search draws, so it changes nothing.
            candidates: how many are shown, of each step or in all.

        Raises:
            BadImage: the picture cannot be read.
            BadSettings: another decoding than the two magic searches, or no candidates.
        """
        search = decoding or self.decoding
        if not isinstance(search, MagicSearch | BeamMagicSearch):
            raise BadSettings(
                f"only MagicSearch and BeamMagicSearch weigh candidates that can be shown, found {search!r}; "
                "explain with one of these"
            )
        whole("candidates", candidates)
        picture = open_image(image)
        vectors = self.scorer.encode_images([picture])
        if isinstance(search, BeamMagicSearch):
            from magicap.decoding.beam_magic import beam_magic_search
            from magicap.explanations.hypotheses import HypothesisExplanation

            (choices,) = beam_magic_search(self.trie, vectors, search, self.memory)
            elected = tuple(choice.step for choice in choices[:candidates])
            (caption,) = self._gathered(vectors, [[elected[0]]])
            return HypothesisExplanation(picture, caption, elected)

        from magicap.decoding.magic import magic_positions
        from magicap.explanations.tokens import TokenExplanation

        positions = magic_positions(self.trie, vectors, search, self.memory, places=candidates)
        shown = [tuple(position.best(self.language_model, candidates)[0]) for position in positions]
        (caption,) = self._gathered(vectors, [[steps[0] for steps in shown]])
        return TokenExplanation(picture, caption, tuple(shown))

    def _pixels(self, image: ImageSource) -> Tensor:
        return self.scorer.pixels(image)

    def _batch(self, pixels: Tensor, decoding: Decoding, seeds: list[int]) -> list[Caption]:
        vectors = self.scorer.encode_pixels(pixels)
        steps: list[list[Step]] = [[] for _ in pixels]
        search = _checked(decoding).search(self.trie, vectors, seeds, self.memory)
        for position in search:
            for row, step in position:
                steps[row].append(step)
        return self._gathered(vectors, steps)

    def _gathered(self, vectors: Tensor, steps: list[list[Step]]) -> list[Caption]:
        """Captions from their steps, with their cosines to the pictures' vectors (B, D)."""
        texts = [taken[-1].text.strip() for taken in steps]
        fit = (vectors * self.scorer.encode_texts(texts)).sum(dim=1).tolist()
        return [
            Caption(text, score=cosine, steps=tuple(taken))
            for text, cosine, taken in zip(texts, fit, steps, strict=True)
        ]


def _checked(decoding: Decoding) -> Decoding:
    if not hasattr(decoding, "search"):
        raise BadSettings(
            f"expected a decoding such as MagicSearch, found {decoding!r}, which a zero-shot captioner "
            "cannot use"
        )
    return decoding


def load_scorer(
    source: str | Path = DEFAULT,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = torch.float32,
) -> ImageTextScorer:
    """The scorer of a captioner alone, for what needs no words written.

    Args:
        source, device, dtype: as of :meth:`Captioner.from_pretrained`.

    Raises:
        ModelNotFound, BadModel: as from there.
    """
    require_part(source, "scorer")
    place, precision = as_device(device), as_dtype(dtype)
    with _naming_downloads(source):
        return ImageTextScorer.from_pretrained(*_parts(source).scorer, device=place, dtype=precision)


class _Parts(NamedTuple):
    """Where a captioner's parts are."""

    language_model: str | Path
    scorer: tuple[str | Path, str | None]  # name and tag
    decoding: Decoding | None
    memory: Path | None = None


def _parts(source: str | Path) -> _Parts:
    folder = captioner_folder(source)
    if folder is None:
        preset = PRESETS[str(source)]
        scorer = preset.scorer, preset.scorer_tag
        return _Parts(preset.language_model, scorer, preset.decoding, preset.memory)
    require_kind(source, ZERO_SHOT, "SupervisedCaptioner")
    decoding = from_dict(read_settings(folder)["decoding"])
    memory = folder / MEMORY if (folder / MEMORY).is_dir() else None
    return _Parts(folder / LANGUAGE_MODEL, (folder / SCORER, None), decoding, memory)


@contextmanager
def _naming_downloads(source: str | Path) -> Iterator[None]:
    """Say of a preset how its parts are to be had where they could not be."""
    preset = PRESETS.get(str(source))
    try:
        yield
    except ModelNotFound as error:
        if preset is None or not preset.downloads:
            raise
        commands = " && ".join(f"hf download {repository}" for repository in preset.downloads)
        raise ModelNotFound(
            f"the preset {str(source)!r} is not on this machine and the hub cannot be reached; "
            f"where there is a network run '{commands}' once, or let this command fetch it"
        ) from error
