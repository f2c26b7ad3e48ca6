"""RetrievalIndex: pictures or sentences in, unit vectors kept, the nearest out.

Shapes: N items, Q queries, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from magicap.checks import require_int
from magicap.data.hf_datasets import image_paths, is_dataset, texts_of
from magicap.errors import BadImage, BadSettings
from magicap.images.reader import FilePath, ImageSource
from magicap.models.finite import are_unit, broken_image
from magicap.retrieval.header import Header, index_folder
from magicap.retrieval.items import IMAGE, PLURAL, TEXT, Item, Match, OnError, items_of_files
from magicap.retrieval.nearest import nearest
from magicap.retrieval.storage import read_index, write_index

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer

OnProgress = Callable[[int], object]
OnCheckpoint = Callable[[], object]
Encode = Callable[[Sequence[Item]], tuple[list[Item], Tensor]]

CHECKPOINT_SECONDS = 180.0
"""How long an update may go on before what is encoded is worth keeping."""


@dataclass(frozen=True)
class Changes:
    """What an update did."""

    added: int
    """Items that were encoded."""

    kept: int
    """Items that stood in the index already, and were not encoded again."""

    dropped: int
    """Items that are gone, or were changed since and stand among the added."""

    failed: int
    """Pictures that cannot be read; the next update tries them again."""


class RetrievalIndex:
    """Pictures, or sentences, as unit vectors of one scorer; every search compares all of them.

    Args:
        scorer: the scorer of all vectors; searching a saved index needs the same one.
        preset: what people call the scorer.

    Attributes:
        scorer: encodes items and queries.
        items: N pictures' files or sentences, in the order in which they were given.
        vectors: (N, D) their unit vectors, float32, on the CPU.
        preset: what people call the scorer; kept with the index.
    """

    def __init__(self, scorer: ImageTextScorer, *, preset: str = "") -> None:
        self.scorer = scorer
        self.items: list[Item] = []
        self.vectors = torch.empty(0, scorer.width)
        self.preset = preset

    @classmethod
    def load(cls, folder: str | Path, scorer: ImageTextScorer) -> Self:
        """Read an index that :meth:`save` wrote, or ``magicap index``, from its folder or what was indexed.

        Args:
            folder: the index itself, or the folder of pictures or file of sentences that was indexed.
            scorer: the one that made the index; its weights are compared by their fingerprint.

        Raises:
            BadIndex: there is none, it is damaged, or another scorer made it.
            MissingPackage: pyarrow is not installed.
        """
        header = Header.read(index_folder(folder))
        header.require_scorer(scorer.fingerprint)
        index = cls(scorer, preset=header.preset)
        index.items, index.vectors = read_index(header)
        return index

    def save(self, folder: str | Path) -> None:
        """Write the index as vectors (safetensors), items (Parquet) and ``index.json``.

        The index that stood there is replaced whole: who reads, and who stops this, never has half of one.

        Args:
            folder: where to write; made where it is not there, else empty or an index.

        Raises:
            BadIndex: the folder holds something else.
            BadSettings: it cannot be written, or the index is empty.
            MissingPackage: pyarrow is not installed.
        """
        if not self.items:
            raise BadSettings("expected an index of at least one item, found an empty one; update it first")
        write_index(folder, self.items, self.vectors, scorer=self.scorer.fingerprint, preset=self.preset)

    @property
    def kind(self) -> str | None:
        """What the index holds, ``"image"`` or ``"text"``; None as long as it is empty."""
        return self.items[0].kind if self.items else None

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        return f"RetrievalIndex({len(self)} items, scorer {self.scorer.fingerprint})"

    def update_images(
        self,
        paths: Iterable[FilePath],
        *,
        batch_size: int = 32,
        on_error: OnError | None = None,
        on_progress: OnProgress = lambda count: None,
        on_checkpoint: OnCheckpoint = lambda: None,
    ) -> Changes:
        """Make the index hold these pictures and no others; only new and changed ones are encoded.

        A picture is known by its absolute path, size and time of last change. Interrupted or refused on the
        way, the index holds what stood there and what was encoded so far: another update goes on from that.

        Args:
            paths: pictures' files; what stands twice is kept once. Or a dataset of the library ``datasets``
                whose pictures are such files, and not bytes of its own.
            batch_size: pictures encoded together.
            on_error: called with the error of each picture that cannot be read; None raises it.
            on_progress: called with how many more pictures are done, first with those that need not be
                encoded again.
            on_checkpoint: called every few minutes, when the index holds what is encoded so far: to save it.

        Raises:
            BadImage: a picture cannot be read, and there is no ``on_error``.
            BadSettings: the index holds sentences, or a picture of a dataset is no local file.
            BadData: a dataset has no column of pictures.
        """
        self._require_kind(IMAGE)
        if is_dataset(paths):
            paths = image_paths(paths)
        errors: list[BadImage] = []

        def report(error: BadImage) -> None:
            if on_error is None:
                raise error
            errors.append(error)
            on_error(error)

        items = list(items_of_files(paths, report))
        encode = partial(self._encode_files, on_error=report)
        changes = self._update(items, batch_size, encode, on_progress, on_checkpoint)
        return Changes(changes.added, changes.kept, changes.dropped, len(errors))

    def update_texts(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 256,
        on_progress: OnProgress = lambda count: None,
        on_checkpoint: OnCheckpoint = lambda: None,
    ) -> Changes:
        """Make the index hold these sentences and no others; only new ones are encoded.

        Args:
            texts: sentences; one that stands twice is kept once. Or a dataset of the library ``datasets``
                with a column of them (:func:`magicap.data.hf_datasets.texts_of`).
            batch_size: sentences encoded together.
            on_progress: as in :meth:`update_images`.
            on_checkpoint: as in :meth:`update_images`.

        Raises:
            BadSettings: the index holds pictures, or a sentence is empty.
            BadData: a dataset has no column of texts.
        """
        self._require_kind(TEXT)
        if is_dataset(texts):
            texts = texts_of(texts)
        items = [Item(text=text) for text in dict.fromkeys(_sentences(texts))]
        return self._update(items, batch_size, self._encode_sentences, on_progress, on_checkpoint)

    def search(self, queries: Tensor, top_k: int = 10) -> list[list[Match]]:
        """The items most like each query, best first; of equals the earlier.

        Args:
            queries: (Q, D) unit vectors of the same scorer.
            top_k: how many of each; all, if the index has fewer.

        Raises:
            BadSettings: ``top_k`` is below 1, or the vectors are of another width.

        Returns:
            Q lists.
        """
        require_int("top_k", top_k)
        if queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            expected = f"(queries, {self.vectors.shape[1]})"
            raise BadSettings(
                f"expected vectors {expected}, found {tuple(queries.shape)}; encode them with the same scorer"
            )
        cosines, positions = nearest(queries.float(), self.vectors, top_k)
        return [
            [
                Match(self.items[position], cosine, rank, position)
                for rank, (cosine, position) in enumerate(zip(*row, strict=True), start=1)
            ]
            for row in zip(cosines.tolist(), positions.tolist(), strict=True)
        ]

    def search_texts(self, texts: Sequence[str], top_k: int = 10) -> list[list[Match]]:
        """:meth:`search` by sentences.

        Args:
            texts: Q sentences.
            top_k: how many matches of each; all, if the index has fewer.

        Raises:
            BadSettings: as from there, or a sentence is empty.
        """
        return self.search(self.scorer.encode_texts(_sentences(texts)), top_k)

    def search_images(self, images: Sequence[ImageSource], top_k: int = 10) -> list[list[Match]]:
        """:meth:`search` by pictures.

        Args:
            images: Q pictures, each anything that :func:`magicap.images.reader.open_image` takes.
            top_k: how many matches of each; all, if the index has fewer.

        Raises:
            BadImage: a picture cannot be read.
            BadSettings: as from :meth:`search`.
        """
        return self.search(self.scorer.encode_images(images), top_k)

    def _require_kind(self, kind: str) -> None:
        if self.kind not in (None, kind):
            raise BadSettings(
                f"expected an index of {PLURAL[kind]}, found one of {PLURAL[str(self.kind)]}; "
                "keep the two in two folders"
            )

    def _update(
        self,
        items: list[Item],
        batch_size: int,
        encode: Encode,
        on_progress: OnProgress,
        on_checkpoint: OnCheckpoint,
    ) -> Changes:
        require_int("batch_size", batch_size)
        row = {item: number for number, item in enumerate(self.items)}
        new = [item for item in items if item not in row]
        kept, dropped = len(items) - len(new), len(row) - len(items) + len(new)
        vectors = [self.vectors]
        checkpoint = monotonic() + CHECKPOINT_SECONDS

        def take_over() -> None:
            self.items = [item for item in items if item in row]
            self.vectors = torch.cat(vectors)[[row[item] for item in self.items]]

        try:
            on_progress(kept)
            for start in range(0, len(new), batch_size):
                batch = new[start : start + batch_size]
                readable, encoded = encode(batch)
                vectors.append(encoded.float().cpu())
                row.update(zip(readable, range(len(row), len(row) + len(readable)), strict=True))
                on_progress(len(batch))
                if monotonic() > checkpoint:
                    take_over()
                    on_checkpoint()
                    checkpoint = monotonic() + CHECKPOINT_SECONDS
        finally:  # also when interrupted: what was encoded is not lost
            take_over()
        return Changes(len(self.items) - kept, kept, dropped, failed=0)

    def _encode_files(self, batch: Sequence[Item], on_error: OnError) -> tuple[list[Item], Tensor]:
        pixels: dict[Item, Tensor] = {}
        for item in batch:
            try:
                pixels[item] = self.scorer.pixels(str(item.path))
            except BadImage as error:
                on_error(error)
        if not pixels:
            return [], torch.empty(0, self.scorer.width)
        vectors = self.scorer.encode_pixels(torch.stack(list(pixels.values())))
        usable = are_unit(vectors)
        for item, is_usable in zip(pixels, usable.tolist(), strict=True):
            if not is_usable:
                on_error(broken_image(item.path))
        return list(compress(pixels, usable.tolist())), vectors[usable]

    def _encode_sentences(self, batch: Sequence[Item]) -> tuple[list[Item], Tensor]:
        return list(batch), self.scorer.encode_texts([str(item.text) for item in batch])


def _sentences(texts: Iterable[str]) -> list[str]:
    """Sentences as a list; refused here, before a tokenizer fails at them."""
    if isinstance(texts, str):
        raise BadSettings("expected a list of sentences, found one alone; put it into a list")
    texts = list(texts)
    for text in texts:
        if not text.strip():
            raise BadSettings("expected sentences, found an empty one; leave it out")
        if text != text.encode("utf-8", "replace").decode():
            raise BadSettings(f"expected sentences, found half a character in {text!r:.80}; write it again")
    return texts
