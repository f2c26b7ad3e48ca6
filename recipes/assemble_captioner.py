"""Put a tuned language model and a trained scorer into one captioner folder, ready for ``--preset FOLDER``.

    python recipes/assemble_captioner.py --language_model runs/language_model/best \\
        --scorer runs/scorer/best --out magicap/embedded --dtype float16 --memory_samples 100000

A README.md that lies in the folder (the model card) is left as it is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from cli import run
from tqdm import tqdm

from magicap import BeamMagicSearch, Captioner, CaptionMemory, ImageTextScorer, LanguageModel, MagicSearch
from magicap.captioners.presets import DEFAULT
from magicap.data import read_sentences
from magicap.retrieval.sampled_captions import sample_captions


@dataclass(frozen=True)
class Config:
    scorer: str = field(metadata={"help": "folder, hf-hub: id or open_clip name of a scorer"})
    out: str = field(metadata={"help": "folder to write"})
    language_model: str | None = field(
        default=None,
        metadata={
            "help": "folder or hub id of a causal language model, with its soft prompt if it has one; "
            "default: that of --base, without"
        },
    )
    base: str = field(
        default=DEFAULT, metadata={"help": "preset or captioner's folder whose language model is taken"}
    )
    scorer_tag: str | None = field(
        default=None, metadata={"help": "open_clip's tag, where the scorer is a name"}
    )
    dtype: str = field(
        default="float16", metadata={"help": "of the stored weights: float16, bfloat16 or float32"}
    )
    memory_samples: int = field(
        default=0, metadata={"help": "captions of the memory that the language model is to sample"}
    )
    sampling_temperature: float = field(default=0.8, metadata={"help": "at which it samples them"})
    memory_text: list[str] = field(
        default_factory=list, metadata={"help": "caption text for the memory (train split)"}
    )
    memory_of: str | None = field(
        default=None, metadata={"help": "preset or captioner's folder whose memory is taken too"}
    )
    memory_of_size: int | None = field(
        default=None, metadata={"help": "of these at most so many, its first; default: all"}
    )
    memory_size: int | None = field(
        default=None, metadata={"help": "captions of --memory_text at most, chosen at random; default: all"}
    )
    memory_held_out: list[str] = field(
        default_factory=list,
        metadata={"help": "data sets whose dev, val and test captions are left out, word for word"},
    )
    memory_bits: int = field(
        default=8, metadata={"help": "bits of a number of their vectors on disk: 8 or 4"}
    )
    memory_width: int | None = field(
        default=None,
        metadata={"help": "dimensions of the subspace that their vectors are reduced to; default: all"},
    )
    neighbours: int = field(
        default=BeamMagicSearch.neighbours, metadata={"help": "captions of the memory that are the evidence"}
    )
    temperature: float = field(
        default=BeamMagicSearch.temperature,
        metadata={"help": "of its weights, in standard deviations of cosines"},
    )
    ngram_weight: float = field(
        default=BeamMagicSearch.ngram_weight,
        metadata={"help": "interpolation weight of the retrieval n-gram model of the evidence"},
    )
    seed: int = field(default=1, metadata={"help": "of the samples, and of the choice of text"})
    top_k: int = field(default=MagicSearch.top_k, metadata={"help": "candidates a step"})
    alpha: float = field(default=MagicSearch.alpha, metadata={"help": "weight of the degeneration penalty"})
    beta: float = field(default=MagicSearch.beta, metadata={"help": "weight of the picture"})
    max_new_tokens: int = field(
        default=MagicSearch.max_new_tokens, metadata={"help": "longest caption, in tokens"}
    )


def main(config: Config) -> None:
    captioner = Captioner(
        language_model(config),
        ImageTextScorer.from_pretrained(config.scorer, config.scorer_tag),
        MagicSearch(config.top_k, config.alpha, config.beta, config.max_new_tokens),
    )
    captioner.memory = memory(captioner, config)
    if captioner.memory is not None:
        captioner.decoding = BeamMagicSearch(
            neighbours=config.neighbours,
            temperature=config.temperature,
            ngram_weight=config.ngram_weight,
            max_new_tokens=config.max_new_tokens,
            soft_prompt=captioner.language_model.soft_prompt is not None,
        )
    captioner.save_pretrained(config.out, dtype=config.dtype)


def language_model(config: Config) -> LanguageModel:
    """That of the options; a base's without its soft prompt, which reads only the base's scorer."""
    if config.language_model is not None:
        return LanguageModel.from_pretrained(config.language_model)
    of_base = Captioner.from_pretrained(config.base).language_model
    of_base.soft_prompt = None
    return of_base


def memory(captioner: Captioner, config: Config) -> CaptionMemory | None:
    """The memory of the options; None where they name no captions."""
    texts = sentences(config)
    if config.memory_of is not None:
        other = Captioner.from_pretrained(config.memory_of).memory
        texts += [] if other is None else other.texts[: config.memory_of_size]
    if config.memory_samples:
        with tqdm(total=config.memory_samples, desc="sampling captions", disable=None) as bar:
            texts += sample_captions(
                captioner.language_model,
                config.memory_samples,
                temperature=config.sampling_temperature,
                seed=config.seed,
                on_progress=bar.update,
            )
    if not texts:
        return None
    with tqdm(total=len(texts), desc="encoding them", disable=None) as bar:
        encoded = CaptionMemory.from_texts(captioner.scorer, texts, on_progress=bar.update)
    full = CaptionMemory(encoded.texts, encoded.vectors, bits=config.memory_bits)
    return full if config.memory_width is None else full.reduced(config.memory_width)


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
