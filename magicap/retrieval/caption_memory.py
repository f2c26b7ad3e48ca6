"""A captioner's memory: captions and their unit vectors, given or sampled from its language model.

Shapes: N captions, B queries, D embedding width, R dimensions of a subspace.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Hashable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from magicap.errors import BadModel, BadSettings
from magicap.files import open_to_readers
from magicap.metrics.cider import DocumentFrequencies
from magicap.reading import (
    LARGEST_SETTINGS,
    LARGEST_TEXT,
    gunzip,
    has_countless_values,
    read_bytes,
    require_readable_model,
)
from magicap.retrieval.nearest import largest

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel
    from magicap.models.scorer import ImageTextScorer

VECTORS_FILE, NGRAMS_FILE, CAPTIONS_FILE = "vectors.safetensors", "ngrams.safetensors", "captions.json.gz"
MIN_STD = 1e-6
"""Standard deviation of cosines that are all the same."""

_MOST_BYTES = 500  # of a caption as JSON, on average: longer ones the scorer would not see whole
_STEPS = {8: 127, 4: 7}  # of a number's bits on disk -> steps on either side of zero
_UNREADABLE = (
    OSError,
    EOFError,
    MemoryError,
    ValueError,
    KeyError,
    RuntimeError,
    BadSettings,
    SafetensorError,
    zlib.error,
)


class CaptionMemory:
    """Distinct captions with their unit vectors; every search looks at all of them.

    Vectors may lie in a subspace (:meth:`reduced`): they are then kept as coordinates along its axes.

    Attributes:
        texts: N captions.
        coordinates: (N, R) unit vectors along the axes.
        axes: (R, D) orthonormal; None: the coordinates are the vectors themselves.
        bits: in how many a coordinate is written to disk, 8 or 4.
    """

    def __init__(
        self,
        texts: Sequence[str],
        vectors: Tensor,
        document_frequencies: DocumentFrequencies | None = None,
        *,
        bits: int = 8,
        axes: Tensor | None = None,
    ) -> None:
        """
        Args:
            texts: N captions.
            vectors: (N, D) unit vectors, in the same order; with axes, (N, R) coordinates along them.
            document_frequencies: in how many of the captions each n-gram stands; None: counted at first use.
            bits: in how many a coordinate is written to disk, 8 or 4.
            axes: (R, D) orthonormal, of the subspace that the vectors lie in; None: the whole space.

        Raises:
            BadSettings: no captions, not as many vectors, other axes, or another number of bits.
        """
        if bits not in _STEPS:
            raise BadSettings(f"a memory's vectors are written in 8 or 4 bits a number, found {bits!r}")
        if not texts or len(texts) != len(vectors):
            raise BadSettings(
                f"a memory needs one vector a caption; found {len(texts)} captions, {len(vectors)} vectors"
            )
        if axes is not None and (axes.ndim != 2 or len(axes) != vectors.shape[1]):
            raise BadSettings(
                f"a memory needs one axis for each of {vectors.shape[1]} coordinates, "
                f"found axes {tuple(axes.shape)}"
            )
        self.texts = list(texts)
        self.coordinates, self.axes, self.bits = vectors, axes, bits
        if document_frequencies is not None:
            self.document_frequencies = document_frequencies
        self._part: tuple[Hashable, CaptionMemory] | None = None

    @classmethod
    def from_texts(
        cls,
        scorer: ImageTextScorer,
        texts: Sequence[str],
        *,
        on_progress: Callable[[int], object] = lambda count: None,
    ) -> CaptionMemory:
        """Encode captions with a scorer; a caption that stands twice is kept once.

        Args:
            on_progress: called with how many more are encoded.
        """
        distinct = list(dict.fromkeys(texts))
        return cls(distinct, scorer.encode_texts(distinct, on_progress=on_progress))

    def with_texts(self, scorer: ImageTextScorer, texts: Sequence[str]) -> CaptionMemory:
        """A memory of these captions and of others; those that it holds already are not encoded again."""
        held = set(self.texts)
        added = [text for text in dict.fromkeys(texts) if text not in held]
        coordinates = self._along_axes(scorer.encode_texts(added).to(self.coordinates))
        coordinates = torch.cat([self.coordinates, F.normalize(coordinates, dim=1)])
        return CaptionMemory([*self.texts, *added], coordinates, bits=self.bits, axes=self.axes)

    def reduced(self, width: int) -> CaptionMemory:
        """The same captions with vectors in the subspace along which they vary most, of length one again.

        Args:
            width: R, dimensions of the subspace, at most D.
        """
        vectors = self.vectors
        _, axes = torch.linalg.eigh((vectors.T @ vectors).double())  # (D, D), the largest last
        axes = axes[:, -width:].T.flip(0).to(vectors)
        coordinates = F.normalize(vectors @ axes.T, dim=1)
        return CaptionMemory(self.texts, coordinates, self.document_frequencies, bits=self.bits, axes=axes)

    @property
    def width(self) -> int:
        """D, of the scorer that encoded the captions."""
        return int((self.coordinates if self.axes is None else self.axes).shape[1])

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self.coordinates.device

    @property
    def vectors(self) -> Tensor:
        """(N, D) unit vectors of all captions; computed anew where the memory is reduced."""
        return self.coordinates if self.axes is None else self.coordinates @ self.axes

    def vectors_at(self, positions: Tensor) -> Tensor:
        """(..., D) unit vectors of the captions at some positions (...)."""
        coordinates = self.coordinates[positions]
        return coordinates if self.axes is None else coordinates @ self.axes

    def cosines(self, queries: Tensor) -> Tensor:
        """(B, N) of unit vectors (B, D) with all captions.

        Raises:
            BadSettings: the memory was encoded by a scorer of another width.
        """
        if queries.shape[1] != self.width:
            raise BadSettings(
                f"this memory holds vectors of width {self.width}, the pictures' are of width "
                f"{queries.shape[1]}: encode the memory with the captioner's own scorer"
            )
        return self._along_axes(queries) @ self.coordinates.T

    def _along_axes(self, vectors: Tensor) -> Tensor:
        return vectors if self.axes is None else vectors @ self.axes.T

    @classmethod
    def from_language_model(
        cls,
        language_model: LanguageModel,
        scorer: ImageTextScorer,
        count: int,
        *,
        temperature: float = 0.8,
        seed: int = 0,
        on_progress: Callable[[int], object] = lambda count: None,
    ) -> CaptionMemory:
        """Captions that the unconditioned language model samples: a memory that needs no text.

        Args:
            count: how many different captions; fewer where the model hardly gives new ones.
            temperature, seed: see :func:`magicap.retrieval.sampled_captions.sample_captions`.
            on_progress: called with how many more are sampled, then with how many more are encoded.

        Raises:
            BadSettings: the language model never ends a caption.
        """
        from magicap.retrieval.sampled_captions import sample_captions

        texts = sample_captions(
            language_model, count, temperature=temperature, seed=seed, on_progress=on_progress
        )
        return cls.from_texts(scorer, texts, on_progress=on_progress)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> CaptionMemory:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            BadModel: a file is missing or damaged.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            require_readable_model(folder)
            stored = load_file(folder / VECTORS_FILE)
            bits = 4 if "nibbles" in stored else 8
            steps = _unpacked(stored["nibbles"]) if bits == 4 else stored["vectors"]
            if steps.ndim != 2:
                raise ValueError(f"expected vectors (N, D), found {tuple(steps.shape)}")
            texts = _read_captions(folder / CAPTIONS_FILE, len(steps))
            vectors = steps.float()
            vectors = vectors.div_(vectors.norm(dim=1, keepdim=True).clamp_min(1e-12)).to(device)
            axes = stored["axes"].float().to(device) if "axes" in stored else None
            frequencies = _read_frequencies(folder / NGRAMS_FILE, len(texts))
            return cls(texts, vectors, frequencies, bits=bits, axes=axes)
        except _UNREADABLE as error:
            raise BadModel(f"{folder} holds no caption memory that can be read: {error}") from error

    def save_pretrained(self, folder: str | Path) -> None:
        """Write captions, vectors and n-grams.

        Cosines change by 0.001 where a coordinate has eight bits, by 0.015 where it has four.

        Raises:
            BadSettings: captions of more than 500 bytes on average.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        text = json.dumps(self.texts, ensure_ascii=False).encode("utf-8", "surrogatepass")
        if len(text) > _most_bytes(len(self)):
            raise BadSettings(
                f"a memory keeps captions of at most {_MOST_BYTES} bytes on average, found {len(text)} bytes "
                f"in {len(self)}; shorten them"
            )
        folder.mkdir(parents=True, exist_ok=True)
        peaks = self.coordinates.abs().amax(dim=1, keepdim=True)
        steps = (self.coordinates / peaks * _STEPS[self.bits]).round().to(torch.int8).cpu().contiguous()
        stored = {"vectors": steps} if self.bits == 8 else {"nibbles": _packed(steps)}
        if self.axes is not None:
            stored["axes"] = self.axes.half().cpu().contiguous()
        save_file(stored, folder / VECTORS_FILE)
        ngrams = {
            "numbers": self.document_frequencies.numbers,
            "counts": self.document_frequencies.counts.astype("int32"),
        }
        save_file({name: torch.from_numpy(array) for name, array in ngrams.items()}, folder / NGRAMS_FILE)
        (folder / CAPTIONS_FILE).write_bytes(gzip.compress(text, 9, mtime=0))
        open_to_readers(folder)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"CaptionMemory({len(self)} captions, {self._digest})"

    @cached_property
    def _digest(self) -> str:
        text = "\n".join(self.texts).encode(errors="surrogatepass")
        return hashlib.blake2b(text, digest_size=4).hexdigest()

    def nearest(self, queries: Tensor, count: int = 1) -> tuple[Tensor, Tensor]:
        """The captions most like each query, best first; of equals the earlier, but for the last place.

        Args:
            queries: (B, D) unit vectors of pictures or texts.

        Raises:
            BadSettings: the memory was encoded by a scorer of another width.

        Returns:
            Cosines (B, count) and positions in :attr:`texts` (B, count).
        """
        return largest(self.cosines(queries), count)

    def where(self, holds: Callable[[str], bool], *, key: Hashable, asked: str) -> CaptionMemory:
        """The captions for which a predicate holds.

        Args:
            key: stands for the predicate; the result for the last key is kept.
            asked: the predicate as the end of a sentence about captions, for the error.

        Raises:
            BadSettings: there are none.
        """
        if self._part is None or self._part[0] != key:
            kept = [number for number, text in enumerate(self.texts) if holds(text)]
            if not kept:
                raise BadSettings(f"none of the {len(self)} captions of the memory {asked}")
            texts, coordinates = [self.texts[number] for number in kept], self.coordinates[kept]
            frequencies = self.document_frequencies
            part = CaptionMemory(texts, coordinates, frequencies, bits=self.bits, axes=self.axes)
            self._part = key, part
        return self._part[1]

    @cached_property
    def document_frequencies(self) -> DocumentFrequencies:
        """In how many of the captions each n-gram stands."""
        return DocumentFrequencies.of_texts(self.texts)


def _packed(steps: Tensor) -> Tensor:
    """Numbers of -7 to 7 (N, D), D even, two a byte (N, D / 2): [[1, -1, 0, 7]] becomes [[0x79, 0xF8]].

    Eight is added; the first of two numbers has the lower four bits.
    """
    if steps.shape[1] % 2:
        raise BadSettings(f"vectors of four bits a number need an even width, found {steps.shape[1]}")
    above = (steps + 8).to(torch.uint8)
    return (above[:, 0::2] | above[:, 1::2] << 4).contiguous()


def _unpacked(nibbles: Tensor) -> Tensor:
    """What :func:`_packed` packed: numbers (N, D) as int8."""
    return torch.stack([nibbles & 15, nibbles >> 4], dim=-1).flatten(1).to(torch.int8) - 8


def _most_bytes(count: int) -> int:
    """How many bytes so many captions may have as JSON."""
    return max(_MOST_BYTES * count, LARGEST_SETTINGS)


def _read_captions(path: Path, count: int) -> list[str]:
    text = gunzip(read_bytes(path, LARGEST_TEXT), _most_bytes(count))
    if has_countless_values(text):
        raise ValueError("expected a list of captions, found countless values")
    texts = json.loads(text)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("expected a list of captions")
    return texts


def _read_frequencies(path: Path, documents: int) -> DocumentFrequencies:
    from safetensors.torch import load_file

    ngrams = load_file(path)
    numbers, counts = ngrams["numbers"].numpy(), ngrams["counts"].numpy()
    if not numbers.shape == counts.shape == (numbers.size,):
        raise ValueError("expected one count an n-gram")
    return DocumentFrequencies(documents, numbers, counts)
