"""What all captioners have in common: one picture, several or a stream of them in, captions in order out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

from magicap.captioners.batching import BatchSize
from magicap.checks import require_int
from magicap.drawing import Explanation
from magicap.errors import BadImage
from magicap.images.reader import ImageSource
from magicap.results import Caption

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
    def fingerprint(self) -> str:
        """Twelve digits that tell these models from any others."""

    @abstractmethod
    def save_pretrained(self, folder: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
        """Write the whole captioner into one folder."""

    @overload
    def caption(
        self,
        images: list[Any] | tuple[Any, ...],
        decoding: DecodingT | None = ...,
        *,
        batch_size: int | None = ...,
        seed: int = ...,
    ) -> list[Caption]: ...
    @overload
    def caption(
        self,
        images: ImageSource,
        decoding: DecodingT | None = ...,
        *,
        batch_size: int | None = ...,
        seed: int = ...,
    ) -> Caption: ...
    @overload
    def caption(
        self,
        images: Iterator[Any],
        decoding: DecodingT | None = ...,
        *,
        batch_size: int | None = ...,
        seed: int = ...,
    ) -> Iterator[Caption]: ...
    def caption(
        self, images: Any, decoding: DecodingT | None = None, *, batch_size: int | None = None, seed: int = 0
    ) -> Caption | list[Caption] | Iterator[Caption]:
        """Caption one picture, a list of them, or an iterator of them.

        Args:
            images: one picture (path, bytes, file object, PIL image, HWC array, CHW tensor), a list or tuple
                of pictures, or an iterator of pictures. A list gives a list in the same order; an iterator
                gives an iterator that holds two batches, the one being captioned and the one being read.
            decoding: how to search; None takes the captioner's own.
            batch_size: pictures that are searched together; it changes the speed, not the captions. None: 16
                on a processor, as many as memory holds on a GPU. A batch for which a GPU has not enough
                memory is searched in halves.
            seed: for searches that sample; picture i of a call samples with its own ``seed + i``.

        Raises:
            BadImage: the one picture cannot be read. In a list or iterator such a picture gives an empty
                caption whose ``error`` says why, and the rest go on.
            BadSettings: the decoding does not fit the models.
        """
        if batch_size is not None:
            require_int("batch_size", batch_size)
        search = self.decoding if decoding is None else decoding
        if isinstance(images, list | tuple):
            return list(self._captions(images, search, batch_size, seed))
        if isinstance(images, Iterator) and not hasattr(images, "read"):
            return self._captions(images, search, batch_size, seed)
        return self._batch(self._pixels(images)[None], search, [seed])[0]

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

    @abstractmethod
    def _pixels(self, image: ImageSource) -> Tensor:
        """One picture as the tensor (3, H, W) that the models read, of one size for all."""

    @abstractmethod
    def _batch(self, pixels: Tensor, decoding: DecodingT, seeds: list[int]) -> list[Caption]:
        """Caption pictures (B, 3, H, W), B at least 1."""

    def _captions(
        self, images: Iterable[Any], decoding: DecodingT, batch_size: int | None, seed: int
    ) -> Iterator[Caption]:
        size = BatchSize(self.device, batch_size)
        seeded = enumerate(images, start=seed)
        reader = ThreadPoolExecutor(1, "magicap-reader")  # decodes while the models compute

        def read() -> tuple[list[tuple[int, Future[Tensor]]], Exception | None]:
            """The next batch, and what the source raised after it."""
            batch = []
            try:
                for own_seed, image in islice(seeded, size.now):
                    batch.append((own_seed, reader.submit(self._pixels, image)))
            except Exception as error:  # raised again once all that came before is captioned
                return batch, error
            return batch, None

        try:
            ahead, fault = read()
            while batch := ahead:
                pixels: dict[int, Tensor] = {}
                captions: dict[int, Caption] = {}
                for own_seed, picture in batch:
                    try:
                        pixels[own_seed] = picture.result()
                    except BadImage as error:
                        captions[own_seed] = Caption("", error=error)
                ahead, fault = read() if fault is None else ([], fault)
                if pixels:
                    seeds = list(pixels)
                    batch_captions = self._in_halves(torch.stack(list(pixels.values())), decoding, seeds)
                    captions |= zip(seeds, batch_captions, strict=True)
                    size.measured(len(pixels))
                yield from (captions[own_seed] for own_seed, _ in batch)
            if fault is not None:
                raise fault
        finally:
            reader.shutdown(cancel_futures=True)

    def _in_halves(self, pixels: Tensor, decoding: DecodingT, seeds: list[int]) -> list[Caption]:
        """As :meth:`_batch`, in halves where a GPU has not enough memory."""
        try:
            return self._batch(pixels, decoding, seeds)
        except torch.OutOfMemoryError:
            if len(seeds) == 1:
                raise
        half = len(seeds) // 2
        first = self._in_halves(pixels[:half], decoding, seeds[:half])
        return first + self._in_halves(pixels[half:], decoding, seeds[half:])
