"""Captioner: pictures in, captions out. Owns a language model, a scorer and a decoding."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from magicap.decoding.settings import Decoding, MagicSearch, from_dict, to_dict
from magicap.errors import BadImage, BadModel, BadSettings, ModelNotFound
from magicap.images import ImageSource
from magicap.models.fingerprint import fingerprint
from magicap.models.language_model import LanguageModel
from magicap.models.scorer import ImageTextScorer
from magicap.presets import DEFAULT, PRESETS
from magicap.results import Caption, Step

FORMAT = 1
SETTINGS_FILE = "magicap.json"
LANGUAGE_MODEL, SCORER = "language_model", "scorer"


class Captioner:
    """Captions pictures with a language model that has read captions only and a scorer that sees.

    Attributes:
        language_model: proposes words; ``.model`` and ``.tokenizer`` are transformers' own.
        scorer: says which of them fit the picture.
        decoding: the search, unless a call names another.
    """

    def __init__(
        self, language_model: LanguageModel, scorer: ImageTextScorer, decoding: Decoding | None = None
    ) -> None:
        if language_model.device != scorer.device:
            raise BadSettings(
                f"language model and scorer must be on one device, found {language_model.device} "
                f"and {scorer.device}"
            )
        self.language_model = language_model
        self.scorer = scorer
        self.decoding: Decoding = decoding or MagicSearch()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
    ) -> Captioner:
        """A captioner by the name of a preset, or from a folder that ``save_pretrained`` or a recipe wrote.

        Args:
            source: a name of :data:`magicap.presets.PRESETS` or a folder. The default needs no network.
            device: where to compute; None takes a GPU if there is one.
            dtype: float32 (exact), bfloat16 or float16.

        Raises:
            ModelNotFound: no such preset or folder, or a part that is neither cached nor reachable.
            BadModel: a folder or part that cannot be used.
        """
        place = _device(device)
        precision = _dtype(dtype)
        parts = _parts(source)
        with _naming_downloads(source):
            return cls(
                LanguageModel.from_pretrained(parts.language_model, device=place, dtype=precision),
                ImageTextScorer.from_pretrained(*parts.scorer, device=place, dtype=precision),
                parts.decoding,
            )

    @cached_property
    def fingerprint(self) -> str:
        """Twelve digits that tell these two models from any others, of their weights when first asked for."""
        return fingerprint(self.language_model.model, self.scorer.model)

    def save_pretrained(self, folder: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
        """Write the whole captioner into one folder, weights as safetensors.

        Args:
            dtype: of the stored weights, e.g. ``"float16"`` for half the size; None keeps them as they are.

        Raises:
            BadSettings: the decoding holds a memory and cannot be written as settings.
        """
        folder = Path(folder)
        settings = {"format": FORMAT, "decoding": to_dict(self.decoding)}
        stored = None if dtype is None else _dtype(dtype)
        self.language_model.save_pretrained(folder / LANGUAGE_MODEL, dtype=stored)
        self.scorer.save_pretrained(folder / SCORER, dtype=stored)
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @overload
    def caption(
        self,
        images: list[Any] | tuple[Any, ...],
        decoding: Decoding | None = ...,
        *,
        batch_size: int = ...,
        seed: int = ...,
    ) -> list[Caption]: ...
    @overload
    def caption(
        self, images: ImageSource, decoding: Decoding | None = ..., *, batch_size: int = ..., seed: int = ...
    ) -> Caption: ...
    @overload
    def caption(
        self,
        images: Iterator[Any],
        decoding: Decoding | None = ...,
        *,
        batch_size: int = ...,
        seed: int = ...,
    ) -> Iterator[Caption]: ...
    def caption(
        self, images: Any, decoding: Decoding | None = None, *, batch_size: int = 8, seed: int = 0
    ) -> Caption | list[Caption] | Iterator[Caption]:
        """Caption one picture, a list of them, or an iterator of them.

        Args:
            images: one picture (path, bytes, file object, PIL image, HWC array, CHW tensor), a list or tuple
                of pictures, or an iterator of pictures. A list gives a list in the same order; an iterator
                gives an iterator that reads ``batch_size`` pictures ahead and holds no more.
            decoding: how to search; None takes the captioner's own.
            batch_size: pictures that are searched together; it changes the speed, not the captions.
            seed: for searches that draw; picture i of a call draws from its own ``seed + i``.

        Raises:
            BadImage: the one picture cannot be read. In a list or iterator such a picture gives an empty
                caption whose ``error`` says why, and the rest go on.
            BadSettings: the decoding does not fit the models.
        """
        if batch_size < 1:
            raise BadSettings(f"batch_size must be at least 1, found {batch_size}")
        if isinstance(images, list | tuple):
            return list(self._captions(images, decoding, batch_size, seed))
        if isinstance(images, Iterator) and not hasattr(images, "read"):
            return self._captions(images, decoding, batch_size, seed)
        return self._batch([self.scorer.pixels(images)], decoding, [seed])[0]

    def stream(
        self, image: ImageSource, decoding: Decoding | None = None, *, seed: int = 0
    ) -> Iterator[Step]:
        """Caption one picture step by step, as the words are chosen.

        Raises:
            BadImage: the picture cannot be read; raised at once, before the first step.
        """
        vectors = self.scorer.encode_images([image])
        steps = (decoding or self.decoding).search(self.language_model, self.scorer, vectors, [seed])
        return (step for rows in steps for _, step in rows)

    def _captions(
        self, images: Iterable[Any], decoding: Decoding | None, batch_size: int, seed: int
    ) -> Iterator[Caption]:
        numbered = enumerate(images, start=seed)
        while batch := list(islice(numbered, batch_size)):
            pixels: dict[int, Tensor] = {}
            captions: dict[int, Caption] = {}
            for number, image in batch:
                try:
                    pixels[number] = self.scorer.pixels(image)
                except BadImage as error:
                    captions[number] = Caption("", error=error)
            written = self._batch(list(pixels.values()), decoding, list(pixels))
            captions |= zip(pixels, written, strict=True)
            yield from (captions[number] for number, _ in batch)

    def _batch(self, pixels: list[Tensor], decoding: Decoding | None, seeds: list[int]) -> list[Caption]:
        if not pixels:
            return []
        vectors = self.scorer.encode_pixels(torch.stack(pixels))
        steps: list[list[Step]] = [[] for _ in pixels]
        for position in (decoding or self.decoding).search(self.language_model, self.scorer, vectors, seeds):
            for row, step in position:
                steps[row].append(step)
        texts = [taken[-1].text.strip() for taken in steps]
        fit = (vectors * self.scorer.encode_texts(texts)).sum(dim=1).tolist()
        return [
            Caption(text, score=cosine, steps=tuple(taken))
            for text, cosine, taken in zip(texts, fit, steps, strict=True)
        ]


@overload
def caption(images: list[Any] | tuple[Any, ...], preset: str | Path = ...) -> list[Caption]: ...
@overload
def caption(images: ImageSource, preset: str | Path = ...) -> Caption: ...
def caption(images: Any, preset: str | Path = DEFAULT) -> Caption | list[Caption]:
    """Caption a picture, or a list of pictures in order, with everything at its default.

    The captioner is loaded at the first call and kept. See :meth:`Captioner.caption` for what a picture may
    be and what becomes of one that cannot be read.

    Args:
        preset: a preset's name or a captioner's folder.
    """
    with _loading:
        captioner = _loaded(str(preset))
    captions: Caption | list[Caption] = captioner.caption(images)
    return captions


_loading = Lock()
_loaded = lru_cache(maxsize=2)(Captioner.from_pretrained)


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
    place, precision = _device(device), _dtype(dtype)
    with _naming_downloads(source):
        return ImageTextScorer.from_pretrained(*_parts(source).scorer, device=place, dtype=precision)


class _Parts(NamedTuple):
    """Where a captioner's parts are."""

    language_model: str | Path
    scorer: tuple[str | Path, str | None]  # name and tag
    decoding: Decoding | None


def _parts(source: str | Path) -> _Parts:
    preset = PRESETS.get(str(source))
    if preset is not None and preset.folder is None:
        return _Parts(preset.language_model, (preset.scorer, preset.scorer_tag), preset.decoding)
    folder = Path(source) if preset is None or preset.folder is None else preset.folder
    if not folder.is_dir():
        raise ModelNotFound(
            f"no captioner {str(folder)!r}: expected a preset ({', '.join(PRESETS)}) "
            f"or a folder with {SETTINGS_FILE}"
        )
    decoding = from_dict(_read_settings(folder)["decoding"])
    return _Parts(folder / LANGUAGE_MODEL, (folder / SCORER, None), decoding)


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


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS_FILE
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        found = settings["format"], settings["decoding"]
    except FileNotFoundError as error:
        raise BadModel(
            f"{folder} is no captioner: it has no {SETTINGS_FILE}; save_pretrained writes one"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(f"{path} is not a captioner's settings (format and decoding): {error!r}") from error
    if found[0] != FORMAT:
        raise BadModel(f"{path} is of format {found[0]!r}, this version reads {FORMAT}; update magicap")
    return dict(settings)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.zeros(1, device=place).item()
    except Exception as error:  # each backend has its own way of saying that it is not there
        raise BadSettings(f"device {str(device)!r} cannot be used here ({error}); cpu always can") from error
    return place


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    for name, value in known.items():
        if dtype in (name, value):
            return value
    raise BadSettings(f"dtype must be {', '.join(known)}, found {dtype!r}")
