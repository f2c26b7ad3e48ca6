"""The captions and the n-grams of a memory's folder, written and read with limits."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from magicap.errors import BadSettings
from magicap.metrics.cider import DocumentFrequencies
from magicap.reading import LARGEST_SETTINGS, LARGEST_TEXT, gunzip, has_countless_values, read_bytes

VECTORS_FILE, NGRAMS_FILE, CAPTIONS_FILE = "vectors.safetensors", "ngrams.safetensors", "captions.json.gz"
FILES = (CAPTIONS_FILE, VECTORS_FILE, NGRAMS_FILE)

_MOST_BYTES = 500  # of a caption as JSON, on average: longer ones the scorer would not see whole


def packed_captions(texts: Sequence[str]) -> bytes:
    """Captions as :data:`CAPTIONS_FILE` holds them.

    Raises:
        BadSettings: captions of more than 500 bytes on average.
    """
    text = json.dumps(texts, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if len(text) > _most_bytes(len(texts)):
        raise BadSettings(
            f"a memory keeps captions of at most {_MOST_BYTES} bytes on average, found {len(text)} bytes "
            f"in {len(texts)}; shorten them"
        )
    return gzip.compress(text, 9, mtime=0)


def read_captions(folder: Path, count: int) -> list[str]:
    """The captions of a folder that holds so many vectors.

    Raises:
        OSError, EOFError, ValueError, zlib.error: no such file, or no such captions.
    """
    text = gunzip(read_bytes(folder / CAPTIONS_FILE, LARGEST_TEXT), _most_bytes(count))
    if has_countless_values(text):
        raise ValueError("expected a list of captions, found countless values")
    texts = json.loads(text)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("expected a list of captions")
    return texts


def write_frequencies(folder: Path, frequencies: DocumentFrequencies) -> None:
    """Write in how many captions each n-gram stands."""
    from safetensors.torch import save_file

    arrays = {"numbers": frequencies.numbers, "counts": frequencies.counts.astype("int32")}
    save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / NGRAMS_FILE)


def read_frequencies(folder: Path, documents: int) -> DocumentFrequencies:
    """In how many of so many captions each n-gram stands.

    Raises:
        OSError, KeyError, SafetensorError, ValueError: no such file, or numbers that cannot be.
    """
    from safetensors.torch import load_file

    ngrams = load_file(folder / NGRAMS_FILE)
    numbers, counts = ngrams["numbers"].numpy(), ngrams["counts"].numpy()
    if not numbers.shape == counts.shape == (numbers.size,):
        raise ValueError("expected one count an n-gram")
    if numbers.size and not (counts.min() >= 1 and counts.max() <= documents):
        raise ValueError(f"expected counts of n-grams of 1 to {documents}, found others")
    if (numbers[1:] <= numbers[:-1]).any():
        raise ValueError("expected n-grams in rising order, found others")
    return DocumentFrequencies(documents, numbers, counts)


def _most_bytes(count: int) -> int:
    """How many bytes so many captions may have as JSON."""
    return max(_MOST_BYTES * count, LARGEST_SETTINGS)
