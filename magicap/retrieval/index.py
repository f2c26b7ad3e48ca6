"""RetrievalIndex: pictures or sentences in, unit vectors kept, the nearest out.

Shapes: N items, Q queries, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from magicap.checks import require_int, require_number
from magicap.data.hf_datasets import image_paths, is_dataset, texts_of
from magicap.errors import BadImage, BadSettings
from magicap.images.reader import FilePath, ImageSource
from magicap.retrieval.diversity import marginal_relevance
from magicap.retrieval.duplicates import near_duplicates
from magicap.retrieval.header import Header, index_folder
from magicap.retrieval.items import DUPLICATE, IMAGE, PLURAL, TEXT, Item, Match, OnError, Part, items_of_files
from magicap.retrieval.moments import FileEncoder, in_batches, known_moments
from magicap.retrieval.nearest import nearest
from magicap.retrieval.queries import encode_parts, given_items, require_sentences, weighed_sum
from magicap.retrieval.storage import read_index, write_index
from magicap.video.settings import EVERY, require_every

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer

OnProgress = Callable[[int], object]
OnCheckpoint = Callable[[], object]
Encode = Callable[[Sequence[Item]], tuple[list[Item], Tensor]]

POOL = 10
"""How many times as many candidates as matches are ordered by maximal marginal relevance."""

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
        preset: what people call the scorer: a preset, a captioner's folder or a repository.
        scorer_name: what the scorer itself is named by, where it is no preset's.

    Attributes:
        scorer: encodes items and queries.
        items: N pictures' files and moments of videos, or sentences, in the order in which they were given.
        vectors: (N, D) their unit vectors, float32, on the CPU.
        preset, scorer_name: what people call the scorer; kept with the index.
    """

    def __init__(self, scorer: ImageTextScorer, *, preset: str = "", scorer_name: str = "") -> None:
        self.scorer = scorer
        self.items: list[Item] = []
        self.vectors = torch.empty(0, scorer.width)
        self.preset, self.scorer_name = preset, scorer_name

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
        index = cls(scorer, preset=header.preset, scorer_name=header.scorer_name)
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
        write_index(
            folder,
            self.items,
            self.vectors,
            scorer=self.scorer.fingerprint,
            preset=self.preset,
            scorer_name=self.scorer_name,
        )

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
        every: float = EVERY,
        batch_size: int = 32,
        on_error: OnError | None = None,
        on_progress: OnProgress = lambda count: None,
        on_checkpoint: OnCheckpoint = lambda: None,
    ) -> Changes:
        """Make the index hold these pictures and videos and no others; only new and changed ones are encoded.

        They are known by absolute path, size and time of last change. A file is a video by its suffix; each
        of its sampled frames is an item of its own, with a ``time``. Interrupted or refused on the way, the
        index holds what stood there and what was encoded so far: another update goes on from that.

        Args:
            paths: pictures' files; what stands twice is kept once. Or a dataset of the library ``datasets``
                whose pictures are such files, and not bytes of its own.
            every: seconds between the sampled frames of a video.
            batch_size: pictures encoded together.
            on_error: called with the error of each picture that cannot be read; None raises it.
            on_progress: called with how many more pictures are done, first with those that need not be
                encoded again.
            on_checkpoint: called every few minutes, when the index holds what is encoded so far: to save it.

        Raises:
            BadImage: a picture cannot be read, and there is no ``on_error``.
            BadSettings: the index holds sentences, or a picture of a dataset is no local file.
            BadData: a dataset has no column of pictures.
            MissingPackage: there is a video, and PyAV is not installed.
        """
        self._require_kind(IMAGE)
        require_every("every", every)
        if is_dataset(paths):
            paths = image_paths(paths)
        errors: list[BadImage] = []

        def report(error: BadImage) -> None:
            if on_error is None:
                raise error
            errors.append(error)
            on_error(error)

        items = list(items_of_files(paths, report))
        moments = known_moments(self.items, every)
        encode = FileEncoder(self.scorer, every, moments, report)
        changes = self._update(items, batch_size, encode, on_progress, on_checkpoint, moments)
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
        items = [Item(text=text) for text in dict.fromkeys(require_sentences(texts))]
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
        return [self._matches(*row) for row in zip(cosines.tolist(), positions.tolist(), strict=True)]

    def search_texts(self, texts: Sequence[str], top_k: int = 10) -> list[list[Match]]:
        """:meth:`search` by sentences.

        Args:
            texts: Q sentences.
            top_k: how many matches of each; all, if the index has fewer.

        Raises:
            BadSettings: as from there, or a sentence is empty.
        """
        return self.search(self.scorer.encode_texts(require_sentences(texts)), top_k)

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

    def recommend(
        self,
        like: Sequence[Part],
        unlike: Sequence[Part] = (),
        top_k: int = 10,
        *,
        diversity: float = 0.0,
        min_similarity: float | None = None,
        keep_given: bool = False,
    ) -> list[Match]:
        """The items most like some pictures and sentences, and unlike others; best first.

        The query is their weighed sum (:func:`magicap.retrieval.queries.weighed_sum`); the cosine of a match
        is with that.

        Args:
            like: at least one picture or sentence. Text is a picture's file if there is one of that name, or
                if it has a picture's suffix, and a sentence otherwise; an :class:`Item` is what it says.
            unlike: pictures and sentences, in the same way.
            top_k: how many matches; all, if the index has fewer.
            diversity: 0 to 1: above 0 the nearest items (:data:`POOL` times ``top_k`` of them) are ordered by
                maximal marginal relevance (:func:`magicap.retrieval.diversity.marginal_relevance`).
            min_similarity: the least cosine of a match; None takes any.
            keep_given: whether an item that was given, by its path or as the same sentence, may be a match.

        Raises:
            BadImage: a picture cannot be read.
            BadSettings: nothing is liked, a sentence is empty, or a number is out of its range.
        """
        require_int("top_k", top_k)
        require_number("diversity", diversity, lambda value: 0 <= value <= 1, "between 0 and 1")
        if min_similarity is not None:
            require_number("min_similarity", min_similarity, lambda value: -1 <= value <= 1, "-1 to 1")
        if isinstance(like, str) or isinstance(unlike, str):
            raise BadSettings("expected lists of pictures and sentences, found one alone; put it into a list")
        if not like:
            raise BadSettings("expected something that is liked, found nothing; give a picture or a sentence")
        query = weighed_sum(encode_parts(self.scorer, like), encode_parts(self.scorer, unlike), self.vectors)
        left_out = set() if keep_given else given_items([*like, *unlike])
        pool = (POOL * top_k if diversity else top_k) + len(left_out)
        matches = [
            match
            for match in self.search(query, pool)[0]
            if (match.item.path or match.item.text) not in left_out
            and (min_similarity is None or match.cosine >= min_similarity)
        ]
        if diversity:
            cosines = torch.tensor([match.cosine for match in matches])
            vectors = self.vectors[[match.position for match in matches]]
            order = marginal_relevance(cosines, vectors, top_k, diversity)
            matches = [matches[number] for number in order]
        return [replace(match, rank=rank) for rank, match in enumerate(matches[:top_k], start=1)]

    def duplicates(self, threshold: float = DUPLICATE) -> list[list[Match]]:
        """Groups of near-duplicates: items that are linked by pairs of at least this cosine.

        Every pair is compared, but for two moments of one video; nothing is encoded.

        Args:
            threshold: the least cosine of a pair that links two items, -1 to 1.

        Raises:
            BadSettings: the threshold is out of its range.

        Returns:
            Groups of two items or more. The first of a group is its earliest item, and the cosines are with
            it: that of an item that is linked to it through others may be below the threshold.
        """
        require_number("threshold", threshold, lambda value: -1 <= value <= 1, "-1 to 1")
        first = {item.path: number for number, item in enumerate(self.items) if item.time is not None}
        sources = [
            number if item.time is None else first[item.path] for number, item in enumerate(self.items)
        ]
        return [
            self._matches((self.vectors[group] @ self.vectors[group[0]]).tolist(), group)
            for group in near_duplicates(self.vectors, threshold, torch.tensor(sources))
        ]

    def _matches(self, cosines: Sequence[float], positions: Sequence[int]) -> list[Match]:
        """One query's matches, best first."""
        ranked = enumerate(zip(cosines, positions, strict=True), start=1)
        return [Match(self.items[position], cosine, rank, position) for rank, (cosine, position) in ranked]

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
        moments: Mapping[Item, Sequence[Item]] = {},
    ) -> Changes:
        """Encode what is new.

        Args:
            moments: of files of videos that stand in the index; ``encode`` adds to it.
        """
        require_int("batch_size", batch_size)
        row = {item: number for number, item in enumerate(self.items)}
        new = [item for item in items if item not in row and item not in moments]
        vectors = [self.vectors]
        checkpoint = monotonic() + CHECKPOINT_SECONDS

        def encoded_items() -> list[Item]:
            return [one for item in items for one in moments.get(item, (item,)) if one in row]

        def take_over() -> None:
            self.items = encoded_items()
            self.vectors = torch.cat(vectors)[[row[item] for item in self.items]]

        kept = len(encoded_items())
        dropped = len(row) - kept
        try:
            on_progress(len(items) - len(new))
            for batch in in_batches(new, batch_size):
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

    def _encode_sentences(self, batch: Sequence[Item]) -> tuple[list[Item], Tensor]:
        return list(batch), self.scorer.encode_texts([str(item.text) for item in batch])
