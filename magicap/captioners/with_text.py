"""Captions of pictures whose text is read first: it steers the search, and may be said at the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, overload

from magicap.captioners.base import BaseCaptioner
from magicap.captioners.batching import ON_CPU
from magicap.checks import require_int
from magicap.decoding.constraints import MOST_INCLUDED
from magicap.decoding.settings import BeamMagicSearch
from magicap.errors import BadImage, BadSettings
from magicap.generators import Returning
from magicap.images.reader import ImageSource, open_image
from magicap.images.transform import PreparedImage, prepare
from magicap.ocr.reading import read_text, require_engine
from magicap.ocr.saying import say_text, words_to_prefer
from magicap.ocr.settings import OcrSettings
from magicap.results import WORDLESS, Caption, TextLine


@dataclass(frozen=True)
class _Read:
    """A picture of a call that was read."""

    seed: int
    pixels: PreparedImage
    lines: tuple[TextLine, ...]


@overload
def caption_with_text(
    captioner: BaseCaptioner[Any],
    images: list[Any] | tuple[Any, ...],
    decoding: Any = ...,
    *,
    append: bool = ...,
    settings: OcrSettings | None = ...,
    batch_size: int | None = ...,
    seed: int = ...,
) -> list[Caption]: ...
@overload
def caption_with_text(
    captioner: BaseCaptioner[Any],
    images: ImageSource,
    decoding: Any = ...,
    *,
    append: bool = ...,
    settings: OcrSettings | None = ...,
    batch_size: int | None = ...,
    seed: int = ...,
) -> Caption: ...
@overload
def caption_with_text(
    captioner: BaseCaptioner[Any],
    images: Iterator[Any],
    decoding: Any = ...,
    *,
    append: bool = ...,
    settings: OcrSettings | None = ...,
    batch_size: int | None = ...,
    seed: int = ...,
) -> Iterator[Caption]: ...
def caption_with_text(
    captioner: BaseCaptioner[Any],
    images: Any,
    decoding: Any = None,
    *,
    append: bool = False,
    settings: OcrSettings | None = None,
    batch_size: int | None = None,
    seed: int = 0,
) -> Caption | list[Caption] | Iterator[Caption]:
    """Caption one picture, a list of them, or an iterator, with the text that is read in each of them.

    Words that were read are preferred (``prefer``) by beam magic search, with the decoding's own
    ``prefer_weight``. Pictures without text have the captions that they have otherwise. A picture with text
    is searched together with those alone that have the same words. Captions have the lines that were read as
    ``text_lines``; those that such words steered have no ``confidence``, which was fitted without them.

    Args:
        captioner: of either kind; one that does not search by beam magic search can only append.
        images: as of ``captioner.caption``, but for datasets and pictures that were prepared before.
        decoding: how to search; None takes the captioner's own.
        append: whether captions end with the text whose words they do not have:
            ``..., with text that says "STOP AHEAD".`` Score and hypotheses are those of the caption before.
        settings: which text is read; None: the default.
        batch_size: pictures that are read, and held in memory, at a time; None: 32.
        seed: for searches that sample; picture i of a call samples with its own ``seed + i``.

    Raises:
        BadImage: the one picture cannot be read. In a list or iterator such a picture gives an empty caption
            whose ``error`` says why.
        BadSettings: the decoding is not beam magic search, and nothing is to be appended.
        MissingPackage: rapidocr or onnxruntime is not installed.
    """
    search = captioner.decoding if decoding is None else decoding
    require_text_to_matter(search, append=append)
    require_engine()
    if batch_size is not None:
        require_int("batch_size", batch_size)
    is_one = not isinstance(images, list | tuple) and (
        not isinstance(images, Iterator) or hasattr(images, "read")
    )
    pictures = [images] if is_one else images
    captions = _captions(captioner, pictures, search, append, settings, batch_size or ON_CPU, seed)
    if not is_one:
        return list(captions) if isinstance(images, list | tuple) else captions
    (caption,) = captions
    if caption.error is not None and caption.error.code != WORDLESS:
        raise caption.error
    return caption


def require_text_to_matter(decoding: Any, *, append: bool) -> None:
    """Refuse to read text that would change nothing.

    Raises:
        BadSettings: the decoding cannot be steered by words, and nothing is to be appended.
    """
    if not append and not isinstance(decoding, BeamMagicSearch):
        raise BadSettings(
            f"text steers BeamMagicSearch alone, found {type(decoding).__name__}; append the text instead, "
            "or search by BeamMagicSearch"
        )


def preferring_text(decoding: Any, lines: Sequence[TextLine]) -> Any:
    """A decoding that prefers the words of some lines, too; as it is where words do not steer it."""
    read = _steering_words(decoding, lines)
    if not read:
        return decoding
    return replace(decoding, prefer=tuple(dict.fromkeys((*decoding.prefer, *read)))[:MOST_INCLUDED])


def _steering_words(decoding: Any, lines: Sequence[TextLine]) -> tuple[str, ...]:
    if not isinstance(decoding, BeamMagicSearch):
        return ()
    return words_to_prefer(lines)


def _captions(
    captioner: BaseCaptioner[Any],
    images: Iterable[Any],
    decoding: Any,
    append: bool,
    settings: OcrSettings | None,
    batch_size: int,
    seed: int,
) -> Iterator[Caption]:
    seeded = enumerate(images, start=seed)
    while batch := list(islice(seeded, batch_size)):
        captions: dict[int, Caption] = {}
        by_words: dict[tuple[str, ...], list[_Read]] = defaultdict(list)
        for own_seed, image in batch:
            try:
                read = _read(captioner, image, own_seed, settings)
            except BadImage as error:
                captions[own_seed] = Caption("", error=error)
            else:
                by_words[_steering_words(decoding, read.lines)].append(read)
        for pictures in by_words.values():
            batch_captions = _searched(captioner, pictures, preferring_text(decoding, pictures[0].lines))
            for picture, caption in zip(pictures, batch_captions, strict=True):
                captions[picture.seed] = _with_lines(caption, picture.lines, append)
        yield from (captions[own_seed] for own_seed, _ in batch)


def _read(captioner: BaseCaptioner[Any], image: Any, seed: int, settings: OcrSettings | None) -> _Read:
    if hasattr(image, "read"):  # which is read but once
        image = open_image(image)
    # the models' own reading, which may be of a smaller size, so that a picture without text says the same
    return _Read(seed, prepare(image, captioner.transform), tuple(read_text(image, settings)))


def _searched(captioner: BaseCaptioner[Any], pictures: Sequence[_Read], decoding: Any) -> Sequence[Caption]:
    searching = captioner.caption_batch_with_progress(
        [picture.pixels for picture in pictures],
        decoding,
        seeds=[picture.seed for picture in pictures],
        candidates=0,
    )
    return Returning(searching).exhausted()


def _with_lines(caption: Caption, lines: tuple[TextLine, ...], append: bool) -> Caption:
    if append and lines and caption.error is None:
        caption = Caption(
            say_text(caption.text, lines),
            score=caption.score,
            steps=caption.steps,
            hypotheses=caption.hypotheses,
            confidence=caption.confidence,
        )
    caption.text_lines = lines
    return caption
