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
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from filelock import FileLock
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
    digits = f"{fingerprint(language_model.network)}-{text_fingerprint(scorer.network)}"
    folder = cache_folder() / "memories" / digits
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK):  # a second process waits, and then finds everything
            texts, vectors = _captions(language_model, scorer, count, folder)
            memory = CaptionMemory(texts, vectors.to(scorer.device))
            return memory, _calibrated(memory, folder / f"decoding-{count}.json")
    except OSError as error:
        raise BadSettings(
            f"{folder} cannot be written ({error.strerror or error}); name another cache folder in "
            "MAGICAP_CACHE"
        ) from error


def _captions(
    language_model: LanguageModel, scorer: ImageTextScorer, count: int, folder: Path
) -> tuple[list[str], Tensor]:
    """The first ``count`` different captions, and their vectors (count, D)."""
    known: dict[str, None] = {}
    vectors: list[Tensor] = []
    for number in _batches(folder):
        texts, encoded = _read(folder / _name(number))
        known |= dict.fromkeys(texts)
        vectors.append(encoded)
    if len(known) < count:
        _log.warning(
            "no memory of %s captions for these two models yet: sampling them, once; kept in %s",
            f"{count:,}",
            folder,
        )
    with tqdm(
        total=count, initial=min(count, len(known)), unit="caption", disable=not sys.stderr.isatty()
    ) as bar:
        while len(known) < count:
            generator = torch.Generator(language_model.device).manual_seed(len(vectors))
            sampled = sample_batch(language_model, generator)
            new = [text for text in dict.fromkeys(sampled) if text not in known]
            if len(new) < FEWEST_NEW * BATCH:
                break
            encoded = scorer.encode_texts(new).cpu().half()
            _write(folder / _name(len(vectors)), new, encoded)
            known |= dict.fromkeys(new)
            vectors.append(encoded)
            bar.update(len(new))
    if not known:
        raise BadSettings(
            "a memory cannot be sampled: this language model ends no caption; caption without a memory "
            "(--no-memory, or memory=0), or tune it on captions first (recipes/tune_language_model.py)"
        )
    texts = list(known)[:count]
    return texts, F.normalize(torch.cat(vectors)[: len(texts)].float(), dim=1)


def _batches(folder: Path) -> range:
    """The numbers of the batches that are there, from the first on without a gap."""
    number = 0
    while (folder / _name(number)).is_file():
        number += 1
    return range(number)


def _name(number: int) -> str:
    return f"{number:05}.safetensors"


def _read(path: Path) -> tuple[list[str], Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["texts"]), file.get_tensor("vectors")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadModel(
            f"{path} holds no captions that can be read ({error}); remove it and try again"
        ) from error


def _write(path: Path, texts: list[str], vectors: Tensor) -> None:
    """(N, D) vectors with their captions, in place once they are whole."""
    from safetensors.torch import save_file

    with put_in_place(path) as part:
        save_file({"vectors": vectors.contiguous()}, part, metadata={"texts": json.dumps(texts)})


def _calibrated(memory: CaptionMemory, path: Path) -> BeamMagicSearch:
    """Beam magic search as it suits a memory, from the file where it was found before."""
    if path.is_file():
        decoding: BeamMagicSearch = from_dict(json.loads(path.read_text(encoding="utf-8")), DECODINGS)
        return decoding
    decoding = tune_decoding(BeamMagicSearch(), memory)
    write_whole(path, json.dumps(to_dict(decoding, DECODINGS)))
    return decoding
