"""Put a tuned language model and a trained scorer into one captioner folder, ready for ``--preset FOLDER``.

    python recipes/assemble_captioner.py --language_model runs/language_model/best \\
        --scorer runs/scorer/best --out magicap/embedded --dtype float16 --memory_samples 100000

A second run of a command that was stopped goes on: what the language model sampled and what is encoded so far
lies in <out>/assembling until the captioner is there. A README.md that lies in the folder (the model card) is
left as it is. --parts writes some of the parts alone, without settings: what a preset that takes its other
parts from another folder stores.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from cli import run
from tqdm import tqdm

from magicap import BeamMagicSearch, Captioner, CaptionMemory, ImageTextScorer, LanguageModel, MagicSearch
from magicap.captioners.folder import as_device, as_dtype
from magicap.captioners.presets import DEFAULT
from magicap.captioners.saving import put_folder_in_place
from magicap.captioners.sources import FINE_GRAINED, LANGUAGE_MODEL, MEMORY, SCORER
from magicap.data import read_sentences
from magicap.errors import BadSettings
from magicap.models.fingerprint import fingerprint
from magicap.retrieval.sampled_captions import sample_captions
from magicap.training.phases import digest, load_or_compute, load_or_write

PARTS = (LANGUAGE_MODEL, SCORER, MEMORY)

KEPT = "assembling"
"""Folder, in the new captioner's, of what takes long, until the captioner is there."""

BLOCK = 20_000
"""Captions whose vectors are kept in one file."""


@dataclass(frozen=True)
class Config:
    scorer: str
    """Scorer to put in: a folder, an hf-hub: id or a name of open_clip."""

    out: str
    """Folder of the new captioner."""

    language_model: str | None = None
    """Folder or hub id of a causal language model, with its soft prompt if it has one; default: the language
    model of --base without its soft prompt."""

    base: str = DEFAULT
    """Preset or folder of the captioner whose language model is taken where --language_model names none."""

    scorer_tag: str | None = None
    """Tag of the weights for open_clip, where --scorer is a name."""

    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Precision of the stored weights."""

    memory_samples: int = 0
    """Number of captions that the language model samples for the memory."""

    sampling_temperature: float = 0.8
    """Temperature at which these captions are sampled; above 0."""

    memory_text: list[str] = field(default_factory=list)
    """Text files or data sets (train split) whose captions go into the memory."""

    memory_of: str | None = None
    """Preset or folder of a captioner whose memory is taken too."""

    memory_of_size: int | None = None
    """The most captions that are taken of the memory of --memory_of, its first; default: all."""

    memory_size: int | None = None
    """The most captions that are taken of --memory_text, chosen at random; default: all."""

    memory_held_out: list[str] = field(default_factory=list)
    """Data sets whose dev, val and test captions are left out of the memory, word for word."""

    memory_bits: Literal[8, 4] = 8
    """Bits of a number of the memory's vectors on disk."""

    memory_width: int | None = None
    """Dimensions of the subspace that the memory's vectors are reduced to; default: all."""

    neighbours: int = BeamMagicSearch.neighbours
    """Number of captions of the memory that are the evidence of a picture."""

    temperature: float = BeamMagicSearch.temperature
    """Temperature of the evidence's weights, in standard deviations of its cosines."""

    ngram_weight: float = BeamMagicSearch.ngram_weight
    """Weight of the retrieval n-gram model of the evidence in the probability of a next token, 0 to 1."""

    rerank_weight: float = BeamMagicSearch.rerank_weight
    """Weight of the picture when the caption is chosen: what a cosine of one is worth in points of expected
    CIDEr-D, 0 to 10."""

    rerank_top: int | None = BeamMagicSearch.rerank_top
    """Number of captions, those with the largest expected utility, that are re-ranked by the picture."""

    seed: int = 1
    """Seed of the sampled captions and of the choice of text."""

    top_k: int = MagicSearch.top_k
    """Number of most probable next tokens that compete in magic search, for a captioner without a memory."""

    alpha: float = MagicSearch.alpha
    """Weight of the degeneration penalty in magic search, 0 to 1, for a captioner without a memory."""

    beta: float = MagicSearch.beta
    """Weight of the picture in magic search, for a captioner without a memory."""

    max_new_tokens: int = MagicSearch.max_new_tokens
    """Longest caption in tokens."""

    fine_grained: str | None = None
    """Folder of a fine-grained scorer that goes into the captioner's folder; it must have been trained on the
    scorer as it is stored there."""

    parts: list[str] = field(default_factory=list)
    """Parts to write, of language_model, scorer and memory, without settings; default: a whole captioner."""

    cpu: bool = False
    """Stay on the CPU even where a GPU is at hand."""

    @property
    def device(self) -> torch.device:
        """Where captions are sampled and encoded."""
        return as_device("cpu" if self.cpu else None)

    def __post_init__(self) -> None:
        if unknown := set(self.parts) - set(PARTS):
            raise BadSettings(f"--parts are some of {', '.join(PARTS)}, found {min(unknown)!r}")
        if self.parts and self.fine_grained is not None:
            raise BadSettings("--fine_grained goes into a whole captioner: leave --parts out")


def main(config: Config) -> None:
    scorer = ImageTextScorer.from_pretrained(config.scorer, config.scorer_tag, device=config.device)
    if config.parts:
        write_parts(config, scorer)
    else:
        write_captioner(config, scorer)
    shutil.rmtree(Path(config.out, KEPT), ignore_errors=True)


def write_captioner(config: Config, scorer: ImageTextScorer) -> None:
    """The whole captioner, with the settings of its search."""
    captioner = Captioner(language_model(config), scorer)
    captioner.memory = memory(config, scorer, captioner.language_model)
    captioner.decoding = decoding(
        config,
        has_memory=captioner.memory is not None,
        soft_prompt=captioner.language_model.soft_prompt is not None,
    )
    captioner.save_pretrained(config.out, dtype=config.dtype, fine_grained=config.fine_grained)


def decoding(config: Config, *, has_memory: bool, soft_prompt: bool) -> MagicSearch | BeamMagicSearch:
    """Beam magic search where there is a memory, magic search where there is none.

    Args:
        soft_prompt: whether the language model has one, which beam magic search then uses.
    """
    if not has_memory:
        return MagicSearch(config.top_k, config.alpha, config.beta, config.max_new_tokens)
    return BeamMagicSearch(
        neighbours=config.neighbours,
        temperature=config.temperature,
        ngram_weight=config.ngram_weight,
        rerank_weight=config.rerank_weight,
        rerank_top=config.rerank_top,
        max_new_tokens=config.max_new_tokens,
        soft_prompt=soft_prompt,
    )


def write_parts(config: Config, scorer: ImageTextScorer) -> None:
    """The parts of --parts alone; a language model is loaded only where it is one, or samples captions."""
    words = language_model(config) if LANGUAGE_MODEL in config.parts or config.memory_samples else None
    captions = memory(config, scorer, words) if MEMORY in config.parts else None
    if captions is None and MEMORY in config.parts:
        raise BadSettings(
            "--parts memory needs captions: give --memory_text, --memory_of or --memory_samples"
        )
    dtype = as_dtype(config.dtype)
    with put_folder_in_place(config.out, [*PARTS, FINE_GRAINED]) as new:
        if SCORER in config.parts:
            scorer.save_pretrained(new / SCORER, dtype=dtype)
        if captions is not None:
            captions.save_pretrained(new / MEMORY)
        if words is not None and LANGUAGE_MODEL in config.parts:
            words.save_pretrained(new / LANGUAGE_MODEL, dtype=dtype)


def language_model(config: Config) -> LanguageModel:
    """That of the options; a base's without its soft prompt, which reads only the base's scorer."""
    if config.language_model is not None:
        return LanguageModel.from_pretrained(config.language_model, device=config.device)
    of_base = Captioner.from_pretrained(config.base, device=config.device).language_model
    of_base.soft_prompt = None
    return of_base


def memory(config: Config, scorer: ImageTextScorer, words: LanguageModel | None) -> CaptionMemory | None:
    """The memory of the options; None where they name no captions.

    Args:
        words: the language model that samples captions, where any are to be sampled.
    """
    texts = sentences(config)
    if config.memory_of is not None:
        other = Captioner.from_pretrained(config.memory_of).memory
        texts += [] if other is None else other.texts[: config.memory_of_size]
    if config.memory_samples and words is not None:
        texts += sampled(config, words)
    if not texts:
        return None
    encoded = encode(config, scorer, list(dict.fromkeys(texts)))
    return encoded if config.memory_width is None else encoded.reduced(config.memory_width)


def sampled(config: Config, words: LanguageModel) -> list[str]:
    """Captions of a language model, of an earlier run where it came so far."""
    count, temperature = config.memory_samples, config.sampling_temperature

    def sample() -> list[str]:
        with tqdm(total=count, desc="sampling captions", disable=None) as bar:
            return sample_captions(
                words, count, temperature=temperature, seed=config.seed, on_progress=bar.update
            )

    key = digest(fingerprint(words.network), count, temperature, config.seed)
    return load_or_write(Path(config.out, KEPT, f"samples-{key}.json"), sample)


def encoded(scorer: ImageTextScorer, texts: list[str]) -> torch.Tensor:
    """Vectors (N, D) of captions, on the processor."""
    return scorer.encode_texts(texts).cpu()


def encode(config: Config, scorer: ImageTextScorer, texts: list[str]) -> CaptionMemory:
    """A memory of captions, block by block; blocks of an earlier run are read."""
    vectors = []
    with tqdm(total=len(texts), desc="encoding them", disable=None) as bar:
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            path = Path(config.out, KEPT, f"vectors-{digest(scorer.fingerprint, block)}.pt")
            vectors.append(load_or_compute(path, partial(encoded, scorer, block)))
            bar.update(len(block))
    return CaptionMemory(texts, torch.cat(vectors).to(scorer.device), bits=config.memory_bits)


def sentences(config: Config) -> list[str]:
    """The caption text of the memory."""
    held_out = {
        text
        for path in config.memory_held_out
        for text in read_sentences(path, splits=("dev", "val", "test"), held_out=())
    }
    texts = dict.fromkeys(text for path in config.memory_text for text in read_sentences(path))
    chosen = [text for text in texts if text not in held_out]
    if config.memory_size is not None and config.memory_size < len(chosen):
        chosen = random.Random(config.seed).sample(chosen, config.memory_size)
    return chosen


if __name__ == "__main__":
    run(main, Config)
