"""What all captioners have in common: one picture, several or a stream of them in, captions in order out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Generic, Self, TypeVar, overload

import torch
from torch import Tensor

from magicap.captioners.batching import BatchSize
from magicap.captioners.free_memory import give_back_memory
from magicap.captioners.hub_card import HubCard
from magicap.captioners.repositories import push
from magicap.checks import require_int
from magicap.data.hf_datasets import (
    MapDataset,
    StreamedDataset,
    encoded_images,
    is_dataset,
    is_streamed,
    one_split,
)
from magicap.drawing import COMPETITORS, Explanation
from magicap.errors import BadImage, BadSettings, BrokenNumbers
from magicap.images.reader import ImageSource, describe_source
from magicap.images.region import ImageRegion, Regions, parts_of
from magicap.images.transform import ImageTransform, PreparedImage, prepare
from magicap.models.finite import broken_image
from magicap.results import BROKEN, WORDLESS, Caption, CaptionProgress

DecodingT = TypeVar("DecodingT")


class BaseCaptioner(ABC, Generic[DecodingT]):
    """Captions pictures.

    Attributes:
        decoding: how captions are searched for, unless a call names another.
    """

    decoding: DecodingT

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    @abstractmethod
    def transform(self) -> ImageTransform:
        """How pictures become what its models read: see :func:`magicap.images.transform.prepare`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Twelve digits that tell these models from any others."""

    def steered_by(self, decoding: DecodingT) -> str:
        """The fingerprint in float32 of the scorer that steers captions of a decoding; empty: none does."""
        return ""

    @abstractmethod
    def save_pretrained(self, folder: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
        """Write the whole captioner into one folder."""

    def push_to_hub(
        self,
        repository: str,
        card: HubCard | None = None,
        *,
        dtype: str | torch.dtype | None = "float16",
        private: bool | None = None,
        revision: str | None = None,
        message: str = "A captioner",
        token: str | None = None,
    ) -> str:
        """Put the whole captioner into a repository of the Hugging Face hub, with a model card and checksums.

        :func:`magicap.load_captioner` then takes the repository's name. All files that were there before are
        deleted in the same commit, except a model card where ``card`` is None.

        Args:
            repository: OWNER/NAME; it is made where it is not there.
            card: what the model card says beside how to use it; None: the card that the repository has, or
                one that says nothing else.
            dtype: of the stored weights; None keeps them as they are.
            private: whether only its owners see it, where it is made; None: as their settings say.
            revision: branch to push to; None: the main one.
            message: of the commit.
            token: of a user who may write; None: the one that ``hf auth login`` stored.

        Returns:
            The commit, by which :func:`magicap.load_captioner` loads this very captioner.

        Raises:
            BadSettings: the hub refuses or cannot be reached, the captioner cannot be saved, or ``card`` is
                no HubCard.
        """
        if card is not None and not isinstance(card, HubCard):
            raise BadSettings(f"card: expected a HubCard, as HubCard('Aerial pictures.'), found {card!r:.80}")
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype)
            said = f"Fingerprint {self.fingerprint}, decoding `{self.decoding}`."
            return push(
                Path(folder),
                repository,
                (card or HubCard()).text(repository, said),
                keeps_card=card is None,
                private=private,
                branch=revision,
                message=message,
                token=token,
            )

    @overload
    def caption(
        self,
        images: list[Any] | tuple[Any, ...],
        decoding: DecodingT | None = ...,
        *,
        region: Regions | None = ...,
        batch_size: int | None = ...,
        seed: int = ...,
    ) -> list[Caption]: ...
    @overload
    def caption(
        self,
        images: ImageSource,
        decoding: DecodingT | None = ...,
        *,
        region: Regions | None = ...,
        batch_size: int | None = ...,
        seed: int = ...,
    ) -> Caption: ...
    @overload
    def caption(
        self,
        images: MapDataset,
        decoding: DecodingT | None = ...,
        *,
        region: Regions | None = ...,
        batch_size: int | None = ...,
        seed: int = ...,
    ) -> list[Caption]: ...
    @overload
    def caption(
        self,
        images: Iterator[Any] | StreamedDataset,
        decoding: DecodingT | None = ...,
        *,
        region: Regions | None = ...,
        batch_size: int | None = ...,
        seed: int = ...,
    ) -> Iterator[Caption]: ...
    def caption(
        self,
        images: Any,
        decoding: DecodingT | None = None,
        *,
        region: Regions | None = None,
        batch_size: int | None = None,
        seed: int = 0,
    ) -> Caption | list[Caption] | Iterator[Caption]:
        """Caption one picture, a list of them, an iterator of them, or a dataset.

        Args:
            images: one picture (path, bytes, file object, PIL image, HWC array, CHW tensor, or one that
                :func:`magicap.images.transform.prepare` made of these with :attr:`transform`), a list or
                tuple of pictures, an iterator of pictures, or a dataset of the library ``datasets`` with one
                column of pictures (:func:`magicap.data.hf_datasets.image_column`). A list, or a ``Dataset``,
                gives a list in the same order; an iterator, or an ``IterableDataset``, gives an iterator that
                holds two batches, the one being captioned and the one being read.
            decoding: how to search; None takes the captioner's own.
            region: caption this part of each picture, seen in its surroundings: left, top, right and bottom
                in pixels of the upright picture. With a list of pictures a list of regions, one each, will do
                too. None: the whole picture. The caption of a region has no ``confidence``.
            batch_size: pictures that are searched together; it changes the speed, not the captions. None: 32
                on a processor, as many as memory holds on a GPU. A batch for which a GPU has not enough
                memory is searched in halves.
            seed: for searches that sample; picture i of a call samples with its own ``seed + i``.

        A picture for which the models give NaN or infinity is searched once more in float32, if they compute
        in fewer bits. A caption without words has an ``error`` too.

        Raises:
            BadImage: the one picture cannot be read, the region does not lie in it, or the models' numbers
                break for it. In a list or iterator such a picture gives an empty caption whose ``error`` says
                why, and the rest go on.
            BadData: a dataset has no column of pictures, or several splits.
            BadSettings: the decoding does not fit the models, or the region is no box.
        """
        if batch_size is not None:
            require_int("batch_size", batch_size)
        search = self.decoding if decoding is None else decoding
        if isinstance(images, list | tuple):
            return list(self._captions(parts_of(images, region), search, batch_size, seed))
        if is_dataset(images):
            captions = self._captions(parts_of(encoded_images(images), region), search, batch_size, seed)
            return captions if is_streamed(one_split(images)) else list(captions)
        if isinstance(images, Iterator) and not hasattr(images, "read"):
            return self._captions(parts_of(images, region), search, batch_size, seed)
        (part,) = parts_of([images], region)
        (caption,) = self._search(self._pixels(part)[None], search, [seed], [images])
        if caption.error is not None and caption.error.code == BROKEN:
            raise caption.error
        return caption

    def caption_batch_with_progress(
        self,
        images: Sequence[PreparedImage],
        decoding: DecodingT | None = None,
        *,
        seeds: Sequence[int] | None = None,
        candidates: int = COMPETITORS,
    ) -> CaptionProgress:
        """Caption pictures that were read before, all together, and tell after each token what competes.

        Args:
            images: B pictures that were prepared with :attr:`transform`.
            decoding: how to search; None takes the captioner's own. One that cannot tell yields nothing.
            seeds: B seeds for searches that sample; None: picture i has seed i.
            candidates: how many candidates of a step, or hypotheses, at most; 0: no hypotheses, and only the
                step that was taken.

        Returns:
            A generator: it yields for each token position ``(number of the picture, competitors)`` of all
            pictures whose captions are still being written, and returns the captions.

        Raises:
            BadSettings: the decoding does not fit the models.
        """
        require_int("candidates", candidates, least=0)
        if not images:
            return []
        search, own_seeds = self.decoding if decoding is None else decoding, _seeds(images, seeds)
        pixels = self._stacked(images)
        # after either the batch is searched once more, in halves and in float32
        with suppress(BrokenNumbers, torch.OutOfMemoryError):
            captions = yield from self._progress(pixels, search, own_seeds, candidates)
            give_back_memory(len(images))
            return _checked(captions, images)
        return self._search(pixels, search, own_seeds, images)

    def knows_confidence(self, decoding: DecodingT | None = None) -> bool:
        """Whether captions of a decoding have a ``confidence``; None takes the captioner's own decoding."""
        return False

    @abstractmethod
    def explain(self, image: ImageSource, decoding: DecodingT | None = None, *, seed: int = 0) -> Explanation:
        """Caption one picture, and show how the caption came about.

        Args:
            image, decoding, seed: as of :meth:`caption`.

        Returns:
            The caption with data that can be read, drawn (``.draw()``) and saved (``.save(path)``).

        Raises:
            BadImage: the picture cannot be read.
            BadSettings: there is nothing to show of this decoding or these models.
        """

    def _pixels(self, image: ImageSource | PreparedImage | ImageRegion) -> Tensor:
        """One picture as bytes (3, H, W), of one size for all; of a region, what lies in its box."""
        if isinstance(image, ImageRegion):
            image, _ = image.views()
        prepared = image if isinstance(image, PreparedImage) else prepare(image, self.transform)
        return torch.from_numpy(prepared.pixels)

    @property
    @abstractmethod
    def _in_float32(self) -> Self | None:
        """The same captioner computing in float32; None where it does so itself."""

    @abstractmethod
    def _batch(self, pixels: Tensor, decoding: DecodingT, seeds: list[int]) -> list[Caption]:
        """Caption pictures (B, 3, H, W), B at least 1.

        Raises:
            BrokenNumbers: a model gives NaN, infinity or zeros for a picture.
        """

    def _progress(
        self, pixels: Tensor, decoding: DecodingT, seeds: list[int], candidates: int
    ) -> CaptionProgress:
        """:meth:`_batch`, with what competes after each token; here nothing is."""
        yield from ()
        return self._batch(pixels, decoding, seeds)

    def _stacked(self, images: Sequence[PreparedImage]) -> Tensor:
        """(B, 3, H, W) bytes."""
        return torch.stack([self._pixels(image) for image in images])

    def _captions(
        self, images: Iterable[Any], decoding: DecodingT, batch_size: int | None, seed: int
    ) -> Iterator[Caption]:
        size = BatchSize(self.device, batch_size)
        seeded = enumerate(images, start=seed)
        reader = ThreadPoolExecutor(1, "magicap-reader")  # decodes while the models compute

        def read() -> tuple[list[tuple[int, Any, Future[Tensor]]], Exception | None]:
            """The next batch, and what the source raised after it."""
            batch = []
            try:
                for own_seed, image in islice(seeded, size.now):
                    batch.append((own_seed, image, reader.submit(self._pixels, image)))
            except Exception as error:  # raised again once all that came before is captioned
                return batch, error
            return batch, None

        try:
            ahead, fault = read()
            while batch := ahead:
                pixels: dict[int, Tensor] = {}
                captions: dict[int, Caption] = {}
                for own_seed, _, picture in batch:
                    try:
                        pixels[own_seed] = picture.result()
                    except BadImage as error:
                        captions[own_seed] = Caption("", error=error)
                ahead, fault = read() if fault is None else ([], fault)
                if pixels:
                    seeds = list(pixels)
                    sources = [image for own_seed, image, _ in batch if own_seed in pixels]
                    together = torch.stack(list(pixels.values()))
                    batch_captions = self._search(together, decoding, seeds, sources)
                    captions |= zip(seeds, batch_captions, strict=True)
                    size.measured(len(pixels))
                yield from (captions[own_seed] for own_seed, _, _ in batch)
            if fault is not None:
                raise fault
        finally:
            reader.shutdown(cancel_futures=True)

    def _search(
        self, pixels: Tensor, decoding: DecodingT, seeds: list[int], images: Sequence[Any]
    ) -> list[Caption]:
        """Caption pictures (B, 3, H, W); in halves where a GPU has not enough memory or numbers break.

        Args:
            images: B pictures as they were given, for errors.
        """
        try:
            captions = self._batch(pixels, decoding, seeds)
            give_back_memory(len(images))
            return _checked(captions, images)
        except torch.OutOfMemoryError:
            if len(seeds) == 1:
                raise
        except BrokenNumbers as error:
            if len(seeds) == 1 and self._in_float32 is not None:
                return self._in_float32._search(pixels, decoding, seeds, images)
            if len(seeds) == 1:
                return [Caption("", error=broken_image(images[0], f"broken ones ({error})"))]
        half = len(seeds) // 2
        first = self._search(pixels[:half], decoding, seeds[:half], images[:half])
        return first + self._search(pixels[half:], decoding, seeds[half:], images[half:])


def _seeds(images: Sequence[PreparedImage], seeds: Sequence[int] | None) -> list[int]:
    """B seeds of B pictures."""
    if seeds is None:
        return list(range(len(images)))
    if len(seeds) != len(images):
        raise BadSettings(f"expected a seed a picture, found {len(seeds)} for {len(images)}")
    return list(seeds)


def _checked(captions: list[Caption], images: Sequence[Any]) -> list[Caption]:
    """Captions of pictures as they were given, those without words with an error.

    Raises:
        BrokenNumbers: a score is not finite.
    """
    if not all(isfinite(caption.score) for caption in captions):
        raise BrokenNumbers("expected a finite score of each caption, found NaN or infinity")
    for caption, image in zip(captions, images, strict=True):
        if not caption.strip():
            caption.error = _wordless(image)
    return captions


def _wordless(image: object) -> BadImage:
    return BadImage(
        WORDLESS,
        "expected a caption, found none: the search ended before the first word; try another decoding",
        source=describe_source(image),
    )
