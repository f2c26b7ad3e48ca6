"""A captioner's memory: captions and their unit vectors, given or sampled from its language model.

Shapes: N captions, B queries, D embedding width, R dimensions of a subspace.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from magicap.models.scorer import text_fingerprint
from magicap.packed_texts import PackedTexts
from magicap.reading import require_readable_model
from magicap.retrieval.memory_files import (
    CAPTIONS_FILE,
    FORMER_CAPTIONS_FILE,
    VECTORS_FILE,
    files_of,
    packed_captions,
    read_captions,
    read_frequencies,
    write_frequencies,
)
from magicap.retrieval.memory_record import MemoryRecord
from magicap.retrieval.nearest import largest
from magicap.retrieval.quantisation import STEPS, packed, quantised, unpacked
from magicap.retrieval.stored_vectors import StoredVectors, require_unit_vectors

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel
    from magicap.models.scorer import ImageTextScorer

MIN_STD = 1e-6
"""Standard deviation of cosines that are all the same."""

_PROBES = 16  # captions that are encoded anew to tell whether a scorer encoded a memory
_SAME = 0.97  # least cosine of a caption's two vectors as written; two trainings of one tower differ by more
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
        texts: N captions, packed; they read like a list of strings.
        axes: (R, D) orthonormal; None: the coordinates are the vectors themselves.
        bits: in how many a coordinate is written to disk, 8 or 4.
        text_tower: fingerprint of the text tower in float32 that encoded the captions; None: not known.
        digest: of the files that it was read from; None: of none that have one.
        source: what errors call it: the folder that it was read from.

    Args:
        texts: N captions.
        vectors: (N, D) unit vectors, in the same order; with axes, (N, R) coordinates along them.
        document_frequencies: in how many of the captions each n-gram stands; None: counted at first use.
        bits: in how many a coordinate is written to disk, 8 or 4.
        axes: (R, D) orthonormal, of the subspace that the vectors lie in; None: the whole space.

    Raises:
        BadSettings: no captions, not as many vectors, some of another length than one, other axes, or
            another number of bits.
    """

    text_tower: str | None = None
    digest: str | None = None
    source: str = "this memory"

    def __init__(
        self,
        texts: Sequence[str],
        vectors: Tensor | StoredVectors,
        document_frequencies: DocumentFrequencies | None = None,
        *,
        bits: int = 8,
        axes: Tensor | None = None,
    ) -> None:
        if bits not in STEPS:
            raise BadSettings(f"a memory's vectors are written in 8 or 4 bits a number, found {bits!r}")
        if not texts or len(texts) != len(vectors):
            raise BadSettings(
                f"a memory needs one vector a caption; found {len(texts)} captions, {len(vectors)} vectors"
            )
        stored = vectors if isinstance(vectors, StoredVectors) else StoredVectors.of("vectors", vectors)
        if axes is not None and (axes.ndim != 2 or len(axes) != stored.width):
            raise BadSettings(
                f"a memory needs one axis for each of {stored.width} coordinates, "
                f"found axes {tuple(axes.shape)}"
            )
        if axes is not None:
            require_unit_vectors("axes of vectors", axes)
        self.texts = PackedTexts.of(texts)
        self._stored, self.axes, self.bits = stored, axes, bits
        if document_frequencies is not None:
            self.document_frequencies = document_frequencies
        self._part: tuple[Hashable, CaptionMemory] | None = None
        self._texts_digest: str | None = None

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
        memory = cls(distinct, scorer.encode_texts(distinct, on_progress=on_progress))
        if scorer.dtype == torch.float32:
            memory.text_tower = text_fingerprint(scorer.network)
        return memory

    @torch.inference_mode()
    def require_encoded_by(self, scorer: ImageTextScorer) -> None:
        """Refuse the memory of another scorer, and one whose captions and vectors do not belong together.

        The fingerprints of the text towers decide, where both are known; else a few captions are encoded
        anew.

        Raises:
            BadModel: it is refused.
        """
        # int8 is made of weights in float32, whose fingerprint tells as much
        known = self.text_tower is not None and scorer.dtype in (torch.float32, torch.int8)
        if known and self.text_tower == text_fingerprint(scorer.network):
            return
        if known or scorer.width != self.width or not self._has_vectors_of(scorer):
            raise BadModel(
                f"{self.source}: expected captions that the captioner's own scorer encoded, found vectors of "
                "another scorer, or damaged or reordered ones; encode the captions with this scorer "
                "(CaptionMemory.from_texts)"
            )

    def _has_vectors_of(self, scorer: ImageTextScorer) -> bool:
        """Whether a scorer gives captions from the whole memory the vectors that they have here."""
        positions = torch.linspace(0, len(self) - 1, min(_PROBES, len(self))).long().tolist()
        encoded = scorer.encode_texts([self.texts[position] for position in positions])
        # Both as written to disk, or rounding to four bits would look like another scorer.
        expected = quantised(self._along_axes(encoded.float().to(self.device)), self.bits)
        same = F.cosine_similarity(expected, quantised(self._stored.at(positions), self.bits))
        return bool((same >= _SAME).all())

    def with_texts(self, scorer: ImageTextScorer, texts: Sequence[str]) -> CaptionMemory:
        """A memory of these captions and of others; those that it holds already are not encoded again."""
        held = set(self.texts)
        added = [text for text in dict.fromkeys(texts) if text not in held]
        coordinates = self._along_axes(scorer.encode_texts(added).float().to(self.device))
        coordinates = torch.cat([self.coordinates, F.normalize(coordinates, dim=1)])
        return self._alike([*self.texts, *added], coordinates)

    def reduced(self, width: int) -> CaptionMemory:
        """The same captions with vectors in the subspace along which they vary most, of length one again.

        Args:
            width: R, dimensions of the subspace, at most D.
        """
        vectors = self.vectors
        _, axes = torch.linalg.eigh((vectors.T @ vectors).double())  # (D, D), the largest last
        axes = axes[:, -width:].T.flip(0).to(vectors)
        coordinates = F.normalize(vectors @ axes.T, dim=1)
        reduced = CaptionMemory(self.texts, coordinates, self.document_frequencies, bits=self.bits, axes=axes)
        reduced.text_tower = self.text_tower
        return reduced

    @property
    def width(self) -> int:
        """D, of the scorer that encoded the captions."""
        return self._stored.width if self.axes is None else int(self.axes.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return self._stored.device

    @property
    def coordinates(self) -> Tensor:
        """(N, R) unit vectors along the axes; computed anew where they are held in few bits."""
        return self._stored.all()

    @property
    def vectors(self) -> Tensor:
        """(N, D) unit vectors of all captions; computed anew where the memory is reduced."""
        return self.coordinates if self.axes is None else self.coordinates @ self.axes

    def vectors_at(self, positions: Tensor) -> Tensor:
        """(..., D) unit vectors of the captions at some positions (...)."""
        coordinates = self._stored.at(positions)
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
        return self._stored.products(self._along_axes(queries))

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
            BadModel: a file is missing or damaged, vectors are not of length one, or the files are not those
                that were written together.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        with ThreadPoolExecutor(1, "magicap-digest") as beside:
            try:
                require_readable_model(folder)
                record = beside.submit(MemoryRecord.read, folder, files_of(folder))  # while the rest is read
                stored = load_file(folder / VECTORS_FILE)
                bits = 4 if "nibbles" in stored else 8
                steps = unpacked(stored["nibbles"]) if bits == 4 else stored["vectors"]
                if steps.ndim != 2 or steps.dtype != torch.int8:
                    raise ValueError(
                        f"expected vectors (N, D), int8, found {tuple(steps.shape)}, {steps.dtype}"
                    )
                texts = read_captions(folder, len(steps))
                vectors = StoredVectors.of_steps("vectors", steps).to(device)
                axes = stored["axes"].float().to(device) if "axes" in stored else None
                frequencies = read_frequencies(folder, len(texts))
                memory = cls(texts, vectors, frequencies, bits=bits, axes=axes)
            except _UNREADABLE as error:
                raise BadModel(f"{folder} holds no caption memory that can be read: {error}") from error
        memory.source = str(folder)
        known = record.result()
        memory.text_tower, memory.digest, memory._texts_digest = known.text_tower, known.digest, known.texts
        return memory

    def save_pretrained(self, folder: str | Path, *, text_tower: str | None = None) -> str:
        """Write captions, vectors and n-grams, and of what they are.

        Cosines change by 0.001 where a coordinate has eight bits, by 0.015 where it has four.

        Args:
            text_tower: fingerprint of the text tower that goes along, where its weights are stored in fewer
                bits; None: that of :attr:`text_tower`.

        Returns:
            The digest of the files.

        Raises:
            BadSettings: captions of more than 500 bytes on average.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        captions = packed_captions(self.texts)  # first: it may refuse
        folder.mkdir(parents=True, exist_ok=True)
        steps = quantised(self.coordinates, self.bits).to(torch.int8).cpu().contiguous()
        stored = {"vectors": steps} if self.bits == 8 else {"nibbles": packed(steps)}
        if self.axes is not None:
            stored["axes"] = self.axes.half().cpu().contiguous()
        save_file(stored, folder / VECTORS_FILE)
        write_frequencies(folder, self.document_frequencies)
        (folder / CAPTIONS_FILE).write_bytes(captions)
        (folder / FORMER_CAPTIONS_FILE).unlink(missing_ok=True)
        open_to_readers(folder)
        return MemoryRecord.write(folder, files_of(folder), text_tower or self.text_tower, self._digest)

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"CaptionMemory({len(self)} captions, {self._digest})"

    @property
    def _digest(self) -> str:
        """Eight digits that tell these captions from any others."""
        if self._texts_digest is None:
            text = "\n".join(self.texts).encode(errors="surrogatepass")
            self._texts_digest = hashlib.blake2b(text, digest_size=4).hexdigest()
        return self._texts_digest

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
            texts, coordinates = self.texts.select(kept), self._stored.select(kept)
            self._part = key, self._alike(texts, coordinates, self.document_frequencies)
        return self._part[1]

    def _alike(
        self,
        texts: Sequence[str],
        coordinates: Tensor | StoredVectors,
        frequencies: DocumentFrequencies | None = None,
    ) -> CaptionMemory:
        """A memory of other captions, in the same subspace and by the same text tower."""
        memory = CaptionMemory(texts, coordinates, frequencies, bits=self.bits, axes=self.axes)
        memory.text_tower, memory.source = self.text_tower, self.source
        return memory

    @cached_property
    def document_frequencies(self) -> DocumentFrequencies:
        """In how many of the captions each n-gram stands."""
        return DocumentFrequencies.of_texts(self.texts)
