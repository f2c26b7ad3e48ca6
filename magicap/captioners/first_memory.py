"""A memory for a pair of models that has none: captions that its language model samples at first use.

They are kept in the user's cache under the fingerprints of both models, a file a batch. Whoever is
interrupted goes on behind the last whole file, and a larger memory begins with the captions of a smaller one.

Shapes: N captions of a batch, D embedding width.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from magicap.adaptation.tuning import tune_decoding
from magicap.decoding.settings import DECODINGS, BeamMagicSearch
from magicap.errors import BadModel, BadSettings
from magicap.files import LOCK, put_in_place, write_whole
from magicap.models.fingerprint import fingerprint
from magicap.models.scorer import text_fingerprint
from magicap.retrieval.caption_memory import CaptionMemory
from magicap.retrieval.sampled_captions import BATCH, FEWEST_NEW, sample_batch
from magicap.settings_io import from_dict, to_dict

if TYPE_CHECKING:
    from magicap.models.language_model import LanguageModel
    from magicap.models.scorer import ImageTextScorer

SAMPLES = 10_000
"""Captions that are sampled where nothing else is said; on two cores GPT-2 small takes minutes."""

EXHAUSTED = "exhausted"
"""File that stands beside the batches of a model that hardly gives new captions any more."""

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Where memories of pairs of models are kept: ``MAGICAP_CACHE``, or the user's cache folder."""
    if folder := os.environ.get("MAGICAP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "magicap"


def first_memory(
    language_model: LanguageModel, scorer: ImageTextScorer, count: int = SAMPLES
) -> tuple[CaptionMemory, BeamMagicSearch]:
    """Captions of a language model with a scorer's vectors, and beam magic search calibrated on them.

    From the cache, as far as they are there; what is not is sampled, with progress on stderr.

    Args:
        count: different captions, fewer where the model hardly gives new ones.

    Raises:
        BadSettings: the language model ends no caption, or the cache cannot be written.
        BadModel: a file of the cache is damaged.
    """
    folder = cache_folder() / "memories" / _key(language_model, scorer)
    decoding_file = folder / f"decoding-{count}.json"
    texts, vectors = _kept(folder, scorer.width)
    decoding = _decoding(decoding_file)
    if decoding is not None and _is_enough(folder, texts, count):  # where nothing can be written, too
        return _memory(texts, vectors, count, scorer), decoding
    with _locked(folder):  # a second process waits, and then finds everything
        texts, vectors = _captions(language_model, scorer, count, folder)
        memory = _memory(texts, vectors, count, scorer)
        decoding = _decoding(decoding_file)
        if decoding is None:
            decoding = tune_decoding(BeamMagicSearch(), memory)
            with _explaining_writes(folder):
                write_whole(decoding_file, json.dumps(to_dict(decoding, DECODINGS)))
    return memory, decoding


def _key(language_model: LanguageModel, scorer: ImageTextScorer) -> str:
    """Fingerprints of both models; of int8 the weights are those of float32, so the precisions too."""
    parts = (
        (fingerprint(language_model.network), language_model.dtype),
        (text_fingerprint(scorer.network), scorer.dtype),
    )
    return "-".join(
        digits if dtype == torch.float32 else f"{digits}-{str(dtype).removeprefix('torch.')}"
        for digits, dtype in parts
    )


def _memory(texts: list[str], vectors: list[Tensor], count: int, scorer: ImageTextScorer) -> CaptionMemory:
    texts = texts[:count]
    normalised = F.normalize(torch.cat(vectors)[: len(texts)].float(), dim=1)
    return CaptionMemory(texts, normalised.to(scorer.device))


def _captions(
    language_model: LanguageModel, scorer: ImageTextScorer, count: int, folder: Path
) -> tuple[list[str], list[Tensor]]:
    """At least ``count`` different captions, or all that the model gives, and their vectors by batches."""
    texts, vectors = _kept(folder, scorer.width)
    if _is_enough(folder, texts, count):
        return texts, vectors
    known = dict.fromkeys(texts)
    _log.warning(
        "no memory of %s captions for these two models yet: sampling them, once; kept in %s",
        f"{count:,}",
        folder,
    )
    with tqdm(total=count, initial=len(known), unit="caption", disable=not sys.stderr.isatty()) as bar:
        while not _is_enough(folder, known, count):
            generator = torch.Generator(language_model.device).manual_seed(len(vectors))
            sampled = sample_batch(language_model, generator)
            new = [text for text in dict.fromkeys(sampled) if text not in known]
            if not known and not new:
                raise BadSettings(
                    "a memory cannot be sampled: this language model ends no caption; caption without a "
                    "memory (--no-memory, or memory=0), or tune it on captions first "
                    "(recipes/tune_language_model.py)"
                )
            with _explaining_writes(folder):
                if new:
                    encoded = scorer.encode_texts(new).cpu().half()
                    _write(folder / _name(len(vectors)), new, encoded)
                    known |= dict.fromkeys(new)
                    vectors.append(encoded)
                if len(new) < FEWEST_NEW * BATCH:
                    write_whole(folder / EXHAUSTED, "")
            bar.update(len(new))
    return list(known), vectors


def _is_enough(folder: Path, texts: Collection[str], count: int) -> bool:
    return len(texts) >= count or (len(texts) > 0 and os.path.isfile(folder / EXHAUSTED))


def _kept(folder: Path, width: int) -> tuple[list[str], list[Tensor]]:
    """The captions that are there, and their (N, D) vectors by batches, to the first that is missing."""
    texts: list[str] = []
    vectors: list[Tensor] = []
    while os.path.isfile(path := folder / _name(len(vectors))):  # false where the folder cannot be read, too
        more, encoded = _read(path, width)
        texts += more
        vectors.append(encoded)
    return texts, vectors


def _name(number: int) -> str:
    return f"{number:05}.safetensors"


def _read(path: Path, width: int) -> tuple[list[str], Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            texts, vectors = json.loads(file.metadata()["texts"]), file.get_tensor("vectors")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadModel(
            f"{path} holds no captions that can be read ({error}); remove it and try again"
        ) from error
    is_list = isinstance(texts, list) and all(isinstance(text, str) for text in texts)
    if not is_list or vectors.shape != (len(texts), width) or not vectors.is_floating_point():
        content = f"{len(texts)} captions" if is_list else "no list of captions"
        raise BadModel(
            f"{path}: expected captions, each with a vector of {width} numbers, found {content} and vectors "
            f"{tuple(vectors.shape)}; remove it and try again"
        )
    return texts, vectors


def _write(path: Path, texts: list[str], vectors: Tensor) -> None:
    """(N, D) vectors with their captions, in place once they are whole."""
    from safetensors.torch import save_file

    with put_in_place(path) as part:
        save_file({"vectors": vectors.contiguous()}, part, metadata={"texts": json.dumps(texts)})


def _decoding(path: Path) -> BeamMagicSearch | None:
    """What was calibrated before; None: nothing, or what cannot be read and is to be written anew."""
    if not os.path.isfile(path):
        return None
    try:
        decoding = from_dict(json.loads(path.read_text(encoding="utf-8")), DECODINGS)
    except (OSError, TypeError, ValueError) as error:
        _log.info("%s cannot be read (%s): calibrating anew", path, error)
        return None
    return decoding if isinstance(decoding, BeamMagicSearch) else None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make the folder, and let no other process write it meanwhile."""
    lock = FileLock(folder / LOCK)
    with _explaining_writes(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            _log.warning("waiting for another process, which samples captions into %s", folder)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explaining_writes(folder: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, BadSettings) as error:
        cause = error.__cause__ or error
        reason = getattr(cause, "strerror", None) or cause
        raise BadSettings(
            f"{folder} cannot be written ({reason}); make room, or name another cache folder in MAGICAP_CACHE"
        ) from error
