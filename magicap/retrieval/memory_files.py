"""The captions and the n-grams of a memory's folder, written and read with limits."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from magicap.errors import BadSettings
from magicap.metrics.cider import DocumentFrequencies
from magicap.packed_texts import PackedTexts, Vocabulary
from magicap.reading import LARGEST_SETTINGS, LARGEST_TEXT, gunzip, has_countless_values, read_bytes

VECTORS_FILE, NGRAMS_FILE, CAPTIONS_FILE = "vectors.safetensors", "ngrams.safetensors", "captions.gz"
FORMER_CAPTIONS_FILE = "captions.json.gz"
"""Up to version 0.1: a list of strings."""

_MOST_BYTES = 500  # of a caption as it is written, on average: longer ones the scorer would not see whole


def files_of(folder: Path) -> tuple[str, str, str]:
    """The files of a memory's folder: those that are written today, or those of earlier versions."""
    former = not (folder / CAPTIONS_FILE).exists() and (folder / FORMER_CAPTIONS_FILE).exists()
    return FORMER_CAPTIONS_FILE if former else CAPTIONS_FILE, VECTORS_FILE, NGRAMS_FILE


def packed_captions(texts: PackedTexts) -> bytes:
    """Captions as :data:`CAPTIONS_FILE` holds them, gzipped: words as a line of JSON, then their numbers.

    Numbers are little-endian, of two bytes where these suffice and else of four; 0 ends a caption, and word i
    is i + 1.

    Raises:
        BadSettings: captions of more than 500 bytes on average.
    """
    words = json.dumps(texts.vocabulary.words, ensure_ascii=False).encode("utf-8", "surrogatepass")
    numbers = np.insert(texts.numbers.astype(np.int64) + 1, texts.starts[1:], 0)
    content = words + b"\n" + numbers.astype(_number_type(len(texts.vocabulary))).tobytes()
    if len(content) > _most_bytes(len(texts)):
        raise BadSettings(
            f"a memory keeps captions of at most {_MOST_BYTES} bytes on average, found {len(content)} bytes "
            f"in {len(texts)}; shorten them"
        )
    return gzip.compress(content, 9, mtime=0)


def read_captions(folder: Path, count: int) -> PackedTexts:
    """The captions of a folder that holds so many vectors.

    Raises:
        OSError, EOFError, ValueError, zlib.error: no such file, or no such captions.
    """
    file = files_of(folder)[0]
    content = gunzip(read_bytes(folder / file, LARGEST_TEXT), _most_bytes(count))
    if file == FORMER_CAPTIONS_FILE:
        return PackedTexts.of(_strings(content))
    line, _, packed = content.partition(b"\n")
    words = _strings(line)
    numbers = np.frombuffer(packed, dtype=_number_type(len(words)))
    ends = np.flatnonzero(numbers == 0)
    if not len(numbers) or numbers[-1] != 0 or numbers.max() > len(words):
        raise ValueError(f"expected numbers of {len(words)} words, found others, or a caption without an end")
    starts = np.concatenate([[0], ends + 1]) - np.arange(len(ends) + 1)
    return PackedTexts(Vocabulary(words), np.delete(numbers, ends) - numbers.dtype.type(1), starts)


def _strings(content: bytes) -> list[str]:
    """A list of strings as JSON."""
    if has_countless_values(content):
        raise ValueError("expected a list of captions, found countless values")
    texts = json.loads(content)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("expected a list of captions")
    return texts


def _number_type(words: int) -> np.dtype[Any]:
    return np.dtype("<u2" if words + 1 < 2**16 else "<u4")


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
