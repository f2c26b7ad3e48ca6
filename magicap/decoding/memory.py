"""A corpus of captions as vectors, and the floors it gives: the nearest caption, and consensus among them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from magicap.decoding.settings import Steps
from magicap.errors import BadSettings
from magicap.results import Step

if TYPE_CHECKING:
    from magicap.decoding.prefix_trie import PrefixTrie
    from magicap.metrics.cider import TfIdf
    from magicap.models.scorer import ImageTextScorer


class CaptionMemory:
    """Distinct captions with their unit vectors; every search looks at all of them."""

    def __init__(self, texts: Sequence[str], vectors: Tensor) -> None:
        """
        Args:
            texts: N captions.
            vectors: (N, D) unit vectors, in the same order.

        Raises:
            BadSettings: no captions, or not as many vectors.
        """
        if not texts or len(texts) != len(vectors):
            raise BadSettings(
                f"a memory needs one vector a caption; found {len(texts)} captions, {len(vectors)} vectors"
            )
        self.texts = list(texts)
        self.vectors = vectors

    @classmethod
    def from_texts(cls, scorer: ImageTextScorer, texts: Sequence[str]) -> CaptionMemory:
        """Encode captions with a scorer; a caption that stands twice is kept once."""
        distinct = list(dict.fromkeys(texts))
        return cls(distinct, scorer.encode_texts(distinct))

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        digest = hashlib.blake2b("\n".join(self.texts).encode(errors="surrogatepass"), digest_size=4)
        return f"CaptionMemory({len(self)} captions, {digest.hexdigest()})"

    def nearest(self, queries: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """The captions most like each query, best first; of equals the earlier.

        Args:
            queries: (B, D) unit vectors of pictures or texts.

        Raises:
            BadSettings: the memory was encoded by a scorer of another width.

        Returns:
            Cosines (B, count) and positions in :attr:`texts` (B, count).
        """
        if queries.shape[1] != self.vectors.shape[1]:
            raise BadSettings(
                f"this memory holds vectors of width {self.vectors.shape[1]}, the pictures' are of width "
                f"{queries.shape[1]}: encode the memory with the captioner's own scorer"
            )
        cosine = queries @ self.vectors.T
        order = (
            cosine.sort(dim=1, descending=True, stable=True) if count > 1 else cosine.max(dim=1, keepdim=True)
        )
        return order.values[:, :count], order.indices[:, :count]

    @cached_property
    def word_vectors(self) -> TfIdf:
        """The captions as n-gram vectors, each caption a document of its own; made at first use."""
        from magicap.metrics.cider import TfIdf
        from magicap.metrics.ngrams import words
        from magicap.metrics.tokenizer import PTB

        return TfIdf.of([words(PTB(text)) for text in self.texts], document=np.arange(len(self)))


@dataclass(frozen=True)
class NearestCaption:
    """Retrieval: the memory's caption that fits the picture best, in one step (CLIPRe in Su et al. 2022)."""

    memory: CaptionMemory
    """Where captions are looked up; encoded by the captioner's own scorer."""

    def search(self, trie: PrefixTrie, images: Tensor, seeds: list[int]) -> Steps:
        cosine, position = self.memory.nearest(images.to(self.memory.vectors.device))
        found = zip(position[:, 0].tolist(), cosine[:, 0].tolist(), strict=True)
        yield [(row, _retrieved(self.memory.texts[i], value)) for row, (i, value) in enumerate(found)]


@dataclass(frozen=True)
class ConsensusCaption:
    """Retrieval by consensus: of the captions nearest to the picture the one most like the others.

    "Like" is CIDEr-D, n-grams being weighed by how few captions of the memory hold them (Devlin et al. 2015,
    "Exploring Nearest Neighbor Approaches for Image Captioning").
    """

    memory: CaptionMemory
    """Where captions are looked up; encoded by the captioner's own scorer."""

    count: int = 30
    """How many of the nearest captions take part."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise BadSettings(f"count must be at least 1, found {self.count}")

    def search(self, trie: PrefixTrie, images: Tensor, seeds: list[int]) -> Steps:
        cosine, position = self.memory.nearest(images.to(self.memory.vectors.device), self.count)
        chosen = [_most_like_the_others(self.memory, row) for row in position.cpu().numpy()]
        yield [
            (row, _retrieved(self.memory.texts[int(position[row, best])], float(cosine[row, best])))
            for row, best in enumerate(chosen)
        ]


def _most_like_the_others(memory: CaptionMemory, nearest: NDArray[np.int64]) -> int:
    """Which of some captions has the largest sum of CIDEr-D with the others; of equals the first."""
    count = len(nearest)
    similarity = memory.word_vectors.similarity(np.repeat(nearest, count), np.tile(nearest, count))
    likeness = similarity.reshape(count, count)
    np.fill_diagonal(likeness, 0.0)
    return int(likeness.sum(axis=1).argmax())


def _retrieved(text: str, cosine: float) -> Step:
    return Step(text, text, -1, 0.0, 0.0, cosine, last=True)
